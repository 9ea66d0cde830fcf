"""Times to a threshold: read off learning curves, and tabulated with and without the runs that never reach it."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Interval, mean_interval, paired_ratio
from analysis.statistics.one_run_each import require_one_run_each
from analysis.statistics.survival import (
    logrank_p,
    median_time,
    paired_restricted,
    restricted_mean,
    shared_horizon,
    times_of,
)
from circuits.common.errors import known

Rule = Literal["first", "interpolated", "sustained"]
NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def steps_to_threshold(curve: pd.DataFrame, threshold: float, rule: Rule = "first") -> float:
    """Return the first evaluated step at which a curve is at the threshold, NaN where it never is (censored).

    ``curve`` has columns step and value. ``"interpolated"`` is where the line from the evaluation before to that one
    crosses the threshold, which no spacing of evaluations rounds; ``"sustained"`` wants every later evaluation to be
    there too.

    Raises:
        ValueError: for an unknown rule.
    """
    known("rule", rule, get_args(Rule))
    return _crossing(*_ordered(curve), threshold, rule)


def _ordered(curve: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    steps, values = curve["step"].to_numpy(dtype=float), curve["value"].to_numpy(dtype=float)
    order = np.argsort(steps, kind="stable")
    return steps[order], values[order]


def _crossing(steps: np.ndarray, values: np.ndarray, threshold: float, rule: Rule) -> float:
    above = values >= threshold
    if rule == "sustained":
        above = np.logical_and.accumulate(above[::-1])[::-1]
    if not above.any():
        return float("nan")
    at = int(above.argmax())
    if rule == "interpolated" and at and values[at - 1] < threshold:
        return float(np.interp(threshold, values[at - 1 : at + 1], steps[at - 1 : at + 1]))
    return float(steps[at])


def threshold_times(
    metrics: pd.DataFrame, threshold: float = 0.95, split: str = "ic", measure: str = "accuracy", rule: Rule = "first"
) -> pd.DataFrame:
    """Return one row a run: variant, seed, steps to the threshold (NaN: not reached by ``last``), last step, curve.

    ``metrics`` has columns variant, seed, step, split, measure, value. A variant and a seed name one run: what differs
    in anything else is no other seed. ``curve`` is the hash of what was measured up to the threshold: runs with equal
    ones went the same way.

    Raises:
        ValueError: if several runs share a variant and a seed, naming some of them, or a row lacks either.
    """
    chosen = metrics[(metrics.split == split) & (metrics.measure == measure)]
    require_one_run_each(chosen, at=("step",))
    known("rule", rule, get_args(Rule))
    rows = []
    for (variant, seed), curve in chosen.groupby(["variant", "seed"], sort=False, observed=True):
        steps, values = _ordered(curve)
        at = _crossing(steps, values, threshold, rule)
        went = slice(None if np.isnan(at) else int(np.searchsorted(steps, at)) + 1)
        way = hashlib.sha256(np.stack([steps[went], values[went]]).tobytes()).hexdigest()[:16]
        rows.append({"variant": variant, "seed": seed, "steps": at, "last": float(steps[-1]), "curve": way})
    return pd.DataFrame(rows, columns=["variant", "seed", "steps", "last", "curve"])


def threshold_table(
    times: pd.DataFrame, reference: str = "classic", confidence: float = 0.95, horizon: float | None = None
) -> pd.DataFrame:
    """Return one row a variant: runs, how many reached the threshold, and how soon, with and without the censored.

    Without them: ``steps`` is the mean over runs that reached the threshold, and ``ratio`` the paired ratio to
    ``reference`` over the ``pairs`` of which both runs did. Where runs are censored (column ``reached`` tells) both
    flatter a variant that often fails. With them: ``median``; ``restricted_mean`` of min(steps, horizon);
    ``restricted_difference`` to the reference, paired over the ``restricted_pairs`` seeds that both have;
    ``logrank_p``, unpaired. Ends of intervals are ``_low`` and ``_high``; what cannot be had is NaN.

    Raises:
        ValueError: as :func:`analysis.statistics.survival.times_of` and
        :func:`analysis.statistics.survival.shared_horizon`.
    """
    horizon = shared_horizon(times, horizon)
    by_seed = times.pivot(index="seed", columns="variant", values="steps")
    rows = []
    for variant in times["variant"].drop_duplicates():
        reached, runs = by_seed[variant].dropna(), times_of(times, variant)
        row = {"variant": variant, "runs": len(runs.steps), "reached": len(reached)}
        row |= _named("steps", mean_interval(reached.to_numpy(), confidence))
        row |= _ratio(by_seed, variant, reference, confidence)
        row |= dict(zip(("median", "median_low", "median_high"), median_time(runs, confidence), strict=True))
        row |= {"horizon": horizon, **_named("restricted_mean", restricted_mean(runs, horizon, confidence))}
        row |= _censored(times, variant, reference, horizon, confidence)
        rows.append(row)
    return pd.DataFrame(rows)


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _ratio(by_seed: pd.DataFrame, variant: str, reference: str, confidence: float) -> dict[str, float]:
    ratio = NOTHING
    if reference in by_seed and variant != reference:
        both = by_seed[[variant, reference]].dropna()
        both = both[(both > 0).all(axis=1)]
        if len(both):
            ratio = paired_ratio(both[variant].to_numpy(), both[reference].to_numpy(), confidence)
    return {**_named("ratio", ratio), "pairs": ratio.n}


def _censored(times: pd.DataFrame, variant: str, reference: str, horizon: float, confidence: float) -> dict[str, float]:
    """What the censored runs say too: the paired difference of restricted means, and the log-rank p of all runs."""
    difference, p = NOTHING, float("nan")
    if reference in set(times["variant"]) and variant != reference:
        p = logrank_p(times_of(times, variant), times_of(times, reference))
        seeds = times.groupby("seed")["variant"].transform(lambda names: {variant, reference} <= set(names))
        shared = times[seeds.astype(bool)]
        if shared["seed"].nunique() >= 2:
            first, second = times_of(shared, variant), times_of(shared, reference)
            if horizon <= min(first.known_until, second.known_until):
                difference = paired_restricted(first, second, horizon).interval("t", confidence)
    return {**_named("restricted_difference", difference), "restricted_pairs": difference.n, "logrank_p": p}
