"""Censored times against lifelines, against brute force, and against what they are where nothing is censored."""

from __future__ import annotations

import itertools
import math
from typing import Any

import lifelines
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.statistics import logrank_test
from lifelines.utils import restricted_mean_survival_time
from scipy import stats

from analysis import compare, over_seeds, survival_curves, threshold_table
from analysis.statistics.intervals import mean_interval, paired_ratio
from analysis.statistics.paired_seeds import paired_seeds
from analysis.statistics.survival import (
    Times,
    kaplan_meier,
    logrank_p,
    paired_restricted,
    restricted_mean,
    shared_horizon,
    times_of,
)

# lifelines passes positional arguments that pandas 4 will refuse.
pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0:DeprecationWarning")

SEEDS = range(12)
FEW = settings(max_examples=40)


def drawn(seed: int, n: int = 15, longest: int = 20) -> Times:
    """Times on a coarse grid, so that there are ties, and ties of runs that reach with runs that end."""
    rng = np.random.default_rng(seed)
    due, ends = rng.integers(1, longest, n), rng.integers(4, longest, n)
    return Times(np.minimum(due, ends).astype(float), due <= ends)


def fitted(times: Times) -> Any:
    return lifelines.KaplanMeierFitter().fit(times.steps, times.reached)


def area(curve: Any, horizon: float, **asked: Any) -> Any:
    return restricted_mean_survival_time(curve, t=horizon, **asked)


def frame_of(**by_variant: Times) -> pd.DataFrame:
    rows = [
        (variant, seed, step if reached else math.nan, max(step, 20.0) if reached else step)
        for variant, times in by_variant.items()
        for seed, (step, reached) in enumerate(zip(times.steps, times.reached, strict=True))
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "steps", "last"])


# --- lifelines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_curves_and_bands_are_lifelines(seed: int) -> None:
    times = drawn(seed)
    ours, theirs = kaplan_meier(times).set_index("step"), fitted(times)
    band = theirs.confidence_interval_survival_function_
    at = theirs.survival_function_.index
    np.testing.assert_allclose(ours.survival[at], theirs.survival_function_["KM_estimate"], atol=1e-12)
    np.testing.assert_allclose(ours[["low", "high"]].loc[at], band, atol=1e-9)
    np.testing.assert_array_equal(ours.at_risk[at[1:]], theirs.event_table["at_risk"][at[1:]])
    np.testing.assert_array_equal(ours.events[at], theirs.event_table["observed"][at])


