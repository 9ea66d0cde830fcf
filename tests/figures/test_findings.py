"""Titles say what the frames say, and something else of frames that say something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import over_seeds, survival_curves
from figures.models.edges import edge_drawing
from figures.models.head_score_maps import head_score_maps
from figures.models.head_scores import head_scores
from figures.models.heads import composition_panels, head_score_panels
from figures.models.patching import patch_heat_map
from figures.models.paths import path_heat_maps, share_bars
from figures.trainings.learning import learning_curves, run_curves
from figures.trainings.phases import phases
from figures.trainings.progress import PROGRESS, progress_measures
from figures.trainings.thresholds import sensitivity
from figures.trainings.times import gradient_share_curves, survival
from figures.trainings.verdicts import finding
from figures.words import MOST, fitting, listed
from tests.figures.test_model_figures import edges_of, patched
from tests.figures.test_runs_side_by_side import COMPOSED, PATHS, SHARES


def title(figure: Any) -> str:
    return figure.layout.meta["title"]


def learned(at: dict[str, Sequence[int]], measures: Sequence[str] = ("accuracy",)) -> pd.DataFrame:
    """Runs that measure 1 from a step on, and before it what lies on the line from 0; a seed a number."""
    rows = [
        {"variant": v, "seed": seed, "run": f"{v}-{seed}", "step": step, "split": "ic", "measure": measure}
        | {"value": min(1.0, step / there)}
        for v, steps in at.items()
        for seed, there in enumerate(steps)
        for step in range(0, 2_001, 100)
        for measure in measures
    ]
    return over_seeds(pd.DataFrame(rows))


# --- learning curves --------------------------------------------------------------------------------------------------


def test_learning_curves_say_when_each_is_there_and_what_is_not_told_apart() -> None:
    sooner = title(learning_curves(learned({"classic": [1_500, 1_600, 1_700], "value": [500, 550, 600]})))
    assert sooner.startswith("value is at 95% at step 5")
    assert "classic at 1," in sooner
    assert "[" in sooner
    assert "not told apart" not in sooner
    alike = learned({"classic": [1_000, 1_200, 1_400], "value": [900, 1_150, 1_450]})
    assert title(learning_curves(alike)).endswith("value not told apart from classic")


def test_learning_curves_of_one_run_have_no_interval() -> None:
    figure: Any = learning_curves(learned({"value": [500]}))
    assert title(figure) == "value is at 95% at step 475"
    assert "one run a variant" in figure.layout.meta["of"]


def test_learning_curves_say_of_whom_the_threshold_is_not_reached() -> None:
    never = learned({"value": [9_000, 9_500]})
    assert title(learning_curves(never)) == "No curve reaches 95%: value ends at 22%"
    assert "; classic does not" in title(learning_curves(learned({"value": [500, 600], "classic": [9_000, 9_500]})))
    lacking = never.assign(value=np.nan, mean=np.nan, low=np.nan, high=np.nan)
    assert "No curve reaches" in title(learning_curves(lacking))


def test_seeds_are_drawn_where_they_are_few() -> None:
    def thin(n: int) -> int:
        figure: Any = learning_curves(learned({"value": list(range(500, 500 + n))}))
        assert ("Thin lines" in figure.layout.meta["caption"]) == (1 < n <= 5)
        return sum("seed" in (trace.name or "") for trace in figure.data)

    assert [thin(n) for n in (1, 2, 5, 6)] == [0, 2, 5, 0]


def test_progress_compares_half_ways_with_the_reference() -> None:
    sooner = learned({"classic": [1_500, 1_600, 1_700], "value": [500, 550, 600]}, list(PROGRESS))
    assert title(progress_measures(sooner)).startswith("Half way against classic: value sooner in all 4 measures (0.3")
    alike = learned({"classic": [900, 1_200, 1_500], "value": [850, 1_150, 1_550]}, list(PROGRESS))
    assert "value not told apart" in title(progress_measures(alike))
    assert title(progress_measures(learned({"value": [500]}, list(PROGRESS)))).startswith("value is half way")


def test_a_runs_own_curves_say_where_it_ended() -> None:
    metrics = learned({"value": [9_000]})
    figure: Any = run_curves(metrics, "a run")
    assert title(figure) == "The accuracy at step 2,000 is 22% (novel classes: in context)"
    assert "a run" in figure.layout.meta["of"]
    assert all(trace.hovertemplate for trace in figure.data)


# --- ratios -----------------------------------------------------------------------------------------------------------


def row(variant: str = "value", ratio: float = 0.5, **more: Any) -> dict[str, Any]:
    told = {"condition": "a", "variant": variant, "reference": "classic", "ratio": ratio, "p_adjusted": 0.01}
    told |= {"low": ratio * 0.9, "high": ratio * 1.1, "p_equivalent": 1.0, "margin": 1.05, "pairs": 5, "same_as": ""}
    return told | more


def test_ratios_are_told_with_their_intervals_where_there_are_few() -> None:
    assert finding(pd.DataFrame([row()])) == "value 0.50 [0.45, 0.55] times classic's steps"
    open_ = pd.DataFrame([row(p_adjusted=0.4)])
    assert finding(open_) == "value not told apart from classic"
    assert finding(open_.assign(p_equivalent=0.01)) == "value as classic within 5%"
    assert finding(pd.DataFrame([row(ratio=float("nan"))])) == "value too few got there"
    assert finding(pd.DataFrame([row(ratio=float("nan"), same_as="key")])) == "value the same runs as key"
    assert finding(pd.DataFrame([row(ratio=float("nan"), pairs=1)])) == "value too few pairs"


def test_many_ratios_are_counted() -> None:
    rows = [row(f"a variant that is called {i}", 0.3 + 0.05 * i) for i in range(9)]
    said = finding(pd.DataFrame([*rows, row("slow", 2.0), row("open", 0.9, p_adjusted=0.4)]))
    assert said == "9 of 11 sooner and 1 later than classic (most a variant that is called 0, 0.30 times)"
    none = pd.DataFrame(rows).assign(p_adjusted=0.4)
    assert finding(none) == "none of 9 told apart from classic"
    alike = none.assign(p_equivalent=[0.01] * 2 + [1.0] * 7)
    assert finding(alike) == "none of 9 told apart from classic (2 the same within 5%)"
    with_one = pd.DataFrame([*rows, row("a", 1.0, reference="value", p_adjusted=1.0, p_equivalent=0.01)])
    assert finding(with_one).endswith("; a as value within 5%"), "one alone is told"


def test_conditions_are_counted_by_comparison_or_comparisons_by_condition() -> None:
    two = pd.DataFrame([row(condition=c, ratio=r) for c, r in (("a", 0.4), ("b", 0.5))])
    assert finding(two) == "value sooner than classic in all 2 (0.40 to 0.50 times)"
    assert finding(two.assign(p_adjusted=[0.01, 0.4])) == "value sooner than classic in 1 of 2 (0.40 times)"
    assert finding(two.assign(p_adjusted=0.4)) == "value not told apart from classic in any of 2"
    many = pd.DataFrame([row(f"v{i}", condition=c) for c in ("a", "b") for i in range(5)])
    assert finding(many).startswith("a: 5 of 5 sooner than classic")


def test_thresholds_say_whether_the_verdict_depends_on_them() -> None:
    rows = [row(threshold=t, rule="interpolated", experiment="e") for t in (0.5, 0.9)]
    assert title(sensitivity(pd.DataFrame(rows))).startswith("No verdict depends on the threshold")
    changed = pd.DataFrame(rows).assign(p_adjusted=[0.01, 0.4])
    assert title(sensitivity(changed)).startswith("Every verdict of 1 depends")


# --- runs below a threshold, gradients --------------------------------------------------------------------------------


def test_survival_says_when_half_are_there_and_who_never_is() -> None:
    times = pd.DataFrame(
        {"variant": "value", "seed": range(4), "steps": [100.0, 200.0, 300.0, np.nan], "last": [100, 200, 300, 500]}
    )
    assert title(survival(survival_curves(times))).startswith("Half are there by step 200")
    assert title(survival(survival_curves(times))).endswith("1 of value not by 500")
    never = survival_curves(times.assign(steps=np.nan))
    said = "In no variant are half of the runs there; 1 of value not by 500 (3 not followed so far)"
    assert title(survival(never)) == said


def timed(last: Sequence[float], steps: Sequence[float], variant: str = "value") -> pd.DataFrame:
    return pd.DataFrame({"variant": variant, "seed": range(len(last)), "steps": steps, "last": last})


def test_survival_counts_the_runs_that_there_are_and_not_the_share_of_them() -> None:
    """Three of eight get there; the share still below at the end, 0.3, times eight would be two."""
    no = np.nan
    ended = title(survival(survival_curves(timed([20, 30, 40, 90, 300] + [300] * 3, [no] * 4 + [no, 100, 120, 140]))))
    assert ended == "Half are there by step 120 [100, later] (value); 1 of value not by 300 (4 not followed so far)"
    all_there = title(survival(survival_curves(timed([20, 30, 140, 140], [no, no, 100, 140]))))
    assert all_there == "Half are there by step 100 [100, 140] (value); 2 of value not followed to 140"
    followed = title(survival(survival_curves(timed([300] * 5, [no, no, 100, 120, 140]))))
    assert followed.endswith("; 2 of value not by 300"), "of those all is known"
    whole = title(survival(survival_curves(timed([300] * 3, [100, 120, 140]))))
    assert ";" not in whole


def test_survival_of_many_variants_counts_the_runs_of_all() -> None:
    names = [f"a variant that is called {i}" for i in range(4)]
    times = pd.concat([timed([50, 300, 300, 300], [np.nan, np.nan, 100 + i, 120], v) for i, v in enumerate(names)])
    said = f"Half are there first of {names[0]}, last of {names[3]}; 8 runs not known to be"
    assert title(survival(survival_curves(times))) == said
    none = title(survival(survival_curves(times.assign(steps=np.nan))))
    assert none == "In no variant are half of the runs there; 16 runs not known to be"
    assert max(len(said), len(none)) <= MOST


def test_shares_of_the_gradient_are_told_from_start_to_end() -> None:
    shares = (
        learned({"value": [1_000], "value-stop": [1_000]}).assign(run="r").drop(columns=["mean", "low", "high", "n"])
    )
    shares["value"] = np.where(shares.variant == "value", 0.4 - shares.step / 10_000, 0.0)
    told = gradient_share_curves(over_seeds(shares, scale="linear"), weight="W")
    assert title(told) == "Gradient of W through the stream: 40% at first, 20% at last (value); none in value-stop"
    none = gradient_share_curves(over_seeds(shares.assign(value=0.0), scale="linear"), weight="W")
    assert title(none) == "No gradient of W comes through the stream"


# --- phases and heads -------------------------------------------------------------------------------------------------


def restored(shares: dict[tuple[str, str], dict[str, float]]) -> pd.DataFrame:
    """What the stream alone restores, by preset and variant, and by phase."""
    rows = [
        {"preset": preset, "variant": variant, "run": f"{preset}-{variant}", "phase": phase, "value": share}
        for (preset, variant), by in shares.items()
        for phase, share in by.items()
    ]
    what = {"measure": "restored", "what": "the stream", "route": "stream", "low": np.nan, "high": np.nan, "n": 1}
    return pd.DataFrame(rows).assign(**what, mean=lambda t: t["value"])


def test_phases_are_told_of_the_presets_that_have_the_variant() -> None:
    both, lone = {"after": 0.5, "end": 0.25}, {"end": 0.75}

    def said(shares: dict[tuple[str, str], dict[str, float]]) -> str:
        return title(phases(restored(shares), []))

    value = "value's stream alone restores "
    everywhere = value + "0.50 after the transition, 0.25 at the end (a); 0.50, 0.25 (b)"
    assert said({("a", "value"): both, ("b", "value"): both}) == everywhere
    first = value + "0.50 after the transition, 0.25 at the end (a)"
    assert said({("a", "value"): both, ("b", "value"): {"before": 0.1}}) == first
    second = value + "0.50 after the transition, 0.25 at the end (b)"
    assert said({("a", "value"): {"within": 0.1}, ("b", "value"): both}) == second
    mixed = value + "0.50 after the transition, 0.25 at the end (a); 0.75 at the end (b)"
    assert said({("a", "value"): both, ("b", "value"): lone}) == mixed
    other = said({("a", "key"): {"before": 0.1}, ("a", "value"): lone})
    assert other == value + "0.75 at the end (a)", "of key nothing is measured where it would be told"
    assert said({("a", "key"): {"before": 0.1}}) == "What is whole, by phase"


def scored(values: Sequence[float], score: str = "retrieval", variant: str = "value") -> pd.DataFrame:
    frame = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "value": values})
    return frame.assign(score=score, variant=variant, run=variant, step=100, stderr=0.01, n=16)


def test_no_head_is_highest_where_all_are_nothing_and_those_that_share_it_are_all_told() -> None:
    def said(*values: float) -> list[str]:
        frame = scored(values)
        return [title(draw(frame)) for draw in (head_scores, head_score_panels, head_score_maps)]

    curves, panels, maps = said(0.0, 0.004, 0.0, 0.0)
    assert curves == "At the end retrieval: no head, 0.00 (value)"
    assert panels == maps == "No score of any head is 0.005 or more"
    curves, panels, maps = said(0.0, 0.25, 0.0, 0.0)
    assert curves == "At the end retrieval: L0H1, 0.25 (value)"
    assert panels == "L0H1 has 0.25 of 'retrieval'"
    assert maps == "No head of any run scores 0.5 or more; the highest is value's L0H1 (retrieval 0.25)"
    assert said(0.0, 0.25, 0.25, 0.0)[:2] == [
        "At the end retrieval: L0H1 and L1H0, 0.25 (value)",
        "L0H1 and L1H0 have 0.25 of 'retrieval'",
    ]
    assert said(0.25, 0.25, 0.25, 0.0)[:2] == [
        "At the end retrieval: 3 of 4 heads, 0.25 (value)",
        "3 of 4 heads have 0.25 of 'retrieval'",
    ]
    two = pd.concat([scored([0.0, 0.0, 0.75, 0.5]), scored([0.0] * 4, variant="classic")])
    assert title(head_scores(two)) == "At the end retrieval: L1H0 0.75 (value) and no head 0.00 (classic)"
    missing = pd.concat([scored([0.0, 0.0, 0.75, 0.5]), scored([np.nan] * 4, "ila")])
    assert title(head_scores(missing)) == "At the end retrieval: L1H0, 0.75 (value)"


def test_nothing_is_the_largest_of_many_that_are_nothing() -> None:
    for draw, frame, said in (
        (patch_heat_map, patched(0.2).query("component == 'resid_pre'"), "The largest effect is that of resid_pre at"),
        (path_heat_maps, PATHS, "The largest direct path is L10H0 to L11H0.v"),
        (share_bars, SHARES, "No head has an effect by the stream; the largest effect is that of"),
        (edge_drawing, edges_of(0.5), "Edges through the stream have"),
        (composition_panels, COMPOSED, "L0H1 and L1H0 compose most: 0.20"),
    ):
        assert title(draw(frame)).startswith(said), draw
        number = "score" if draw is composition_panels else "effect"
        nothing = title(draw(frame.assign(**{number: 0.004 * frame[number]})))
        assert nothing.startswith("No ")
        assert nothing.endswith(" 0.005 or more")


def test_titles_fit() -> None:
    assert fitting("x" * (MOST + 1), "short") == "short"
    assert fitting("long " * 9, "short") == "long " * 9
    assert [listed(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
