"""Seeds as data: times to a threshold, intervals and paired ratios; scipy underneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

Rule = Literal["first", "sustained"]


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval, and how many numbers it is of."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the mean with Student's t interval; a single number has no interval (NaN ends)."""
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    if len(x) == 1 or np.ptp(x) == 0:
        spread = float("nan") if len(x) == 1 else 0.0
        return Interval(float(x.mean()), float(x.mean()) - spread, float(x.mean()) + spread, len(x))
    interval = stats.ttest_1samp(x, 0.0).confidence_interval(confidence)
    return Interval(float(x.mean()), float(interval.low), float(interval.high), len(x))


def paired_ratio(
    values: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Interval:
    """Return the geometric mean of values / reference, pair by pair, with the t interval of the mean log ratio.

    Raises:
        ValueError: if the two are not pairs of positive numbers.
    """
    a, b = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    if a.shape != b.shape or not (np.all(a > 0) and np.all(b > 0)):
        raise ValueError(
            f"a paired ratio needs as many positive numbers on both sides, got {a.tolist()} and {b.tolist()}"
        )
    logs = mean_interval(np.log(a / b), confidence)
    return Interval(float(np.exp(logs.mean)), float(np.exp(logs.low)), float(np.exp(logs.high)), logs.n)


def steps_to_threshold(curve: pd.DataFrame, threshold: float, rule: Rule = "first") -> float:
    """Return the first evaluated step at which a curve is at the threshold, NaN where it never is (censored).

    ``curve`` has columns step and value. ``"sustained"`` wants every later evaluation to be there too.
    """
    ordered = curve.sort_values("step")
    above = ordered["value"].to_numpy() >= threshold
    if rule == "sustained":
        above = np.logical_and.accumulate(above[::-1])[::-1]
    return float(ordered["step"].to_numpy()[above.argmax()]) if above.any() else float("nan")


def threshold_times(
    metrics: pd.DataFrame, threshold: float = 0.95, split: str = "ic", measure: str = "accuracy", rule: Rule = "first"
) -> pd.DataFrame:
    """Return one row a run: variant, seed, steps to the threshold (NaN: not reached by ``last``), last step.

    ``metrics`` has columns variant, seed, step, split, measure, value.
    """
    chosen = metrics[(metrics.split == split) & (metrics.measure == measure)]
    rows = [
        {"variant": v, "seed": s, "steps": steps_to_threshold(c, threshold, rule), "last": float(c.step.max())}
        for (v, s), c in chosen.groupby(["variant", "seed"], sort=False, observed=True)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "steps", "last"])


def threshold_table(times: pd.DataFrame, reference: str = "classic", confidence: float = 0.95) -> pd.DataFrame:
    """Return one row a variant: runs, how many reached the threshold, mean steps, paired ratio to ``reference``.

    Ratios pair runs of one seed and leave out pairs of which either run is censored; means are over the runs that
    reached it, so with censored runs they are too low (column ``reached`` tells).
    """
    by_seed = times.pivot(index="seed", columns="variant", values="steps")
    rows = []
    for variant in times["variant"].drop_duplicates():
        reached = by_seed[variant].dropna()
        steps = mean_interval(reached.to_numpy(), confidence)
        row = {"variant": variant, "runs": int((times.variant == variant).sum()), "reached": len(reached)}
        row |= {"steps": steps.mean, "steps_low": steps.low, "steps_high": steps.high}
        row |= _ratio(by_seed, variant, reference, confidence)
        rows.append(row)
    return pd.DataFrame(rows)


def _ratio(by_seed: pd.DataFrame, variant: str, reference: str, confidence: float) -> dict[str, float]:
    nothing = {"ratio": float("nan"), "ratio_low": float("nan"), "ratio_high": float("nan"), "pairs": 0}
    if reference not in by_seed or variant == reference:
        return nothing
    both = by_seed[[variant, reference]].dropna()
    both = both[(both > 0).all(axis=1)]
    if both.empty:
        return nothing
    ratio = paired_ratio(both[variant].to_numpy(), both[reference].to_numpy(), confidence)
    return {"ratio": ratio.mean, "ratio_low": ratio.low, "ratio_high": ratio.high, "pairs": ratio.n}
