"""Rows repeated on fresh seeds: inside where only seeds differ, outside where more does; and what is trained for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from circuits.common.errors import UnknownNameError
from circuits.common.text_table import rows_of
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.contrasts import decided, told
from experiments.studies.information import GATES as DECLARED
from experiments.studies.registry import experiment
from experiments.studies.rerun import (
    FEW,
    arms_again,
    fresh_seeds,
    held_to,
    in_words,
    known_elsewhere,
    sentence,
)
from experiments.studies.study import Arm, Experiment
from experiments.studies.table_rows import Row, chosen, table_rows
from experiments.studies.times import compared, speed

HELD = Bundle.open(COMMITTED)
GATES, PLAN = DECLARED.experiment, DECLARED.plan
FACTORS = {"classic": 1.0, "value": 0.6, "key": 0.9}
NOISE = 0.05


def runs_of(seeds: range, rng: np.random.Generator, noise: float = NOISE, **factors: float) -> pd.DataFrame:
    """Times of runs: each seed's own, a factor an arm, and noise."""
    rows = []
    for seed in seeds:
        base = 1000 * np.exp(rng.normal(0, 0.2))
        for arm, factor in (FACTORS | factors).items():
            steps = base * factor * np.exp(rng.normal(0, noise))
            rows.append({"variant": arm, "seed": seed, "steps": steps, "last": 9000.0, "curve": f"{arm} {steps}"})
    return pd.DataFrame(rows).assign(condition="", status="finished")


def rows_from(runs: pd.DataFrame) -> list[Row]:
    return [
        Row(told(of), "", of, row, runs[runs.variant.isin(of)])
        for row in rows_of(speed(runs))
        for of in [(row.variant, row.reference)]
    ]


def again(rows: list[Row], fresh: pd.DataFrame) -> pd.DataFrame:
    return held_to(rows, fresh, {row.name: sorted({*fresh.seed}) for row in rows})


# --- what is said -----------------------------------------------------------------------------------------------------


def test_where_only_the_seeds_differ_no_row_is_outside_in_nineteen_of_twenty() -> None:
    rng, times = np.random.default_rng(0), 40
    whole = [
        (again(rows_from(runs_of(range(8), rng)), runs_of(range(8, 13), rng)).verdict == "inside").all()
        for _ in range(times)
    ]
    assert stats.binomtest(int(np.sum(whole)), times, 0.95).pvalue > 1e-3


def test_what_was_moved_by_four_standard_deviations_is_outside_and_the_others_are_not() -> None:
    rng = np.random.default_rng(1)
    rows = rows_from(runs_of(range(10), rng))
    s = NOISE * np.sqrt(2)  # of the difference of two logarithms
    moved = again(rows, runs_of(range(10, 20), rng, value=FACTORS["value"] * np.exp(4 * s))).set_index("row")
    assert moved.verdict.to_dict() == {"value / classic": "outside", "key / classic": "inside"}
    assert moved.quotient_low["value / classic"] > 1
    assert moved.same_verdict.all(), "it is still sooner, and not as much"
    turned = again(rows, runs_of(range(10, 20), rng, value=1.6)).set_index("row")
    assert (turned.fresh_says["value / classic"], turned.same_side["value / classic"]) == ("later", False)


@pytest.mark.parametrize("name", ["controls", "connections", "information", "lm", "streams-paper", "optimisers"])
def test_committed_runs_themselves_are_inside_and_say_the_same(name: str) -> None:
    rows = table_rows(HELD, experiment(name))
    fresh = pd.concat([row.runs for row in rows]).drop_duplicates(["condition", "variant", "seed"])
    seeds = {row.name: sorted({*row.runs.seed}) for row in rows}
    found = held_to(rows, fresh, seeds)
    assert found[["fresh_ratio", "quotient"]].to_numpy() == pytest.approx(
        np.stack([found.ratio, np.ones(len(found))], axis=1)
    )
    assert (found.verdict == "inside").all()
    assert found.same_side.all()
    assert (found.quotient_low <= 1).all()
    assert list(found.fresh_pairs) == list(found.pairs)


