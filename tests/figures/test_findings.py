"""Titles say what the frames say, and something else of frames that say something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import over_seeds, survival_curves
from figures.trainings.learning import learning_curves, run_curves
from figures.trainings.progress import PROGRESS, progress_measures
from figures.trainings.thresholds import sensitivity
from figures.trainings.times import gradient_share_curves, survival
from figures.trainings.verdicts import finding
from figures.words import MOST, fitting, listed


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


def test_titles_fit() -> None:
    assert fitting("x" * (MOST + 1), "short") == "short"
    assert fitting("long " * 9, "short") == "long " * 9
    assert [listed(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
