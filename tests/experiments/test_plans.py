"""Declared studies: contrasts are judged as the plan says, interactions too, and what departs from a plan is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy
import torch

from circuits.common.text_table import rows_of
from circuits.model import HookedStreamTransformer
from circuits.presets import parameter_count
from experiments.runs.run import Run
from experiments.studies import controls, language_model_sources, optimisers, sources
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.contrasts import decided, decided_picture, departures, judged, plan_blocks
from experiments.studies.information import GATES as DECLARED
from experiments.studies.interference import study as interference
from experiments.studies.plan import PLANS, Contrast, Plan
from experiments.studies.registry import EXPERIMENTS, STUDIES
from experiments.studies.times import times, verdict

GATES, PLAN = DECLARED.experiment, DECLARED.plan
FACTORS = {"classic": 1.0, "value": 0.5, "value-stop": 0.55, "value-gradient-only": 1.0}
SEEDS = range(10, 28)
FOUR = replace(
    PLAN,
    arms=tuple(FACTORS),
    contrasts=tuple(c for c in PLAN.contrasts if {*c.of} <= {*FACTORS}),
)
STORIES = {
    "value / classic": "sooner",
    "value-stop / classic": "sooner",
    "value / value-stop": "not told apart",
    "x0 / classic": "sooner",
    "x0 / value": "later",
}
"""What the README says of language models."""


def runs_of(factors: dict[str, float], noise: float = 0.02, spread: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Times of runs: a step a seed of its own, a factor an arm, and noise."""
    rng = np.random.default_rng(seed)
    bases = 1000 * np.exp(rng.normal(0, spread, len(SEEDS)))
    rows = [
        {"variant": arm, "seed": s, "steps": base * factor * np.exp(rng.normal(0, noise)), "last": 3000}
        for arm, factor in factors.items()
        for s, base in zip(SEEDS, bases, strict=True)
    ]
    found = pd.DataFrame(rows).assign(condition="", status="finished")
    return found.assign(curve=found.variant + found.seed.astype(str))


def test_contrasts_are_the_ratios_of_their_arms_and_the_interaction_theirs() -> None:
    table = {row.contrast: row for row in rows_of(judged(FOUR, runs_of(FACTORS)))}
    stop = table["value-stop / classic"]
    both = table["(value / value-stop) / (value-gradient-only / classic)"]
    assert stop.low < 0.55 < stop.high < 1
    assert both.ratio == pytest.approx(
        table["value / value-stop"].ratio / table["value-gradient-only / classic"].ratio, rel=1e-9
    )
    assert both.low < 0.5 / 0.55 < both.high < 1
    assert verdict(both) == "sooner"


def test_an_interaction_is_the_t_test_of_the_four_logarithms() -> None:
    runs = runs_of(FACTORS, spread=0.01)
    row = judged(FOUR, runs).iloc[-1]
    logs = np.log(runs.pivot(index="seed", columns="variant", values="steps"))
    sums = logs["value"] - logs["value-stop"] - logs["value-gradient-only"] + logs["classic"]
    ends = scipy.stats.ttest_1samp(sums, 0).confidence_interval(1 - 0.05 / len(FOUR.contrasts))
    # Means of steps and of their logarithms agree to first order in what seeds differ by.
    assert np.log([row.low, row.ratio, row.high]) == pytest.approx([ends.low, sums.mean(), ends.high], abs=0.002)


def test_where_gradient_and_values_do_not_interact_it_is_the_same_and_of_few_seeds_not_told_apart() -> None:
    none = FACTORS | {"value-gradient-only": 0.5 / 0.55}
    row = judged(FOUR, runs_of(none)).iloc[-1]
    assert verdict(row) == "the same within 5%"
    few = runs_of(none, noise=0.3).query("seed < 13")
    assert verdict(judged(FOUR, few).iloc[-1]) == "not told apart"


def test_the_family_of_a_plan_is_all_its_contrasts() -> None:
    runs = runs_of(FACTORS | {"value": 0.54})
    every, one = judged(FOUR, runs).iloc[0], judged(replace(FOUR, contrasts=FOUR.contrasts[:1]), runs).iloc[0]
    assert every.p_adjusted == pytest.approx(min(1.0, len(FOUR.contrasts) * one.p_adjusted))