def test_inside_is_where_the_quotients_interval_holds_one() -> None:
    rng = np.random.default_rng(2)
    found = pd.concat(
        [again(rows_from(runs_of(range(4), rng)), runs_of(range(4, 7), rng, value=0.65, key=0.8)) for _ in range(12)]
    )
    one, within = (
        (found.quotient_low <= 1) & (found.quotient_high >= 1),
        (found.predicted_low <= found.fresh_ratio) & (found.fresh_ratio <= found.predicted_high),
    )
    assert list(one) == list(within) == list(found.verdict == "inside")
    assert {*found.verdict} == {"inside", "outside"}


def test_a_censored_run_counts_up_to_its_last_step_and_none_that_gets_there_is_said() -> None:
    rng = np.random.default_rng(4)
    rows, fresh = rows_from(runs_of(range(6), rng)), runs_of(range(6, 10), rng)
    late = fresh.assign(steps=fresh.steps.where((fresh.variant != "key") | (fresh.seed > 6)))
    found = again(rows, late).set_index("row")
    assert found.fresh_ratio["key / classic"] > 1.5, "one of four counts with 9,000 steps"
    assert found.verdict.to_dict() == {"value / classic": "inside", "key / classic": "outside"}
    never = again(rows, fresh.assign(steps=float("nan")))
    assert {*never.verdict} == {*never.fresh_says} == {FEW}
    assert never.quotient.isna().all()
    assert "of 2 rows fall inside" in sentence(never)
    assert in_words(never)["fresh"].str.startswith("-").all()


# --- rows, seeds, arms ------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_table_and_of_a_plan_its_interaction_too() -> None:
    controls = table_rows(HELD, experiment("controls"))
    table = compared(HELD, experiment("controls"))
    assert [row.said.ratio for row in controls] == list(table.ratio[table.ratio.notna()])
    declared = table_rows(HELD, GATES)
    assert [row.said.ratio for row in declared] == list(decided(PLAN, GATES, HELD).ratio)
    assert declared[-1].name == "(value / value-stop) / (value-gradient-only / classic)"
    assert len(declared[-1].arms) == 4


def test_a_row_without_its_condition_is_that_of_all() -> None:
    rows = table_rows(HELD, experiment("connections"))
    assert [row.condition for row in chosen(rows, ["value / classic"])] == ["2 layers", "3 layers", "4 layers"]
    assert [row.pairs for row in chosen(rows, ["4 layers: key / classic", "2 layers: key / classic"])] == [4, 5]
    assert chosen(rows, []) == rows
    assert len(chosen(rows, ["value / classic", "3 layers: value / classic"])) == 3
    with pytest.raises(UnknownNameError, match="did you mean '4 layers: key / classic'"):
        chosen(rows, ["4 layer: key / classic"])


def test_new_seeds_are_the_first_that_no_run_has_as_many_as_a_row_has_pairs() -> None:
    asked = experiment("connections")
    rows = chosen(table_rows(HELD, asked), ["key / classic"])
    found = fresh_seeds(HELD, asked, rows)
    assert [found[row.name] for row in rows] == [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [5, 6, 7, 8]]
    assert {*map(tuple, fresh_seeds(HELD, asked, rows, n=2).values())} == {(5, 6)}
    assert fresh_seeds(HELD, GATES, table_rows(HELD, GATES), n=12)["value / classic"] == [*range(10), 28, 29]


