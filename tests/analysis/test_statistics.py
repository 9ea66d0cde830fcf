"""Intervals, paired designs, effect sizes, corrections and times to a threshold, by hand, by scipy, by brute force."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics.comparison import compare, judge
from analysis.statistics.intervals import (
    CORRECTIONS,
    EFFECTS,
    Interval,
    adjust,
    grouped_intervals,
    mean_interval,
    paired_ratio,
    share_interval,
    smallest_shown,
)
from analysis.statistics.paired_seeds import Contrast, paired_seeds
from analysis.statistics.survival import Times, kaplan_meier, restricted_mean, times_of
from analysis.statistics.thresholds import Rule, steps_to_threshold, threshold_table, threshold_times
from circuits.common.errors import UnknownNameError

FEW = settings(max_examples=40)
numbers = st.floats(-100, 100).map(lambda x: round(x, 3))


def test_mean_interval_is_students() -> None:
    x = [3.0, 5.0, 10.0]
    found = mean_interval(x)
    half = stats.t.ppf(0.975, 2) * np.std(x, ddof=1) / math.sqrt(3)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((6.0, 6.0 - half, 6.0 + half, 3))
    assert math.isnan(mean_interval([4.0]).low)
    assert mean_interval([4.0, 4.0]) == Interval(4.0, 4.0, 4.0, 2)
    assert math.isnan(mean_interval([]).mean)
    assert str(mean_interval([4.0])) == "4"


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2_000):
        found = mean_interval(rng.normal(2.0, 3.0, size=4))
        hits += found.low <= 2.0 <= found.high
    assert stats.binomtest(hits, 2_000, 0.95).pvalue > 1e-4


def test_paired_ratio_is_the_geometric_mean() -> None:
    found = paired_ratio([2.0, 6.0], [1.0, 2.0])
    assert found.mean == pytest.approx(math.sqrt(6.0))
    assert found.low < found.mean < found.high
    swapped = paired_ratio([1.0, 2.0], [2.0, 6.0])
    assert (1 / swapped.mean, 1 / swapped.high, 1 / swapped.low) == pytest.approx((found.mean, found.low, found.high))
    with pytest.raises(ValueError, match="a paired ratio needs as many finite positive numbers on both sides"):
        paired_ratio([1.0], [0.0])
    with pytest.raises(ValueError, match="on both sides"):
        paired_ratio([1.0], [1.0, 2.0])


def curve(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"step": [10 * i for i in range(len(values))], "value": values})


def test_times_to_a_threshold() -> None:
    jumpy = curve(0.1, 0.96, 0.5, 0.95, 0.99)
    assert steps_to_threshold(jumpy, 0.95) == 10
    assert steps_to_threshold(jumpy, 0.95, "sustained") == 30
    assert steps_to_threshold(jumpy, 0.95, "interpolated") == pytest.approx(10 * (0.95 - 0.1) / (0.96 - 0.1))
    assert steps_to_threshold(jumpy, 0.1, "interpolated") == 0
    assert all(math.isnan(steps_to_threshold(jumpy, 0.999, rule)) for rule in get_args(Rule))
    assert steps_to_threshold(jumpy.sample(frac=1, random_state=0), 0.95) == 10


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1))
def test_a_sustained_crossing_is_never_before_the_first(values: list[float], threshold: float) -> None:
    first, sustained = (steps_to_threshold(curve(*values), threshold, rule) for rule in ("first", "sustained"))
    assert math.isnan(sustained) or sustained >= first
    assert math.isnan(sustained) == (values[-1] < threshold)


@FEW
@given(
    st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=2, max_size=8),
    st.floats(0.01, 0.99),
    st.integers(2, 5),
)
def test_an_interpolated_crossing_does_not_know_how_often_a_line_is_read(
    values: list[float], threshold: float, parts: int
) -> None:
    coarse = curve(*values)
    steps = np.linspace(0, coarse.step.max(), (len(values) - 1) * parts + 1)
    fine = pd.DataFrame({"step": steps, "value": np.interp(steps, coarse.step, values)})
    found = [steps_to_threshold(c, threshold, "interpolated") for c in (coarse, fine)]
    assert found[1] == pytest.approx(found[0], abs=1e-6, nan_ok=True)
    first = steps_to_threshold(coarse, threshold)
    assert math.isnan(first) or first - 10 < found[0] <= first


def metrics(**runs: tuple[Any, ...]) -> pd.DataFrame:
    frames = [
        curve(*values).assign(variant=name.rsplit("_", 1)[0], seed=int(name[-1]), split="ic", measure="accuracy")
        for name, values in runs.items()
    ]
    noise = frames[0].assign(split="test", value=1.0)
    return pd.concat([*frames, noise], ignore_index=True)


def test_the_table_pairs_seeds_and_counts_the_censored() -> None:
    frame = metrics(
        classic_0=(0, 0, 0, 0, 1),
        classic_1=(0, 0, 1, 1, 1),
        value_0=(0, 0, 1, 1, 1),
        value_1=(0, 1, 1, 1, 1),
        value_2=(0, 0, 0, 0, 0),
    )
    times = threshold_times(frame, 0.95)
    assert times.set_index(["variant", "seed"]).steps.dropna().to_dict() == {
        ("classic", 0): 40,
        ("classic", 1): 20,
        ("value", 0): 20,
        ("value", 1): 10,
    }
    table: Any = threshold_table(times).set_index("variant")
    assert list(table.loc["value", ["runs", "reached", "pairs"]]) == [3, 2, 2]
    assert table.loc["value", "ratio"] == pytest.approx(0.5)
    assert table.loc["value", "steps"] == 15
    assert restricted_mean(times_of(times, "value"), 40.0).mean == pytest.approx((20 + 10 + 40) / 3)  # censored too
    shared = compare(times[times.seed < 2]).to_frame().iloc[0]
    assert (shared.pairs, shared.estimate) == (2, -15)
    assert math.isnan(table.loc["classic", "ratio"])


def test_a_reference_split_or_measure_that_is_not_there_is_refused() -> None:
    frame = metrics(classic_0=(0, 1), value_0=(1, 1))
    with pytest.raises(UnknownNameError, match="unknown split 'icl': did you mean 'ic'"):
        threshold_times(frame, split="icl")
    with pytest.raises(UnknownNameError, match="unknown measure 'acuracy': did you mean 'accuracy'"):
        threshold_times(frame, measure="acuracy")
    assert threshold_times(frame[:0], split="icl").empty, "where nothing was measured, nothing is missing"
    times = threshold_times(frame)
    with pytest.raises(UnknownNameError, match="unknown reference 'clasic': did you mean 'classic'"):
        threshold_table(times, "clasic")
    by_value: Any = threshold_table(times.assign(steps=times.steps + 10), "value").set_index("variant").ratio
    assert by_value["classic"] == pytest.approx(2.0)
    assert math.isnan(by_value["value"])


def test_a_loss_is_at_a_threshold_from_above() -> None:
    frame = metrics(classic_0=(3, 2, 1, 0.5, 1.5), value_0=(3, 2.5, 2, 2, 2))
    frame = frame[frame.split == "ic"].assign(measure="loss")
    for rule, steps in (("first", 20.0), ("interpolated", 20.0), ("sustained", math.nan)):
        found = threshold_times(frame, 1.0, measure="loss", rule=rule)  # type: ignore[arg-type] # as in the list
        assert found.steps.tolist() == pytest.approx([steps, math.nan], nan_ok=True)
    between = threshold_times(frame, 2.25, measure="loss", rule="interpolated")
    assert between.steps.tolist() == pytest.approx([7.5, 15.0])


def test_without_the_reference_there_is_no_ratio() -> None:
    table = threshold_table(threshold_times(metrics(value_0=(0, 1)), 0.95))
    assert math.isnan(table.ratio.iloc[0])
    assert table.pairs.iloc[0] == 0


# --- pairs ------------------------------------------------------------------------------------------------------------


A, B = [3.0, 5.0, 10.0, 4.5, 7.0], [2.0, 6.5, 4.0, 4.0, 6.0]


def test_paired_intervals_and_t_are_scipys() -> None:
    pairs, known = paired_seeds(A, B), stats.ttest_rel(A, B)
    found, ends = pairs.interval("t"), known.confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(A) - np.mean(B), ends.low, ends.high))
    assert pairs.t_p() == pytest.approx(known.pvalue)
    ratio, before = paired_seeds(A, B, "ratio").interval("t"), paired_ratio(A, B)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((before.mean, before.low, before.high))


def test_the_bootstrap_draws_whole_pairs() -> None:
    drawn = [np.mean(d) for d in itertools.product(np.subtract(A, B), repeat=5)]  # every resample there is
    found = paired_seeds(A, B).interval("bootstrap", n_resamples=20_000)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.1)
    assert paired_seeds(A, B).interval("bootstrap") == paired_seeds(A, B).interval("bootstrap")
    few, others = (paired_seeds(A, B).interval("bootstrap", n_resamples=50, seed=seed) for seed in (0, 1))
    assert few != others
    # Unpaired, the spread between seeds would come in; here it is taken out.
    shifted = paired_seeds(np.add([0, 100, 200], [1.0, 1.5, 2.0]), [0.0, 100.0, 200.0]).interval("bootstrap")
    assert (shifted.low, shifted.high) == (1.0, 2.0)


@pytest.mark.parametrize("contrast", ["difference", "ratio"])
def test_permutation_is_every_flip_of_signs(contrast: Any) -> None:
    d = np.subtract(A, B) if contrast == "difference" else np.log(np.divide(A, B))
    flips = [np.mean(d * signs) for signs in itertools.product([1, -1], repeat=len(d))]
    wanted = np.mean(np.abs(flips) >= abs(np.mean(d)) - 1e-12)
    assert paired_seeds(A, B, contrast).permutation_p() == pytest.approx(wanted)


@pytest.mark.parametrize(("contrast", "by"), [("difference", -50.0), ("ratio", 0.5), ("bounded", 0.25)])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_pairs_that_all_differ_alike_claim_no_certainty(contrast: Any, by: float, n: int) -> None:
    reference = np.linspace(0.1, 0.6, n) if contrast == "bounded" else np.linspace(100.0, 400.0, n)
    values = reference * by if contrast == "ratio" else reference + by
    alike = paired_seeds(values, reference, contrast)
    assert alike.t_p() == pytest.approx(alike.permutation_p()) == 0.5 ** (n - 1)
    for how in ("t", "bootstrap"):
        found = alike.interval(how)
        assert found.mean == pytest.approx(by)
        assert np.isnan([found.low, found.high]).all()
    margin = {"difference": 60.0, "ratio": 3.0, "bounded": 0.5}[contrast]
    assert alike.equivalence_p(margin) == 0.5**n
    assert alike.equivalence_p({"difference": 40.0, "ratio": 1.5, "bounded": 0.1}[contrast]) == 1.0
    none = paired_seeds(reference, reference, contrast)
    assert (none.t_p(), none.equivalence_p(margin)) == (1.0, 0.0), "runs that are the same do not differ"
    assert none.interval().low == none.interval().high == none.estimate


def test_a_comparison_of_pairs_that_differ_alike_says_so() -> None:
    rows = [{"variant": v, "seed": s, "value": 10.0 * s + (v == "value")} for v in ("classic", "value") for s in (0, 1)]
    found = compare(pd.DataFrame(rows))
    assert "value 1 (no interval), p = 0.5" in found.finding()
    assert "nan" not in found.finding() + str(found.figure().layout.meta["title"])
    apart = compare(pd.DataFrame(rows).assign(value=[0.0, 10.0, 1.0, 12.0]))
    assert "[" in apart.finding()


def test_permutation_knows_ties_whatever_their_size() -> None:
    for size in (1e-9, 1.0, 1e9):
        assert paired_seeds(size * np.array([0.1, 0.2, 0.3]), [0.0] * 3).permutation_p() == 0.25
        assert paired_seeds(size * np.array([0.1, 0.2, -0.3]), [0.0] * 3).permutation_p() == 1.0
    assert paired_seeds([1.0, 2.0], [1.0, 2.0]).permutation_p() == 1.0
    many = np.random.default_rng(0).normal(1.0, 1.0, 30)  # too many to exchange them all
    assert paired_seeds(many, 0 * many).permutation_p(999) <= 0.01


def test_paired_intervals_cover_as_often_as_they_say_and_the_bootstrap_of_few_does_not() -> None:
    rng = np.random.default_rng(0)
    hits = {"t": 0, "bootstrap": 0}
    for _ in range(400):
        seeds = rng.normal(0, 5, 5)
        pairs = paired_seeds(seeds + rng.normal(1.0, 1.0, 5), seeds)
        for method in hits:
            found = pairs.interval(method, n_resamples=999)
            hits[method] += found.low <= 1.0 <= found.high
    assert stats.binomtest(hits["t"], 400, 0.95).pvalue > 1e-3
    assert stats.binomtest(hits["bootstrap"], 400, 0.83).pvalue > 1e-3  # as the docstring says


def test_effect_sizes() -> None:
    pairs, d = paired_seeds(A, B), np.subtract(A, B)
    assert pairs.effect("d_z") == pytest.approx(d.mean() / d.std(ddof=1))
    assert pairs.effect("g_z") / pairs.effect("d_z") == pytest.approx(1 - 3 / (4 * 4 - 1), abs=0.003)
    statistic = stats.wilcoxon(d, alternative="greater").statistic
    assert pairs.effect("rank-biserial") == pytest.approx(2 * statistic / 15 - 1)
    assert [paired_seeds([2.0, 3.0], [1.0, 2.0]).effect(name) for name in ("d_z", "rank-biserial")] == [math.inf, 1.0]
    assert [paired_seeds([2.0, 3.0], [2.0, 3.0]).effect(name) for name in ("d_z", "rank-biserial")] == [0.0, 0.0]
    assert math.isnan(paired_seeds([2.0, 3.0], [1.0, 3.0]).effect("g_z"))


def test_hedges_correction_takes_the_bias_out() -> None:
    draws = np.random.default_rng(0).normal(1.0, 1.0, (20_000, 4))
    found = {name: np.mean([EFFECTS[name](row) for row in draws[:4_000]]) for name in ("d_z", "g_z")}
    assert found["g_z"] == pytest.approx(1.0, abs=0.05)
    assert found["d_z"] > 1.2


@FEW
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6), st.sampled_from(["t", "bootstrap"]))
def test_exchanging_the_two_turns_the_sign_and_no_p(pairs: list[tuple[float, float]], method: str) -> None:
    a, b = map(list, zip(*pairs, strict=True))
    there, back = paired_seeds(a, b), paired_seeds(b, a)
    one, other = there.interval(method, n_resamples=199), back.interval(method, n_resamples=199)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low), abs=1e-9, nan_ok=True)
    assert there.permutation_p() == pytest.approx(back.permutation_p())
    assert there.effect("rank-biserial") == pytest.approx(-back.effect("rank-biserial"))


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="needs two pairs or more, got 1: train more seeds"):
        paired_seeds([1.0], [2.0])
    with pytest.raises(ValueError, match="two equally long lists of finite numbers"):
        paired_seeds([1.0, 2.0], [2.0])
    with pytest.raises(ValueError, match="finite numbers"):
        paired_seeds([1.0, math.nan], [2.0, 3.0])
    with pytest.raises(ValueError, match="needs positive numbers on both sides"):
        paired_seeds([1.0, 0.0], [2.0, 3.0], "ratio")
    with pytest.raises(ValueError, match="unknown interval 'bootstrp': did you mean 'bootstrap'"):
        paired_seeds(A, B).interval("bootstrp")
    with pytest.raises(ValueError, match="a confidence lies between 0 and 1, got 95"):
        paired_seeds(A, B).interval(confidence=95.0)
    with pytest.raises(ValueError, match="unknown effect size 'cohen'"):
        paired_seeds(A, B).effect("cohen")


ASKED_WITH: dict[str, Callable[[float], Any]] = {
    "mean_interval": lambda c: mean_interval([1.0, 2.0, 4.0], c),
    "of a correlation": lambda c: mean_interval([0.1, 0.2], c, "correlation"),
    "of nothing": lambda c: mean_interval([], c),
    "grouped": lambda c: grouped_intervals(pd.DataFrame({"by": [1, 1], "value": [2.0, 3.0]}), ["by"], c),
    "paired_ratio": lambda c: paired_ratio([1.0, 2.0], [2.0, 3.0], c),
    "share_interval": lambda c: share_interval(np.array([[1.0, 2.0]]), np.array([3.0, 4.0]), c),
    "prediction": lambda c: paired_seeds(A, B).prediction(3, c),
    "kaplan_meier": lambda c: kaplan_meier(TIMES, c),
    "restricted_mean": lambda c: restricted_mean(TIMES, 20.0, c),
    "judge": lambda c: judge([paired_seeds(A, B)] * 3, confidence=c),
}
TIMES = Times(np.array([10.0, 20.0, 30.0]), np.array([True, True, False]))


@pytest.mark.parametrize("asked", ASKED_WITH)
def test_a_confidence_is_a_share_wherever_one_is_given(asked: str) -> None:
    for wrong in (-1.0, 0.0, 1.0, 95.0, math.nan):
        with pytest.raises(ValueError, match=f"a confidence lies between 0 and 1, got {wrong}: 0.95 is usual"):
            ASKED_WITH[asked](wrong)
    ASKED_WITH[asked](0.8)


def test_a_share_of_gaps_that_may_be_none_warns_of_nothing() -> None:
    """Two of three examples have no gap, so resamples have none; warnings are errors here."""
    gap = np.array([0.0, 0.0, 4.0])
    moved = np.array([[0.0, 0.0, 4.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 2.0, 4.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = share_interval(moved, gap)
        none = share_interval(np.array([[0.0, 0.0]]), np.zeros(2))
    assert low[:3].tolist() == high[:3].tolist() == [1.0, 0.25, 0.0], "all that have a share have the same: no spread"
    assert np.isnan([low[3], high[3]]).all(), "the gap may be none, and the shares differ"
    assert np.isnan(none).all()
    spread, wide = share_interval(np.array([[1.0, 3.0, 2.0]]), np.array([2.0, 3.0, 4.0]))
    assert spread[0] == pytest.approx(0.5, abs=0.01)
    assert wide[0] == pytest.approx(1.0, abs=0.01)


def test_a_share_of_a_gap_that_may_be_none_has_no_interval() -> None:
    draw = np.random.default_rng(3)
    for _ in range(40):
        gap = draw.normal(draw.uniform(-1.5, 1.5), 1.0, 12)
        moved = 0.6 * gap + draw.normal(0.0, 1.0, (4, 12))
        told = stats.ttest_1samp(gap, 0.0).pvalue < 0.05
        low, high = share_interval(moved, gap)
        share = moved.mean(1) / gap.mean()
        assert (np.isfinite([low, high]) == told).all()
        assert not told or ((low <= share) & (share <= high)).all()
    # The same at another confidence: of a gap whose p is 0.18, there is an interval of 80 % and none of 95 %.
    gap = np.array([3.0, -1.0, 2.0, 1.0, 0.5])
    assert np.isfinite(share_interval(np.ones((1, 5)), gap, 0.8)).all()
    assert np.isnan(share_interval(np.ones((1, 5)), gap, 0.95)).all()


def test_half_of_a_gap_of_either_sign_is_half() -> None:
    low, high = share_interval(np.array([[0.5, -1.0, 1.5], [0.5, -1.0, 2.0]]), np.array([1.0, -2.0, 3.0]))
    assert low[0] == high[0] == 0.5, "of examples that all have the same share it is known, whatever the gap"
    assert np.isnan([low[1], high[1]]).all()


# --- power, absence, bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "level"), [(3, 0.05), (5, 0.01), (10, 0.05 / 7)])
def test_the_smallest_effect_that_could_show_shows_four_times_in_five(n: int, level: float) -> None:
    shift = smallest_shown(2.0, n, level)
    draws = np.random.default_rng(0).normal(shift, 2.0, (20_000, n))
    assert np.mean(stats.ttest_1samp(draws, 0.0, axis=1).pvalue < level) == pytest.approx(0.8, abs=0.01)
    assert math.isnan(smallest_shown(0.0, n, level)), "of differences without spread nothing is known"
    assert paired_seeds([2.0, 8.0], [1.0, 3.0], "ratio").smallest_shown(level) > 1
    with pytest.raises(ValueError, match="two differences or more, got 1"):
        smallest_shown(1.0, 1)


@FEW
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6), st.floats(0.5, 50))
def test_absence_is_claimed_only_of_an_interval_within_the_margin(pairs: list[Any], margin: float) -> None:
    a, b = map(list, zip(*pairs, strict=True))
    found = paired_seeds(a, b)
    wide, p = found.interval(confidence=0.9), found.equivalence_p(margin)
    if min(abs(wide.low + margin), abs(wide.high - margin)) > 1e-9:
        assert (p < 0.05) == (-margin < wide.low and wide.high < margin)


def test_an_effect_that_was_not_shown_is_not_absent() -> None:
    wide = paired_seeds([1.0, 3.0, 0.5], [1.5, 1.5, 1.0], "ratio")
    assert wide.t_p() > 0.5
    assert wide.equivalence_p(1.05) > 0.3, "three seeds that differ so say nothing"
    assert paired_seeds([1.0, 1.01, 1.02], [1.01, 1.0, 1.02], "ratio").equivalence_p(1.05) < 0.05
    assert paired_seeds([0.5, 0.6], [0.4, 0.5], "bounded").equivalence_p(0.2) == 0.25, "two that are alike are few"
    assert paired_seeds([0.5, 0.6], [0.5, 0.6], "bounded").equivalence_p(0.2) < 1e-6
    with pytest.raises(ValueError, match="lies between 1 and inf, got 0.95"):
        wide.equivalence_p(0.95)


@FEW
@given(st.lists(st.floats(0, 1).map(lambda x: round(x, 2)), min_size=1, max_size=8), st.floats(0.5, 0.99))
def test_intervals_of_shares_stay_within_their_bounds(values: list[float], confidence: float) -> None:
    found = mean_interval(values, confidence, "logit")
    assert found.mean == pytest.approx(np.mean(values))
    if len(values) > 1:
        assert 0 <= found.low <= found.mean <= found.high <= 1
        assert (found.low < found.high) == (not np.ptp(values) <= 1e-12)
    with pytest.raises(ValueError, match="numbers lie between 0 and 1"):
        mean_interval([0.5, 1.5], scale="logit")


def test_an_interval_of_correlations_is_fishers_and_stays_between_minus_one_and_one() -> None:
    few = mean_interval([0.2, 0.9, 0.97], scale="correlation")
    assert -1 < few.low < few.mean < few.high < 1
    assert few.mean == pytest.approx(0.69)
    assert mean_interval([0.2, 0.9, 0.97]).high > 1, "which the linear one does not"
    x = np.array([0.5, 0.51, 0.49, 0.505])
    found, z = mean_interval(x, scale="correlation"), mean_interval(np.arctanh(x))
    assert (found.low, found.high) == pytest.approx((np.tanh(z.low), np.tanh(z.high)), abs=1e-4)
    turned = mean_interval(-x, scale="correlation")
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    with pytest.raises(ValueError, match="correlations lie between -1 and 1"):
        mean_interval([0.5, 1.5], scale="correlation")


def test_in_the_middle_and_of_many_the_logit_interval_is_students() -> None:
    x = np.random.default_rng(0).uniform(0.4, 0.6, 2_000)
    plain, logit = mean_interval(x), mean_interval(x, scale="logit")
    assert (logit.low, logit.high) == pytest.approx((plain.low, plain.high), abs=1e-5)
    near = mean_interval([0.0, 0.001, 0.02])
    assert near.low < 0 < mean_interval([0.0, 0.001, 0.02], scale="logit").low


# --- many comparisons -------------------------------------------------------------------------------------------------


def test_corrections_by_hand() -> None:
    p = [0.04, 0.01, 0.03, 0.5]
    assert adjust(p, "holm") == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert adjust(p, "bonferroni") == pytest.approx([0.16, 0.04, 0.12, 1.0])
    assert adjust(p, "benjamini-hochberg") == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])
    assert adjust(p, "none") == pytest.approx(p)
    with pytest.raises(ValueError, match="unknown correction 'holms': did you mean 'holm'"):
        adjust(p, "holms")
    with pytest.raises(ValueError, match="p-values lie between 0 and 1, got"):
        adjust([0.5, math.nan])


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from(list(CORRECTIONS)))
def test_an_adjusted_p_is_no_smaller_and_keeps_the_order(p: list[float], correction: str) -> None:
    adjusted = adjust(p, correction)
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= -1e-15).all()
    assert (adjust(p, "holm") <= adjust(p, "bonferroni") + 1e-15).all()


def test_holm_holds_the_chance_of_any_false_rejection_and_none_does_not() -> None:
    draws = np.random.default_rng(0).random((2_000, 5))
    any_false = {name: np.mean([adjust(p, name).min() <= 0.05 for p in draws]) for name in CORRECTIONS}
    assert any_false["holm"] == pytest.approx(0.05, abs=0.015)
    assert any_false["none"] == pytest.approx(1 - 0.95**5, abs=0.03)


families = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=6)


@FEW
@given(families, st.sampled_from(["bonferroni", "none"]), st.sampled_from(["difference", "ratio", "bounded"]))
def test_an_interval_excludes_no_effect_exactly_where_the_adjusted_p_is_small(
    family: list[Any], correction: str, contrast: Any
) -> None:
    scaled = [(np.array(values) + 101) / 202 for values in family]  # within (0, 1)
    table = judge([paired_seeds(x, [0.5] * 3, contrast) for x in scaled], correction=correction)
    nothing = 1.0 if contrast == "ratio" else 0.0
    for row in table.to_dict("records"):
        if abs(row["p_adjusted"] - 0.05) > 1e-9:
            # Three that differ alike have no interval, which excludes nothing, and p = 0.25.
            assert (row["low"] > nothing or row["high"] < nothing) == (row["p_adjusted"] < 0.05)
        if contrast == "bounded" and not np.isnan(row["low"]):
            assert -1 <= row["low"] <= row["high"] <= 1


def test_simultaneous_intervals_hold_them_all_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hold, plain = 0, 0
    for _ in range(100):
        table = judge([paired_seeds(x, [0.0] * 5) for x in rng.normal(0.0, 1.0, (5, 5))])
        hold += bool((table.low.lt(0) & table.high.gt(0)).all())
        plain += bool((table.p > 0.05).all())
    assert stats.binomtest(hold, 100, 0.95).pvalue > 1e-3
    assert plain < 85, "each by itself, they do not"


# --- one call ---------------------------------------------------------------------------------------------------------


def values(**by_variant: list[float]) -> pd.DataFrame:
    return pd.DataFrame([(v, s, x) for v, each in by_variant.items() for s, x in enumerate(each)]).set_axis(
        ["variant", "seed", "value"], axis=1
    )


def test_compare_puts_it_together() -> None:
    frame = values(classic=B, value=A, key=B)
    table = compare(frame.sample(frac=1, random_state=0)).to_frame().set_index("variant")
    pairs = paired_seeds(A, B)
    row: Any = table.loc["value"]
    assert set(table.index) == {"value", "key"}
    found = pairs.interval(confidence=0.975)
    assert (row.estimate, row.low, row.high) == pytest.approx((pairs.estimate, found.low, found.high))
    assert (row.p, row.p_adjusted, row.smallest) == pytest.approx(
        (pairs.t_p(), min(1.0, 2 * pairs.t_p()), pairs.smallest_shown(0.025))
    )
    assert row.effect_size == pytest.approx(pairs.effect("g_z"))
    assert list(row[["pairs", "reference", "contrast", "interval", "test", "effect", "correction", "confidence"]]) == [
        *(5, "classic", "difference", "t", "t", "g_z", "bonferroni", 0.95)
    ]
    assert list(table.loc["key", ["estimate", "p", "effect_size"]]) == [0.0, 1.0, 0.0]
    other = compare(
        frame, "key", contrast="ratio", interval="bootstrap", test="permutation", effect="rank-biserial"
    ).to_frame()
    assert other.set_index("variant").loc["value", "p"] == pytest.approx(paired_seeds(A, B, "ratio").permutation_p())


def timed(last: float, **by_variant: list[float]) -> pd.DataFrame:
    """A time frame of runs that get there at these steps (NaN: not)."""
    return pd.DataFrame(
        [
            {"variant": variant, "seed": seed, "steps": step, "last": last}
            for variant, steps in by_variant.items()
            for seed, step in enumerate(steps)
        ]
    )


NEVER = [float("nan")] * 4


def test_where_no_run_got_there_nothing_is_judged_and_the_family_is_smaller() -> None:
    some = {"classic": NEVER, "value": [300.0, 320.0, 310.0, 340.0]}
    both = compare(timed(900, **some, key=NEVER), contrast="ratio", margin=1.1)
    judged = ["estimate", "low", "high", "p", "p_adjusted", "p_equivalent", "smallest"]
    frame = both.to_frame().set_index("variant")[judged]
    assert frame.loc[["key"]].isna().to_numpy().all()
    alone = compare(timed(900, **some), contrast="ratio", margin=1.1).to_frame().set_index("variant")[judged]
    pd.testing.assert_frame_equal(frame.loc[["value"]], alone)
    assert "key: neither got there" in both.finding()
    nothing = compare(timed(900, classic=NEVER, key=NEVER), contrast="ratio", margin=1.1, test="log-rank")
    assert nothing.to_frame()[judged].isna().to_numpy().all()
    assert nothing.to_frame()["pairs"].tolist() == [4]


@pytest.mark.parametrize(("reached", "same"), [(1, False), (3, False), (4, True), (7, True)])
def test_times_that_most_runs_did_not_have_are_not_the_same(reached: int, same: bool) -> None:
    """Restricted means are alike where most of them are the horizon."""
    steps = np.array([19_900.0] * reached + [float("nan")] * (8 - reached))
    frame = timed(20_000, classic=steps[::2].tolist(), value=steps[1::2].tolist())
    [row] = compare(frame, contrast="ratio", margin=1.1).to_frame().to_dict("records")
    assert 1 / 1.1 < row["low"] <= row["high"] < 1.1
    assert (row["p_equivalent"] < 0.05) == same


def test_a_finding_says_of_every_variant_what_its_own_seeds_could_show() -> None:
    near, far = [1.1, 0.9, 1.0, 1.05], [9.0, -20.0, 5.0, -4.0]
    both = compare(values(classic=[0.0, 0.1, 0.2, 0.1], near=near, far=far))
    shown = both.to_frame().set_index("variant").smallest
    assert shown["far"] > 10 * shown["near"]
    assert both.finding().count("could show") == 3, "of two variants, and what it means"
    for variant, rest in zip(("near", "far"), both.finding().split("near ")[1].split("far "), strict=True):
        assert f"could show {shown[variant]:.3g}" in rest


def test_what_cannot_be_compared_is_refused() -> None:
    frame = values(classic=B, value=A)
    with pytest.raises(
        ValueError, match=r"'value' and 'classic' need the same seeds once each, got \[1, 2, 3, 4\] and"
    ):
        compare(frame[(frame.variant != "value") | (frame.seed > 0)]).to_frame()
    with pytest.raises(ValueError, match="the same seeds once each"):
        compare(pd.concat([frame, frame])).to_frame()
    with pytest.raises(ValueError, match="two pairs or more, got 1"):
        compare(frame[frame.seed == 0]).to_frame()
    with pytest.raises(ValueError, match="unknown reference 'clasic': did you mean 'classic'"):
        compare(frame, "clasic").to_frame()
    with pytest.raises(ValueError, match="nothing to compare 'classic' with"):
        compare(frame[frame.variant == "classic"]).to_frame()
    with pytest.raises(ValueError, match=r"there is no \['value'\]"):
        compare(frame.drop(columns="value")).to_frame()
    with pytest.raises(ValueError, match="the log-rank test is for times"):
        compare(frame, test="log-rank").to_frame()
    with pytest.raises(ValueError, match="a horizon is for times"):
        compare(frame, horizon=10.0).to_frame()
    with pytest.raises(ValueError, match="unknown correction 'tukey'"):
        compare(frame, correction="tukey").to_frame()
    margins: list[tuple[Contrast, float]] = [("difference", 0.0), ("difference", -0.1), ("ratio", 1.0), ("ratio", 0.0)]
    for contrast, margin in margins:
        with pytest.raises(ValueError, match=f"a margin here lies between .*, got {margin}"):
            compare(frame, contrast=contrast, margin=margin).to_frame()


def test_runs_that_differ_in_what_the_frame_does_not_name_are_not_merged() -> None:
    rows = [
        {"run": run, "variant": "value", "seed": 3, "step": step, "split": "ic", "measure": "accuracy", "value": value}
        for run, values in (("wide", (0.2, 0.97)), ("narrow", (0.1, 0.4)))
        for step, value in zip((50, 100), values, strict=True)
    ]
    frame = pd.DataFrame(rows)
    told = r"several runs are of variant 'value', seed 3 \(wide, narrow\), or one comes twice, and would be merged"
    with pytest.raises(ValueError, match=told):
        threshold_times(frame)
    with pytest.raises(ValueError, match="several runs are of variant 'value', seed 3, or one comes twice"):
        threshold_times(frame.drop(columns="run"))
    assert threshold_times(frame[frame.run == "wide"]).steps.tolist() == [100]
    with pytest.raises(ValueError, match="some rows have no variant or no seed"):
        threshold_times(frame.assign(seed=frame.seed.where(frame.run == "wide")))


def test_groups_with_missing_keys_do_not_vanish() -> None:
    frame = pd.DataFrame({"layer": [1, 1, None, None, 2], "kind": ["a", "a", "b", "b", None], "value": range(5)})
    found = grouped_intervals(frame, ["layer", "kind"])
    assert found.n.tolist() == [2, 2, 1]
    assert found.n.sum() == len(frame)