def test_what_departs_from_a_plan_is_told() -> None:
    whole = pd.DataFrame([{"variant": arm, "seed": s, "status": "finished"} for arm in PLAN.arms for s in SEEDS])
    assert departures(PLAN, whole) == []
    other = pd.concat([whole[~((whole.variant == "value") & (whole.seed == 12))], whole.tail(1).assign(seed=99)])
    told = departures(PLAN, other)
    assert told == [
        "value lacks the seeds [12].",
        "value, gradient x3 has the seeds [99], which were not declared.",
    ]
    failed = departures(PLAN, whole.assign(status=["failed", *["finished"] * (len(whole) - 1)]))
    assert failed == ["1 runs diverged; they count as never getting there."]


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_can_be_read(path: Any) -> None:
    plan = Plan.read(path.stem)
    assert plan.core_hours > 0
    assert len(plan.seeds) == plan.n_seeds


def test_a_plan_whose_contrasts_are_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"these are none: \['key'\]"):
        replace(PLAN, contrasts=(Contrast("what", ("key", "classic")),))
    with pytest.raises(ValueError, match="of two arms or of four"):
        Contrast("what", ("key", "classic", "value"))
    with pytest.raises(ValueError, match="the threshold that decides is one of"):
        replace(PLAN, primary=0.42)


def test_the_arms_are_the_plans_and_doses_change_the_gradient_alone() -> None:
    arms = GATES.arms("full")
    assert [arm.label for arm in arms[:6]] == list(PLAN.arms)
    assert {arm.config.seed for arm in arms} == set(SEEDS)
    value, dose = (next(a.config for a in arms if a.label == name) for name in ("value", "value, gradient x3"))
    [stream] = dose.model.streams
    assert stream.gradient == 3
    assert (replace(stream, gradient=1.0),) == value.model.streams
    assert dose.training == value.training


def test_arms_that_went_the_same_way_have_no_ratio_and_are_no_part_of_the_family() -> None:
    runs = runs_of(FACTORS)
    twin = runs[runs.variant == "classic"].assign(variant="value-gradient-only")
    alike = pd.concat([runs[runs.variant != "value-gradient-only"], twin])
    pairs = replace(FOUR, contrasts=tuple(c for c in FOUR.contrasts if len(c.of) == 2))
    table = {row.contrast: row for row in rows_of(judged(pairs, alike))}
    same = table["value-gradient-only / classic"]
    assert same.same_as == "classic"
    assert np.isnan(same.ratio)
    assert verdict(same) == "is classic"
    one = judged(replace(pairs, contrasts=(pairs.contrasts[0],)), alike).iloc[0]
    first = table["value / value-stop"]
    assert first.same_as == ""
    assert first.p_adjusted == pytest.approx((len(pairs.contrasts) - 1) * one.p_adjusted)


def test_a_contrast_declared_twice_is_named_and_counts_twice() -> None:
    runs = runs_of(FACTORS)
    twin = runs[runs.variant == "value"].assign(variant="value-stop")
    alike = pd.concat([runs[runs.variant != "value-stop"], twin])
    of = (("value", "classic"), ("value-stop", "classic"), ("value-gradient-only", "classic"))
    of += (("value-stop", "value-gradient-only"), ("value", "value-gradient-only"))
    four = (*of[2], *of[0]), (*of[2], *of[1])
    plan = replace(FOUR, contrasts=tuple(Contrast(f"contrast {i}", pair) for i, pair in enumerate((*of, *four))))
    table = judged(plan, alike)
    assert table.same_as.tolist() == ["", "value", "", "", "value-stop", "", table.contrast.iloc[5]]
    assert table.ratio.isna().tolist() == [bool(name) for name in table.same_as]
    assert verdict(table.iloc[1]) == "is value"
    one = judged(replace(plan, contrasts=plan.contrasts[:1]), alike).iloc[0]
    assert table.iloc[0].p_adjusted == pytest.approx(7 * one.p_adjusted)
    assert judged(plan, runs).same_as.tolist() == [""] * 7