@pytest.mark.parametrize(
    ("numbers", "n", "message"),
    [
        ([3, 40], None, r"the seeds \[3\] are not fresh"),
        ([40], None, "two fresh seeds or more, got 1"),
        ([], 1, "two fresh seeds or more, got 1"),
        ([], 0, "two fresh seeds or more, got 0"),
        ([40, 40], None, "each seed counts once"),
        ([-1, 40], None, "from 0 on"),
        ([40, 41], 2, "leave it out where seeds are named"),
    ],
)
def test_seeds_that_are_not_fresh_or_too_few_are_refused(numbers: list[int], n: int | None, message: str) -> None:
    asked = experiment("controls")
    with pytest.raises(ValueError, match=message):
        fresh_seeds(HELD, asked, table_rows(HELD, asked), numbers, n)


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("controls", [3, 8]), ("optimisers", [1]), ("information", [11]), ("streams-paper", [4]), ("lm", [2])],
)
def test_an_arm_with_a_seed_of_the_experiment_is_the_experiments_own(name: str, seeds: list[int]) -> None:
    asked = experiment(name)
    rows = table_rows(HELD, asked)
    own = {(arm.condition, arm.config.id) for arm in asked.arms()}
    found = arms_again(asked, rows, {row.name: seeds for row in rows})
    assert found
    others = {arm.label for arm in found if (arm.condition, arm.config.id) not in own}
    # At the paper's size some seeds of these two go on longer.
    assert others <= ({"classic", "value"} if name == "streams-paper" else set())
    fresh = arms_again(asked, rows, {row.name: [99] for row in rows})
    assert {(a.condition, a.label) for a in fresh} == {arm for row in rows for arm in row.arms}
    assert not {arm.config.id for arm in fresh} & {*HELD.runs.run}
    assert all(len({a.config.task for a in fresh if a.condition == c}) == 1 for c in {a.condition for a in fresh})


def test_that_others_have_such_runs_is_told() -> None:
    asked = experiment("controls")
    rows = chosen(table_rows(HELD, asked), ["value / classic"])
    arms = arms_again(asked, rows, {rows[0].name: [12, 99]})
    assert known_elsewhere(HELD, arms) == [12], "the plan of gates has it"
    assert known_elsewhere(HELD, [arm for arm in arms if arm.config.seed == 99]) == []


def test_what_has_no_times_or_no_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="lm-nested has no table of times: its runs did not log accuracy on ic"):
        table_rows(HELD, experiment("lm-nested"))
    with pytest.raises(UnknownNameError, match="unknown experiment in the bundle 'mine'"):
        table_rows(HELD, Experiment("mine", lambda size: []))
    more = replace(GATES, declared=GATES.declared + 1)
    with pytest.raises(
        ValueError, match=r"information has no table yet: 108 of 109 runs .* 'valuestream sweep information'"
    ):
        table_rows(HELD, more)


def test_what_the_table_prints_without_a_ratio_is_no_row() -> None:
    asked = experiment("connections")
    table = compared(HELD, asked)
    named = set(table.variant[table.same_as != ""])
    assert {"cumulative", "resformer-sparse", "resformer-dense"} <= named
    rows = table_rows(HELD, asked)
    assert len(rows) == table.ratio.notna().sum() == ((table.same_as == "") & (table.pairs >= 2)).sum()
    assert "2 layers: cumulative / classic" not in {row.name for row in rows}


def test_of_one_seed_variants_begin_with_the_same_weights() -> None:
    rows = chosen(table_rows(HELD, experiment("controls")), ["value / classic"])
    arms = arms_again(experiment("controls"), rows, {"value / classic": [40, 41]})
    made: dict[Any, Any] = {(arm.label, arm.config.seed): initial(arm) for arm in arms}
    for seed in (40, 41):
        ours, theirs = made["value", seed], made["classic", seed]
        assert all(ours[name].equal(theirs[name]) for name in {*ours} & {*theirs})
    name = "blocks.1.attn.W_V"
    assert not made["value", 40][name].equal(made["value", 41][name])


def initial(arm: Arm) -> Any:
    """The weights from which an arm is trained."""
    from circuits import HookedStreamTransformer

    return HookedStreamTransformer(arm.config.model, seed=arm.config.seed).state_dict()
