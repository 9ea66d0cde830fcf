"""Times to a threshold: read off learning curves, and tabulated."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import numpy as np
import pandas as pd

from analysis.statistics.intervals import POSITIVE, Interval, mean_interval, paired_ratio
from analysis.statistics.one_run_each import require_one_run_each
from circuits.common.errors import known

Rule = Literal["first", "interpolated", "sustained"]


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
    ones went the same way. Of a measure that falls as a run learns (``"loss"``), it is there where it is at the
    threshold or below.

    Raises:
        UnknownNameError: for a split or a measure that was not measured (nearest suggested), or an unknown rule.
        ValueError: if several runs share a variant and a seed, naming some of them, or a row lacks either.
    """
    for kind, name in (("split", split), ("measure", measure)) if len(metrics) else ():
        known(kind, name, list(dict.fromkeys(metrics[kind])))
    chosen = metrics[(metrics.split == split) & (metrics.measure == measure)]
    require_one_run_each(chosen, at=("step",))
    known("rule", rule, get_args(Rule))
    rows = []
    for (variant, seed), curve in chosen.groupby(["variant", "seed"], sort=False, observed=True):
        steps, values = _ordered(curve)
        sign = -1.0 if measure in POSITIVE else 1.0
        at = _crossing(steps, sign * values, sign * threshold, rule)
        went = slice(None if np.isnan(at) else int(np.searchsorted(steps, at)) + 1)
        way = hashlib.sha256(np.stack([steps[went], values[went]]).tobytes()).hexdigest()[:16]
        rows.append({"variant": variant, "seed": seed, "steps": at, "last": float(steps[-1]), "curve": way})
    return pd.DataFrame(rows, columns=["variant", "seed", "steps", "last", "curve"])


def threshold_table(times: pd.DataFrame, reference: str | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Return one row a variant: runs, how many reached the threshold, their steps, and the ratio to the reference's.

    ``steps`` is the mean over runs that reached the threshold, and ``ratio`` the paired ratio over the ``pairs`` of
    which both did; both flatter a variant that often fails (column ``reached`` tells): :func:`analysis.compare` counts
    the censored too. Ends of intervals are ``_low`` and ``_high``; what cannot be had is NaN. The reference is by
    default classic, and without classic there is no ratio.

    Raises:
        UnknownNameError: for a reference that is none of the variants (nearest suggested).
        ValueError: for a confidence that is none.
    """
    variants = list(dict.fromkeys(times["variant"]))
    reference = "classic" if reference is None else known("reference", reference, variants)
    by_seed = times.pivot(index="seed", columns="variant", values="steps")
    rows = []
    for variant in variants:
        reached = by_seed[variant].dropna()
        ratio = Interval(float("nan"), float("nan"), float("nan"), 0)
        if reference in by_seed and variant != reference:
            both = by_seed[[variant, reference]].dropna()
            both = both[(both > 0).all(axis=1)]
            ratio = (
                paired_ratio(both[variant].to_numpy(), both[reference].to_numpy(), confidence) if len(both) else ratio
            )
        row = {"variant": variant, "runs": int((times["variant"] == variant).sum()), "reached": len(reached)}
        for name, found in (("steps", mean_interval(reached.to_numpy(), confidence)), ("ratio", ratio)):
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row | {"pairs": ratio.n})
    return pd.DataFrame(rows)