def censored_beyond(runs: pd.DataFrame, share: dict[str, float]) -> pd.DataFrame:
    """Times of which in some arms only a share got there."""
    first = {arm: set(SEEDS[: round(part * len(SEEDS))]) for arm, part in share.items()}
    there = [row.variant not in first or row.seed in first[row.variant] for row in rows_of(runs)]
    return runs.assign(steps=runs.steps.where(pd.Series(there, index=runs.index)))


def test_where_too_few_got_there_no_ratio_is_told_and_never_that_two_are_the_same() -> None:
    never = judged(FOUR, censored_beyond(runs_of(FACTORS), dict.fromkeys(FACTORS, 0.0)))
    assert never.ratio.isna().all()
    assert {verdict(row) for row in rows_of(never)} == {"too few got there"}
    few = judged(FOUR, censored_beyond(runs_of(FACTORS), dict.fromkeys(FACTORS, 0.1)))
    assert not any(verdict(row).startswith("the same") for row in rows_of(few))
    assert few.ratio.notna().all(), "this plan declared no least share"


@pytest.mark.parametrize(("share", "told"), [(0.7, False), (0.9, True)])
def test_a_plan_may_want_that_most_runs_of_an_arm_get_there(share: float, told: bool) -> None:
    plan = replace(FOUR, least_reached=0.8)
    table = judged(plan, censored_beyond(runs_of(FACTORS), {"value-stop": share}))
    without = [row.contrast for row in rows_of(table) if verdict(row) == "too few got there"]
    assert without == ([] if told else [row.contrast for row in rows_of(table) if "value-stop" in row.contrast])


def test_plans_that_declared_what_decides_where_few_get_there_say_so_in_numbers() -> None:
    declared = {path.stem: Plan.read(path.stem) for path in PLANS.glob("*.toml")}
    worded = {name for name, plan in declared.items() if "fewer than four in five runs of an arm" in plan.analysis}
    assert worded == {name for name, plan in declared.items() if plan.least_reached == 0.8} != set()
    blocks = {block.name for study in STUDIES.values() for block in study.blocks}
    assert {f"{name}-finals" for name in worded} <= blocks


def test_of_a_study_whose_runs_mostly_did_not_get_there_the_page_says_what_decides() -> None:
    bundle, declared = Bundle.open(COMMITTED), language_model_sources.SOURCES
    main, by_threshold, _ = plan_blocks(replace(declared.plan, least_reached=0.95), declared.experiment)
    said = main.text(bundle)
    assert (
        "Fewer than 95% of the runs of value-gradient-only and token tables got to 50%, so that, as was declared, "
        "final values decide what is said of them."
    ) in said
    assert said.count("too few got there") == 5
    at_each = by_threshold.text(bundle)
    assert "| values of the token by tables | 0.583 [0.493, 0.689] | too few got there |" in at_each
    usual = plan_blocks(declared.plan, declared.experiment)[0].text(bundle)
    assert "final values decide" not in usual
    assert "too few got there" not in usual


def test_arms_that_share_no_two_seeds_are_refused() -> None:
    runs = runs_of(FACTORS)
    alone = runs[(runs.variant != "value") | (runs.seed == SEEDS[0])]
    with pytest.raises(
        ValueError, match=r"two or more that all of its arms have, got \[10\]: train what is missing of"
    ):
        judged(FOUR, alone)


def test_where_all_went_alike_every_row_says_as_whose() -> None:
    runs = runs_of(FACTORS)
    classic = runs[runs.variant == "classic"]
    alike = pd.concat([classic.assign(variant=arm) for arm in FACTORS])
    two = replace(FOUR, contrasts=tuple(c for c in FOUR.contrasts if len(c.of) == 2))
    table = judged(two, alike)
    assert table.ratio.isna().all()
    assert [verdict(row) for row in rows_of(table)] == [f"is {c.of[1]}" for c in two.contrasts]


