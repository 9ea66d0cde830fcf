"""Runs of a bundle are those that experiments build today; what is lacking, misnamed or nobody's is named."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.configurations import NOT_TRAINED, PARTLY, checked_experiments, checked_runs, declared
from experiments.studies.freshness import COLUMNS, counted, of_frames, require_fresh, with_made
from experiments.studies.registry import EXPERIMENTS, PICTURES, experiment
from experiments.studies.study import Experiment

HELD = Bundle.open(COMMITTED)
NAMES = ("controls", "streams")


@pytest.fixture(scope="module")
def arms() -> dict[str, Any]:
    return declared(HELD, [experiment(name) for name in NAMES])


def bundle(change: Any = lambda arms: arms, runs: pd.DataFrame | None = None) -> Bundle:
    """The committed bundle with other arms and runs."""
    made = Bundle(COMMITTED, HELD.files)
    held = HELD.arms[HELD.arms.experiment.isin(NAMES)].reset_index(drop=True)
    there = HELD.runs[HELD.runs.run.isin(held.run)]
    vars(made).update(arms=change(held), runs=there if runs is None else runs)
    return made


def told(held: Bundle, arms: Any) -> dict[str, str]:
    found = list(checked_experiments(held, arms))
    assert all(fresh == (why in ("", NOT_TRAINED)) for _, _, fresh, why in found)
    return {name: why for _, name, _, why in found}


def test_what_is_held_is_what_is_declared(arms: Any) -> None:
    assert told(bundle(), arms) == {"controls": "", "streams": ""}
    found = list(checked_runs(bundle(), arms))
    assert all(fresh for *_, fresh, _ in found)
    assert len(found) == len({key[-1] for keys in arms.values() for key in keys})


def test_an_arm_that_is_declared_and_missing_is_named(arms: Any) -> None:
    lacking = bundle(lambda held: held[~((held.variant == "key") & (held.seed.isin([2, 7])))])
    assert told(lacking, arms)["streams"] == (
        "it lacks key (as in the paper) with seed 2, key (as in the paper) with seed 7"
    )
    assert told(bundle(lambda held: held[held.variant != "key"]), arms)["streams"].endswith(" and 7 more")


def test_an_arm_under_another_name_or_condition_is_misnamed(arms: Any) -> None:
    def other(held: pd.DataFrame) -> pd.DataFrame:
        return held.assign(condition=held.condition.where((held.variant != "query") | (held.seed != 1), "elsewhere"))

    assert told(bundle(other), arms)["streams"] == (
        "misnamed: query (elsewhere) with seed 1 is query (as in the paper) with seed 1"
    )


def test_a_run_that_nobody_builds_is_named(arms: Any) -> None:
    one = HELD.runs[HELD.runs.run.isin([key[-1] for key in arms["streams"]])].iloc[:1]
    held = bundle(runs=pd.concat([one, one.assign(run="0123456789ab", name="icl-mine-small-s0-0123456789ab")]))
    stale = [row for row in checked_runs(held, arms) if not row[2]]
    assert stale == [("run", "icl-mine-small-s0-0123456789ab", False, "no experiment builds it")]
    with pytest.raises(ValueError, match=r"(?s)1 of 2 are not what .*run icl-mine-.*: no experiment builds it"):
        require_fresh(pd.DataFrame(list(checked_runs(held, arms)), columns=COLUMNS))
    more = bundle(lambda arms: pd.concat([arms, arms.iloc[:1].assign(experiment="streams", seed=77, run="0" * 12)]))
    assert told(more, arms)["streams"] == "not declared: classic (as in the paper) with seed 77"
    gone = bundle(lambda arms: arms.assign(experiment=arms.experiment.replace("streams", "rivers")))
    assert ("experiment", "rivers", False, "there is no experiment of that name") in list(checked_runs(gone, arms))


def test_what_is_not_there_at_all_is_not_trained_and_not_stale(arms: Any) -> None:
    assert told(bundle(lambda held: held[held.experiment != "streams"]), arms) == {
        "controls": "",
        "streams": NOT_TRAINED,
    }


def test_an_experiment_with_a_plan_may_wait_for_runs_but_has_no_others() -> None:
    arms = declared(HELD, [experiment("information")])

    def held(change: Any = lambda arms: arms) -> Bundle:
        made = Bundle(COMMITTED, HELD.files)
        vars(made).update(arms=change(HELD.arms[HELD.arms.experiment == "information"]), runs=HELD.runs)
        return made

    assert [row[2:] for row in checked_experiments(held(), arms)] == [(True, "")]
    part = held(lambda arms: arms.iloc[:50])
    assert [row[2:] for row in checked_experiments(part, arms)] == [(True, PARTLY)]
    other = held(lambda arms: pd.concat([arms.iloc[:50], arms.iloc[:1].assign(seed=77, run="0" * 12)]))
    [(_, _, fresh, why)] = checked_experiments(other, arms)
    assert not fresh
    assert why == "not declared: classic (as in the paper) with seed 77"


def test_a_miniature_is_held_to_the_miniature() -> None:
    asked = [experiment("streams"), experiment("streams-paper")]
    seeds = {arm.config.seed for arm in experiment("streams").arms("miniature")}
    small = bundle(lambda held: held[(held.experiment == "streams") & held.seed.isin(seeds)])
    assert told(small, declared(small, asked)) == {"streams": "", "streams-paper": ""}
    less = bundle(lambda held: held[(held.experiment == "streams") & held.seed.isin([0, 1])])
    assert "it lacks" in told(less, declared(less, asked))["streams"]


def test_behind_one_figure_is_what_is_checked_of_it() -> None:
    none = pd.DataFrame([], columns=COLUMNS)
    found = with_made(none, HELD, [PICTURES["controls"]])
    assert list(zip(found.kind, found["name"], strict=True)) == [("experiment", "controls")]
    both = with_made(none, HELD, [PICTURES["lm_scaling"]])
    assert {*both.kind} == {"experiment", "frame"}
    assert list(both["name"][both.kind == "frame"]) == ["lm_cost"]


def test_what_is_said_of_what_is_fresh() -> None:
    rows = [
        ("experiment", "a", True, ""),
        ("experiment", "b", True, NOT_TRAINED),
        ("frame", "x", True, "not known: so"),
        ("frame", "y", True, "not known: so"),
        ("frame", "z", True, ""),
    ]
    found = pd.DataFrame(rows, columns=COLUMNS)
    assert counted(found) == ["2 experiments (1 not trained)", "3 frames (2 not known: so)"]
    assert of_frames(found) == ["frames, fresh: z", "frames, not known: so: x, y"]


@pytest.mark.slow
def test_the_committed_bundle_is_of_what_is_trained_today(monkeypatch: pytest.MonkeyPatch) -> None:
    none = pd.DataFrame([], columns=COLUMNS)
    found = with_made(none, HELD)
    require_fresh(found)
    assert {*found.kind} == {"experiment", "run", "frame"}
    monkeypatch.setitem(EXPERIMENTS, "mine", Experiment("mine", experiment("streams").build))
    assert counted(with_made(none, HELD))[0].endswith("(1 not trained)")
