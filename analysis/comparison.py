"""Variants against a reference, paired by seed, in one call: for a measure's values or for times to a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.seeds import CONTRASTS, INTERVALS, Contrast, PairedSeeds, paired_seeds
from analysis.statistics import CORRECTIONS, EFFECTS, adjust
from analysis.survival import logrank_p, paired_restricted, shared_horizon, times_of
from circuits.errors import known, require

NAMES = {
    "contrast": CONTRASTS,
    "interval": INTERVALS,
    "test": ("permutation", "t", "log-rank"),
    "effect": tuple(EFFECTS),
    "correction": tuple(CORRECTIONS),
}
"""What :func:`compare` can be asked for, by name."""


def compare(
    frame: pd.DataFrame,
    reference: str = "classic",
    *,
    contrast: Contrast = "difference",
    interval: str = "t",
    test: str = "permutation",
    effect: str = "g_z",
    correction: str = "holm",
    confidence: float = 0.95,
    horizon: float | None = None,
    n_resamples: int = 9_999,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row a variant, compared with ``reference`` over the seeds that they share.

    ``frame`` has one row a run: variant, seed and value, or for times that may be censored variant, seed, steps
    (NaN: censored) and last. Estimates are variant minus reference of means, or with ``contrast="ratio"`` variant
    divided by reference of geometric means; of times, of means restricted to a ``horizon`` (by default the latest that
    every variant's curve reaches). For the tests and intervals see :class:`analysis.seeds.PairedSeeds`; ``"log-rank"``
    is for times and takes no account of pairs.

    Columns: variant, reference, pairs, estimate, low, high, effect_size, p; for times horizon, reached and
    reference_reached; p_adjusted over all rows, confidence, and the names of contrast, interval, test, effect and
    correction.

    Raises:
        ValueError: for an unknown name, a missing column or number, no other variant, fewer than two pairs, seeds that
            differ or repeat, negative times, a horizon beyond every observation.
    """
    named = {"contrast": contrast, "interval": interval, "test": test, "effect": effect, "correction": correction}
    for kind, name in named.items():
        known(kind, name, NAMES[kind])
    timed = "steps" in frame
    require(timed or test != "log-rank", "the log-rank test is for times: give columns steps and last, or another test")
    require(timed or horizon is None, "a horizon is for times: give columns steps and last, or no horizon")
    others = _checked(frame, reference, timed)
    until = shared_horizon(frame, horizon) if timed else float("nan")
    rows = []
    for variant in others:
        if timed:
            pairs, more = _times(frame, variant, reference, contrast, until)
        else:
            pairs, more = paired_seeds(_values(frame, variant), _values(frame, reference), contrast), {}
        found = pairs.interval(interval, confidence, n_resamples, seed)
        row = {"variant": variant, "reference": reference, "pairs": found.n, "estimate": found.mean}
        row |= {"low": found.low, "high": found.high, "effect_size": pairs.effect(effect)}
        row |= {"p": _p(pairs, test, frame, variant, reference, n_resamples, seed), **more}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=adjust(table["p"].to_numpy(), correction), confidence=confidence, **named)


def _checked(frame: pd.DataFrame, reference: str, timed: bool) -> list[str]:
    """The variants to compare, where the frame allows it."""
    needed = ["variant", "seed", *(["steps", "last"] if timed else ["value"])]
    missing = [name for name in needed if name not in frame]
    require(not missing, f"compare wants columns variant, seed and value, or steps and last; there is no {missing}")
    variants = list(dict.fromkeys(frame["variant"]))
    known("reference", reference, variants)
    others = [variant for variant in variants if variant != reference]
    require(bool(others), f"there is nothing to compare {reference!r} with: the frame has no other variant")
    wanted = _seeds(frame, reference)
    for variant in others:
        seeds = _seeds(frame, variant)
        require(
            seeds == wanted and len(set(seeds)) == len(seeds),
            f"paired by seed, {variant!r} and {reference!r} need the same seeds once each, got {seeds} and {wanted}: "
            "train what is missing, or drop the seeds and repeats that have no partner",
        )
    return others


def _seeds(frame: pd.DataFrame, variant: str) -> list[Any]:
    return sorted(frame.loc[frame["variant"] == variant, "seed"])


def _values(frame: pd.DataFrame, variant: str) -> np.ndarray:
    return frame[frame["variant"] == variant].sort_values("seed")["value"].to_numpy(dtype=float)


def _times(
    frame: pd.DataFrame, variant: str, reference: str, contrast: Contrast, horizon: float
) -> tuple[PairedSeeds, dict[str, float]]:
    first, second = times_of(frame, variant), times_of(frame, reference)
    reached = {"reached": int(first.reached.sum()), "reference_reached": int(second.reached.sum())}
    return paired_restricted(first, second, horizon, contrast), {"horizon": horizon, **reached}


def _p(
    pairs: PairedSeeds, test: str, frame: pd.DataFrame, variant: str, reference: str, n_resamples: int, seed: int
) -> float:
    if test == "log-rank":
        return logrank_p(times_of(frame, variant), times_of(frame, reference))
    return pairs.t_p() if test == "t" else pairs.permutation_p(n_resamples, seed)