def test_fewer_runs_than_declared_say_nothing() -> None:
    bundle = Bundle.open(COMMITTED)
    assert GATES.trained(bundle)
    more = replace(GATES, declared=GATES.declared + 1)
    assert not more.trained(bundle)
    texts = [block.text(bundle) for block in plan_blocks(PLAN, more)]
    assert texts[0] == "108 of 109 runs are trained; nothing is concluded of fewer than were declared."
    assert texts[1] == texts[0]
    assert not decided_picture("information", PLAN, more).drawable(bundle)
    none = replace(GATES, name="never trained")
    assert plan_blocks(PLAN, none)[0].text(bundle).startswith("0 of 108 runs")
    assert "None is trained yet." in plan_blocks(PLAN, none)[2].text(bundle)


def test_the_page_of_sources_says_how_many_parameters_its_arms_have() -> None:
    page = sources.STUDY.page.read_text("utf-8")
    told = dict(re.findall(r"^\| ([^|]+) \| ([\d,]+) \|$", page, re.MULTILINE))
    of_arm = {arm.label: parameter_count(arm.config.model) for arm in sources.SOURCES.experiment.arms()}
    for names, number in told.items():
        for name in re.split(r", (?!second|deeper)", names.replace(", and its gates and gradients", "")):
            assert of_arm.pop(name) == int(number.replace(",", "")), name
    assert {re.split("-|, gradient", arm)[0] for arm in of_arm} == {"value", "x0"}
    assert (
        of_arm["x0-stop"] == of_arm["x0, gradient x3"] == int(told["x0, and its gates and gradients"].replace(",", ""))
    )


@pytest.mark.parametrize("n_layers", [3, 4])
def test_the_readers_and_sources_of_deep_arms_are_those_of_their_names(n_layers: int) -> None:
    for arm in sources.DEEP[n_layers].experiment.arms():
        streams = arm.config.model.streams
        if arm.label == "classic":
            assert streams == ()
            continue
        [stream] = streams
        readers = [layer for layer in range(n_layers) if stream.topology.sources(layer)]
        reader, _, source = arm.label.split()
        assert readers == (list(range(1, n_layers)) if reader == "all" else [int(reader)])
        read = [stream.topology.sources(layer) for layer in readers]
        if source == "x0":
            assert stream.tables_of == "x0"
            assert len({*read}) == len(readers)
        else:
            assert read == [(0,) if source == "first" else (layer - 1,) for layer in readers]


def test_the_matrix_of_x0_reads_the_first_layers_input_and_nothing_else(tmp_path: Path) -> None:
    [arm] = [a for a in sources.SOURCES.experiment.arms() if a.label == "x0 alone" and a.config.seed == 28]
    model, batch = (
        HookedStreamTransformer(arm.config.model),
        Run.at(tmp_path, arm.config).task().sample(4, "ic", seed=0),
    )
    _, cache = model.run_with_cache(batch.inputs)
    untied = model.get_parameter("blocks.0.attn.W_V_stream")
    start = cache["blocks.0.hook_resid_pre"]
    assert torch.allclose(cache["blocks.1.attn.hook_v_mixed"], torch.einsum("bpd,hde->bphe", start, untied), atol=1e-6)


def test_the_arms_that_are_duller_have_what_their_names_say_and_nothing_else() -> None:
    arms = {arm.label: arm.config for arm in controls.AGAIN.experiment.arms() if arm.config.seed == 48}
    assert [*arms] == list(controls.AGAIN.plan.arms)
    for label, config in arms.items():
        model, plain = config.model, arms[label.partition(",")[0]].model
        rates = {rate.begins: rate.factor for rate in config.training.rates}
        assert rates == ({controls.V1: float(label[-1]), controls.V2: float(label[-1])} if "rate" in label else {})
        bare = replace(config.training, rates=())
        assert bare == arms["classic"].training
        assert replace(model, name="", streams=(), starts=()) == replace(plain, name="", streams=())
        assert (len(model.streams), bool(model.starts)) == (
            int("value" in label),  # "values" of classic are multiplied by a stream that brings nothing
            "starts as" in label,
        )
    with pytest.raises(ValueError, match="no arm is made as 'classic, V3 x2' says"):
        controls._again("classic, V3 x2", 0)


