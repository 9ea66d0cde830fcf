"""Times to a threshold: read off learning curves, and tabulated with and without the runs that never reach it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from analysis.statistics import Interval, mean_interval, paired_ratio
from analysis.survival import logrank_p, median_time, paired_restricted, restricted_mean, shared_horizon, times_of
from circuits.errors import known, require

Rule = Literal["first", "sustained"]
NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def steps_to_threshold(curve: pd.DataFrame, threshold: float, rule: Rule = "first") -> float:
    """Return the first evaluated step at which a curve is at the threshold, NaN where it never is (censored).

    ``curve`` has columns step and value. ``"sustained"`` wants every later evaluation to be there too.

    Raises:
        ValueError: for an unknown rule.
    """
    known("rule", rule, ("first", "sustained"))
    ordered = curve.sort_values("step")
    above = ordered["value"].to_numpy() >= threshold
    if rule == "sustained":
        above = np.logical_and.accumulate(above[::-1])[::-1]
    return float(ordered["step"].to_numpy()[above.argmax()]) if above.any() else float("nan")


def threshold_times(
    metrics: pd.DataFrame, threshold: float = 0.95, split: str = "ic", measure: str = "accuracy", rule: Rule = "first"
) -> pd.DataFrame:
    """Return one row a run: variant, seed, steps to the threshold (NaN: not reached by ``last``), last step.

    ``metrics`` has columns variant, seed, step, split, measure, value. A variant and a seed name one run: what differs
    in anything else is no other seed.

    Raises:
        ValueError: if several runs share a variant and a seed, naming some of them, or a row lacks either.
    """
    chosen = metrics[(metrics.split == split) & (metrics.measure == measure)]
    _check_one_run_each(chosen)
    rows = [
        {"variant": v, "seed": s, "steps": steps_to_threshold(c, threshold, rule), "last": float(c.step.max())}
        for (v, s), c in chosen.groupby(["variant", "seed"], sort=False, observed=True)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "steps", "last"])


def _check_one_run_each(rows: pd.DataFrame) -> None:
    by = ["variant", "seed"]
    require(not rows[by].isna().any(axis=None), "some rows name no variant or no seed: give both, or drop those rows")
    twice = rows[rows.duplicated([*by, "step"], keep=False)]
    if "run" in rows:
        several = rows.groupby(by, observed=True)["run"].transform("nunique") > 1
        twice = rows[several] if several.any() else twice
    if len(twice):
        variant, seed = twice.iloc[0][by]
        runs = f" ({', '.join(map(str, twice['run'].unique()[:3]))})" if "run" in twice else ""
        raise ValueError(
            f"several runs are of the variant {variant!r} and the seed {seed}{runs}: they would be merged into one "
            f"curve; choose those that differ in variant and seed alone, each once, and ask of the others by themselves"
        )


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
        ValueError: as :func:`analysis.survival.times_of` and :func:`analysis.survival.shared_horizon`.
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
