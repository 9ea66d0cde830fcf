"""Where the mean of new pairs lies: as often as it says, and of many where the mean is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.paired_seeds import Contrast, paired_seeds


def pairs(n: int, rng: np.random.Generator, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Steps of a variant and its reference: seeds differ, and the logarithm of their ratio by 0.1."""
    base = 1000 * np.exp(rng.normal(0, 0.3, n))
    return base * 0.6 * np.exp(rng.normal(shift, 0.1, n)), base


@pytest.mark.parametrize(("n", "new"), [(3, 10), (10, 3), (5, 5), (4, 1)])
def test_the_mean_of_new_pairs_lies_inside_as_often_as_it_says(n: int, new: int) -> None:
    rng, inside, times = np.random.default_rng(n), 0, 1500
    for _ in range(times):
        found = paired_seeds(*pairs(n, rng), "ratio").prediction(new)
        values, reference = pairs(new, rng)
        inside += found.low <= np.exp(np.log(values / reference).mean()) <= found.high
    assert stats.binomtest(inside, times, 0.95).pvalue > 1e-3


def test_an_interval_of_the_mean_is_no_prediction() -> None:
    rng, inside, times = np.random.default_rng(0), 0, 1000
    for _ in range(times):
        found = paired_seeds(*pairs(10, rng), "ratio").interval()
        values, reference = pairs(3, rng)
        inside += found.low <= np.exp(np.log(values / reference).mean()) <= found.high
    assert inside / times < 0.85


@pytest.mark.parametrize("contrast", ["difference", "ratio"])
def test_ends_by_hand(contrast: Contrast) -> None:
    values, reference = pairs(7, np.random.default_rng(1))
    logs = np.log(values / reference) if contrast == "ratio" else values - reference
    half = stats.t.ppf(0.995, 6) * logs.std(ddof=1) * np.sqrt(1 / 7 + 1 / 4)
    back = np.exp if contrast == "ratio" else np.asarray
    found = paired_seeds(values, reference, contrast).prediction(4, 0.99)
    assert (found.low, found.mean, found.high) == pytest.approx(
        tuple(float(back(logs.mean() + side * half)) for side in (-1, 0, 1))
    )


def test_of_many_new_pairs_it_is_the_interval_of_the_mean() -> None:
    paired = paired_seeds(*pairs(6, np.random.default_rng(2)), "ratio")
    whole, known = paired.prediction(10**9), paired.interval()
    assert (whole.low, whole.high) == pytest.approx((known.low, known.high), rel=1e-6)
    widths = [np.log(found.high / found.low) for found in map(paired.prediction, (1, 2, 20, 10**9))]
    assert widths == sorted(widths, reverse=True)


def test_pairs_without_spread_have_no_width_and_what_is_no_prediction_is_refused() -> None:
    same = paired_seeds([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], "ratio")
    assert same.prediction(5).low == same.prediction(5).high == pytest.approx(2.0)
    with pytest.raises(ValueError, match="of one new pair or more, got 0"):
        same.prediction(0)
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        same.prediction(3, 95.0)