@pytest.mark.parametrize("by", [0.5, 2.0])
def test_values_that_are_multiplied_are_multiplied_and_nothing_comes_in(by: float, tmp_path: Path) -> None:
    arms = {arm.label: arm.config for arm in controls.AGAIN.experiment.arms() if arm.config.seed == 48}
    inputs = Run.at(tmp_path, arms["classic"]).task().sample(4, "ic", seed=0).inputs
    at = {}
    for label in ("classic", f"classic, values x{by:g}", "value", f"value, stream x{by:g}", "value, V2 starts as V1"):
        model = HookedStreamTransformer(arms[label].model)
        _, at[label] = model.run_with_cache(inputs)
        if "V2" in label:
            assert torch.equal(model.get_parameter(controls.V1), model.get_parameter(controls.V2))
    own, used, came = "blocks.1.attn.hook_v", "blocks.1.attn.hook_v_mixed", "blocks.1.attn.hook_v_residual"
    scaled, doubled = at[f"classic, values x{by:g}"], at[f"value, stream x{by:g}"]
    assert torch.allclose(scaled[used], by * at["classic"][own])
    assert torch.allclose(doubled[came], by * at["value"][came])
    assert torch.allclose(doubled[used], doubled[own] + doubled[came], atol=1e-6)


def test_a_miniature_has_nothing_of_what_was_declared_and_asks_nothing_of_it() -> None:
    declared = {name for name, one in EXPERIMENTS.items() if one.declared}
    assert {path.stem for path in PLANS.glob("*.toml")} <= declared
    assert not [name for name in declared if EXPERIMENTS[name].arms("miniature")]
    without = {s.name for s in STUDIES.values() if s.asking and not s.asked("miniature")}
    assert without == {
        s.name for s in STUDIES.values() if s.asking and {e.name for e in s.asking.experiments} & declared
    }
    assert "interference" in without
    assert all(study.asked("full") == study.asking for study in STUDIES.values())


def test_what_the_readme_says_of_declared_studies_is_what_they_found() -> None:
    held = Bundle.open(COMMITTED)
    text = " ".join((COMMITTED.parents[1] / "README.md").read_text("utf-8").split())

    def found(of: Any, contrast: str) -> Any:
        table = decided(of.plan, of.experiment, held)
        return next(row for row in rows_of(table) if row.contrast == contrast)

    assert "bring most of what the stream brings, at both sizes and up to four layers" in text
    two, more = ("value", "x0"), ("all read previous", "all read x0")
    for of, arms in ((sources.SOURCES, two), (sources.PAPER, two), *((of, more) for of in sources.DEEP.values())):
        stream, x0 = (found(of, f"{arm} / classic") for arm in arms)
        assert verdict(stream) == verdict(x0) == "sooner"
        assert (1 - x0.ratio) / (1 - stream.ratio) > 0.75
    assert "where one path into the last is enough" in text
    for n_layers, of in sources.DEEP.items():
        for source in ("previous", "first", "x0"):
            assert verdict(found(of, f"{n_layers - 1} reads {source} / classic")) == "sooner"
    assert "where each model has its best rate of Adam, it is not shown" in text
    tuned = optimisers.TUNED["Adam"]
    for what in ("value / value-stop", "value-gradient-only / classic"):
        assert verdict(found(tuned, what)) == "not told apart"
    assert verdict(found(tuned, "value / classic")) == "sooner"
    assert "in about two fifths of the steps, sooner than with the stream" in text
    cut, against = (found(interference.DECLARED, f"classic, cut / {other}") for other in ("classic", "value"))
    assert 0.37 < cut.ratio < 0.43
    assert verdict(against) == "sooner"
    assert "it is not shown that a layer is better off without values of its own" in text
    alone = [found(sources.PAPER, f"{arm} alone / classic") for arm in ("x0", "value")]
    assert not [row for row in alone if verdict(row) == "sooner"]
    small = (
        "Language models of 0.2 million parameters learn indirect objects sooner with the stream, too, and with its "
    )
    assert f"{small}values alone" in text
    stories = {contrast: found(language_model_sources.SOURCES, contrast) for contrast in STORIES}
    assert {contrast: verdict(row) for contrast, row in stories.items()} == STORIES
    assert "what its gradient adds is shown at one of three thresholds; values of the input bring less" in text
    assert "Of a million, the stream is shown to help at one threshold, and those values at none" in text
    of = language_model_sources.MILLION
    by = [judged(of.plan, times(held, of.experiment, at)).set_index("contrast") for at in of.plan.thresholds]
    sooner = {arm: sum(verdict(table.loc[f"{arm} / classic"]) == "sooner" for table in by) for arm in ("value", "x0")}
    assert sooner == {"value": 1, "x0": 0}


