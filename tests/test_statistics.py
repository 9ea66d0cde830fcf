"""Intervals, ratios and times to a threshold against what can be worked out by hand or by scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import (
    Interval,
    mean_interval,
    paired_ratio,
    steps_to_threshold,
    threshold_table,
    threshold_times,
)


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
    with pytest.raises(ValueError, match="a paired ratio needs as many positive numbers on both sides"):
        paired_ratio([1.0], [0.0])
    with pytest.raises(ValueError, match="on both sides"):
        paired_ratio([1.0], [1.0, 2.0])


def curve(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"step": [10 * i for i in range(len(values))], "value": values})


def test_times_to_a_threshold() -> None:
    jumpy = curve(0.1, 0.96, 0.5, 0.95, 0.99)
    assert steps_to_threshold(jumpy, 0.95) == 10
    assert steps_to_threshold(jumpy, 0.95, "sustained") == 30
    assert math.isnan(steps_to_threshold(jumpy, 0.999))
    assert steps_to_threshold(jumpy.sample(frac=1, random_state=0), 0.95) == 10


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
    table = threshold_table(times).set_index("variant")
    assert list(table.loc["value", ["runs", "reached", "pairs"]]) == [3, 2, 2]
    assert table.loc["value", "ratio"] == pytest.approx(0.5)
    assert table.loc["value", "steps"] == 15
    assert math.isnan(float(table.loc["classic", "ratio"]))  # type: ignore[arg-type] # a number


def test_without_the_reference_there_is_no_ratio() -> None:
    table = threshold_table(threshold_times(metrics(value_0=(0, 1)), 0.95))
    assert math.isnan(table.ratio.iloc[0])
    assert table.pairs.iloc[0] == 0