@pytest.mark.parametrize("seed", SEEDS)
def test_log_rank_is_lifelines(seed: int) -> None:
    first, second = drawn(seed), drawn(seed + 100, n=11, longest=25)
    theirs = logrank_test(first.steps, second.steps, first.reached, second.reached)
    assert logrank_p(first, second) == pytest.approx(theirs.p_value, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_restricted_means_are_lifelines(seed: int) -> None:
    times = drawn(seed)
    for horizon in (3.5, 9.0, min(times.known_until, 19.0)):
        assert restricted_mean(times, horizon).mean == pytest.approx(area(fitted(times), horizon), abs=1e-9)


# lifelines integrates the steps numerically; exactly, the next test and that against Student's t hold it.
@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
@pytest.mark.parametrize("seed", SEEDS)
def test_without_censoring_the_variance_is_lifelines_too(seed: int) -> None:
    steps = drawn(seed).steps
    times = Times(steps, np.ones(len(steps), dtype=bool))
    _, variance = area(fitted(times), 9.0, return_variance=True)  # of one run's time
    found = restricted_mean(times, 9.0)
    half = stats.t.ppf(0.975, len(steps) - 1) * math.sqrt(variance / (len(steps) - 1))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_censoring_the_variance_is_greenwoods_integral_over_lifelines_table(seed: int) -> None:
    times, horizon = drawn(seed), 9.0
    curve = fitted(times)
    total, n = 0.0, len(times.steps)
    for step, row in curve.event_table.iterrows():
        if row.observed and step < horizon and row.at_risk > row.observed:
            total += (
                (area(curve, horizon) - area(curve, step)) ** 2
                * row.observed
                / (row.at_risk * (row.at_risk - row.observed))
            )
    found = restricted_mean(times, horizon)
    half = stats.t.ppf(0.975, n - 1) * math.sqrt(total * n / (n - 1))
    assert found.high - found.mean == pytest.approx(half, abs=1e-9)


# --- where nothing is censored, and where it is -----------------------------------------------------------------------


@FEW
@given(st.lists(st.integers(1, 50), min_size=2, max_size=8), st.lists(st.integers(1, 50), min_size=2, max_size=8))
def test_before_any_censoring_restricted_means_are_students(first: list[int], second: list[int]) -> None:
    a, b = (Times(np.array(x, dtype=float), np.array(x) < 30) for x in (first, second))
    a, b = (Times(np.minimum(t.steps, 30.0), t.reached) for t in (a, b))
    mean, plain = restricted_mean(a, 30.0), mean_interval(a.steps)
    assert (mean.mean, mean.low, mean.high) == pytest.approx((plain.mean, plain.low, plain.high), abs=1e-6)


@FEW
@given(st.integers(0, 10_000), st.floats(2.0, 10.0))
def test_exchanging_the_two_turns_the_sign(seed: int, horizon: float) -> None:
    a, b = drawn(seed), drawn(seed + 1)
    horizon = min(horizon, a.known_until, b.known_until)
    paired, reverse = paired_restricted(a, b, horizon), paired_restricted(b, a, horizon)
    there = restricted_mean(a, horizon).mean - restricted_mean(b, horizon).mean
    assert paired.estimate == pytest.approx(-reverse.estimate, abs=1e-9) == there
    np.testing.assert_allclose(paired.scores, -reverse.scores, atol=1e-9)


def test_pairs_before_any_censoring_are_pairs_of_numbers() -> None:
    a = Times(np.array([3.0, 5.0, 9.0, 10.0]), np.array([True, True, True, False]))
    b = Times(np.array([4.0, 10.0, 10.0, 8.0]), np.array([True, False, False, True]))
    found, plain = paired_restricted(a, b, 10.0), paired_seeds(a.steps, b.steps)
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert found.interval("bootstrap") == plain.interval("bootstrap")
    assert found.permutation_p() == plain.permutation_p()
    early = Times(np.array([3.0, 5.0, 4.0, 10.0]), np.array([True, True, False, False]))  # and with censoring, not
    assert paired_restricted(early, b, 10.0).estimate != paired_seeds(early.steps, b.steps).estimate


def test_the_permutation_exchanges_censored_runs_whole() -> None:
    a, b = drawn(3, n=5), drawn(4, n=5)
    horizon = min(a.known_until, b.known_until, 12.0)
    found = []
    for flips in itertools.product([False, True], repeat=5):
        sides = [
            Times(np.where(flips, y.steps, x.steps), np.where(flips, y.reached, x.reached)) for x, y in ((a, b), (b, a))
        ]
        means = [area(fitted(side), horizon) for side in sides]
        found.append(means[0] - means[1])
    wanted = np.mean(np.abs(found) >= abs(found[0]) - 1e-9)
    assert paired_restricted(a, b, horizon).permutation_p() == pytest.approx(wanted)


def test_intervals_of_censored_means_cover_as_often_as_they_say_and_those_without_the_censored_do_not() -> None:
    rng = np.random.default_rng(0)
    horizon, truth = 1.5, 1 - math.exp(-1.5)  # of exponential times: the integral of exp(-t)
    hits = {"one": 0, "paired": 0, "without": 0}
    for _ in range(300):
        due, ends = rng.exponential(1.0, (2, 20)), rng.uniform(0.5, 4.0, (2, 20))
        ends[:, 0] = 4.0  # one run of each is followed past the horizon
        a, b = (Times(np.minimum(d, e), d <= e) for d, e in zip(due, ends, strict=True))
        if min(a.known_until, b.known_until) < horizon:
            continue
        one, plain = restricted_mean(a, horizon), mean_interval(np.minimum(a.steps[a.reached], horizon))
        paired = paired_restricted(a, b, horizon).interval()
        hits["one"] += one.low <= truth <= one.high
        hits["without"] += plain.low <= truth <= plain.high
        hits["paired"] += paired.low <= 0 <= paired.high
    shares = {name: n / 300 for name, n in hits.items()}
    assert all(0.91 <= shares[name] <= 0.99 for name in ("one", "paired")), shares
    assert shares["without"] < 0.9


# --- edges ------------------------------------------------------------------------------------------------------------


def of(steps: list[float], reached: list[bool]) -> Times:
    return Times(np.array(steps, dtype=float), np.array(reached, dtype=bool))


def test_when_nobody_or_everybody_arrives() -> None:
    none, all_at_once = of([10, 10, 10], [False] * 3), of([7, 7, 7], [True] * 3)
    assert kaplan_meier(none).survival.tolist() == [1.0, 1.0]
    assert restricted_mean(none, 10.0).mean == 10.0
    assert kaplan_meier(all_at_once)[["survival", "low", "high"]].to_numpy().tolist() == [[1.0] * 3, [0.0] * 3]
    assert restricted_mean(all_at_once, 10.0).mean == 7.0
    assert logrank_p(none, none) == logrank_p(all_at_once, all_at_once) == 1.0
    assert logrank_p(none, all_at_once) < 0.05
    ends_at_once, later = of([1, 1], [False] * 2), of([float(i) for i in range(2, 51)], [True] * 49)
    assert logrank_p(ends_at_once, later) == 1.0  # no two of them were ever followed together
    apart = paired_restricted(all_at_once, none, 10.0)
    assert (apart.estimate, apart.t_p()) == (-3.0, 0.25)
    assert math.isnan(apart.interval().high), "three pairs that all differ alike"


def test_a_run_that_starts_above_the_threshold() -> None:
    times = of([0, 5], [True, True])
    assert kaplan_meier(times).step.tolist() == [0.0, 5.0]
    assert restricted_mean(times, 10.0).mean == 2.5
    assert math.isnan(restricted_mean(of([5], [True]), 10.0).low)
    with pytest.raises(ValueError, match="a ratio needs steps above 0: take a difference"):
        paired_restricted(times, times, 10.0, "ratio")


def test_what_is_no_time_is_refused() -> None:
    frame = frame_of(classic=of([5, 20, 20], [True, False, False]), value=of([4, 5, 6], [True] * 3))
    with pytest.raises(ValueError, match=r"steps of 0 or more, got \[-1.0, 5.0, 6.0\]"):
        compare(frame.assign(steps=frame.steps.where(frame.steps != 4, -1.0))).to_frame()
    with pytest.raises(ValueError, match="the horizon 50 lies beyond every observation of 'classic', .*at most 20"):
        compare(frame, horizon=50.0).to_frame()
    with pytest.raises(ValueError, match="a horizon is a positive number of steps, got 0"):
        compare(frame, horizon=0.0).to_frame()
    with pytest.raises(ValueError, match="at most 20"):
        restricted_mean(times_of(frame, "classic"), 21.0)
    with pytest.raises(ValueError, match="'value' has seeds \\[1\\] more than once"):
        survival_curves(frame.replace({"seed": {2: 1}}).iloc[3:])
    with pytest.raises(ValueError, match="threshold_times makes one\\) has .* here is no \\['last'\\]"):
        times_of(frame.drop(columns="last"), "value")
    with pytest.raises(ValueError, match="reached the threshold after their last step"):
        times_of(frame.assign(last=1.0), "value")
    with pytest.raises(ValueError, match="unknown variant 'valu': did you mean 'value'"):
        times_of(frame, "valu")
    with pytest.raises(ValueError, match="times need one run or more"):
        of([], [])
    with pytest.raises(ValueError, match="as many runs on both sides, got 2 and 3"):
        paired_restricted(of([5, 6], [True, True]), times_of(frame, "value"), 5.0)


# --- frames -----------------------------------------------------------------------------------------------------------


def test_the_horizon_is_the_latest_that_every_curve_reaches() -> None:
    frame = frame_of(a=of([5, 20], [True, False]), b=of([4, 15], [True, False]), c=of([3, 3], [True, True]))
    assert shared_horizon(frame) == 15.0
    assert shared_horizon(frame[frame.variant == "c"]) == 20.0
    assert shared_horizon(frame, 10.0) == 10.0


def test_compare_of_times() -> None:
    a, b = drawn(0), drawn(1)
    frame = frame_of(classic=b, value=a, key=b)
    table = (
        compare(frame, test="log-rank", effect="rank-biserial", interval="bootstrap").to_frame().set_index("variant")
    )
    row: Any = table.loc["value"]
    pairs = paired_restricted(a, b, shared_horizon(frame))
    found = pairs.interval("bootstrap", 0.975)  # two comparisons
    assert (row.estimate, row.low, row.high, row.p) == pytest.approx(
        (found.mean, found.low, found.high, logrank_p(a, b))
    )
    assert row.effect_size == pytest.approx(pairs.effect("rank-biserial"))
    assert (row.horizon, row.reached, row.reference_reached) == (
        shared_horizon(frame),
        a.reached.sum(),
        b.reached.sum(),
    )
    assert list(table.loc["key", ["estimate", "p"]]) == [0.0, 1.0]
    ratio: Any = compare(frame, contrast="ratio").to_frame().set_index("variant").loc["value"]
    means = [restricted_mean(x, shared_horizon(frame)).mean for x in (a, b)]
    assert ratio.estimate == pytest.approx(means[0] / means[1])
    assert ratio.low < ratio.estimate < ratio.high


def test_the_table_is_flattered_by_runs_that_fail_and_the_comparison_is_not() -> None:
    """A variant that is quick where it arrives at all, but mostly does not."""
    slow, rash = of([12, 13, 14, 15], [True] * 4), of([6, 20, 20, 20], [True, False, False, False])
    frame = frame_of(classic=slow, value=rash)
    row: Any = threshold_table(frame).set_index("variant").loc["value"]
    assert (row.steps, row.ratio, row.reached, row.pairs) == (6.0, 0.5, 1, 1)
    whole: Any = compare(frame, test="log-rank").to_frame().iloc[0]
    assert (whole.horizon, whole.estimate, whole.pairs) == (20.0, 3.0, 4)
    assert restricted_mean(rash, 20.0).mean == 16.5
    assert whole.p == pytest.approx(logrank_p(rash, slow))


def test_curves_stand_under_one_another() -> None:
    a, b = drawn(0), drawn(1)
    curves = survival_curves(frame_of(classic=a, value=b))
    assert curves.variant.unique().tolist() == ["classic", "value"]
    part = curves[curves.variant == "value"].drop(columns="variant").reset_index(drop=True)
    pd.testing.assert_frame_equal(part, kaplan_meier(b))


@pytest.mark.parametrize("lacking", ["variant", "seed", "steps", "last"])
def test_a_frame_without_a_column_is_refused_by_its_name(lacking: str) -> None:
    frame = pd.DataFrame({"variant": ["a", "a"], "seed": [0, 1], "steps": [30.0, np.nan], "last": [60.0, 60.0]})
    assert len(survival_curves(frame)) == 3
    with pytest.raises(
        ValueError, match=rf"a frame of times \(threshold_times makes one\) .* here is no \['{lacking}'"
    ):
        survival_curves(frame.drop(columns=lacking))


@pytest.mark.parametrize("lacking", ["variant", "seed", "step", "value"])
def test_curves_over_seeds_need_their_columns(lacking: str) -> None:
    frame = pd.DataFrame({"variant": "a", "seed": [0, 1, 0, 1], "step": [5, 5, 9, 9], "value": [0.1, 0.3, 0.5, 0.9]})
    assert over_seeds(frame)["mean"].tolist() == pytest.approx([0.2, 0.2, 0.7, 0.7])
    with pytest.raises(ValueError, match=rf"a frame of measurements .* here is no \['{lacking}'\]"):
        over_seeds(frame.drop(columns=lacking))


@pytest.mark.parametrize("bad", [[[1.0, 2.0], [3.0, 4.0]], 3.0])
@pytest.mark.usefixtures("untyped")
def test_a_mean_is_of_numbers_in_a_row(bad: Any) -> None:
    with pytest.raises(ValueError, match="a mean is of numbers one after the other, got an array of"):
        mean_interval(bad)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 0.0, -2.0])
def test_a_ratio_is_of_finite_positive_numbers(bad: float) -> None:
    assert paired_ratio([2.0, 8.0], [1.0, 2.0]).mean == pytest.approx(8**0.5)
    for pair in (([2.0, bad], [1.0, 2.0]), ([2.0, 8.0], [bad, 2.0])):
        with pytest.raises(ValueError, match="finite positive numbers on both sides"):
            paired_ratio(*pair)