def test_what_the_page_says_of_a_million_parameters_is_what_they_gave() -> None:
    held, of = Bundle.open(COMMITTED), language_model_sources.MILLION
    page = " ".join((COMMITTED.parent / "language_model_sources.md").read_text("utf-8").split())
    by = {at: judged(of.plan, times(held, of.experiment, at)).set_index("contrast") for at in of.plan.thresholds}
    stream = {at: table.loc["value / classic"] for at, table in by.items()}
    assert [verdict(row) for row in stream.values()] == ["not told apart", "not told apart", "sooner"]
    assert f"value has {stream[0.5].ratio:.2f} of classic's steps" in page
    assert f"{stream[0.5].high:.3f}" == "1.001"
    row = stream[0.7]
    assert f"At 70 % it is ({row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}])" in page
    assert (
        "x0, with 6 % more parameters, is the same as classic within 10 %, and later than the stream at every" in page
    )
    assert verdict(by[0.5].loc["x0 / classic"]) == "the same within 10%"
    assert {verdict(table.loc["x0 / value"]) for table in by.values()} == {"later"}
    counts = {arm.label: parameter_count(arm.config.model) for arm in of.experiment.arms()[:3]}
    assert counts["classic"] == counts["value"]
    assert round(100 * (counts["x0"] / counts["classic"] - 1)) == 6
    assert f"Only a ratio of {1 / stream[0.5].smallest:.2f} or less would have shown" in page
    assert "All 30 runs got to 70 %" in page
    assert times(held, of.experiment, 0.7).steps.notna().sum() == 30
    runs = held.arms[held.arms.experiment == of.experiment.name].run
    assert f"They took {held.runs[held.runs.run.isin(runs)].seconds.sum() / 3600:.1f} core-hours" in page


def test_what_the_page_says_of_language_models_is_what_they_gave() -> None:
    held, of = Bundle.open(COMMITTED), language_model_sources.SOURCES
    page = " ".join((COMMITTED.parent / "language_model_sources.md").read_text("utf-8").split())
    by = {at: judged(of.plan, times(held, of.experiment, at)).set_index("contrast") for at in of.plan.thresholds}
    assert "value-stop learns in about four fifths of classic's steps, at every threshold" in page
    assert all(0.78 < table.ratio["value-stop / classic"] < 0.84 for table in by.values())
    assert all(table.p_adjusted["value-gradient-only / classic"] > 0.05 for table in by.values())
    gradient = {at: table.loc["value / value-stop"] for at, table in by.items()}
    assert [row.p_adjusted < 0.05 for row in gradient.values()] == [False, False, True]
    row = gradient[0.7]
    assert f"at 70 % it is ({row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}])" in page
    assert by[0.5].ratio.idxmin() == "first / classic"
    assert f"bring models to 30 % in {by[0.3].ratio['token tables / classic']:.2f} of classic's steps" in page
    assert by[0.3].p_adjusted["token tables / value"] < 0.05
    assert by[0.3].ratio["token tables / value"] < 1
    assert all(by[at].p_adjusted["token tables / classic"] > 0.05 for at in (0.5, 0.7))
    later = [by[at].loc["token tables / value"] for at in (0.5, 0.7)]
    assert all(row.p_adjusted < 0.05 and row.ratio > 1 for row in later)
    told = by[0.5].iloc[-1]
    assert f"({1 / told.smallest:.2f} or {told.smallest:.2f}) would have shown" in page
    late = times(held, of.experiment, 0.5).query("steps != steps").variant
    assert "One run of value-gradient-only and one of the token tables did not get to 50 %" in page
    assert sorted(late) == ["token tables", "value-gradient-only"]
