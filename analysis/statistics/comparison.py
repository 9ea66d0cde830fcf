"""Variants against a reference, paired by seed, in one call: for a measure's values or for times to a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.result import Table, columns
from analysis.statistics.intervals import CORRECTIONS, EFFECTS, adjust, require_confidence
from analysis.statistics.paired_seeds import CONTRASTS, INTERVALS, Contrast, PairedSeeds, paired_seeds
from analysis.statistics.survival import logrank_p, paired_restricted, shared_horizon, times_of
from circuits.common.errors import known, require, whole
from circuits.common.showing import ROWS

NAMES = {
    "contrast": CONTRASTS,
    "interval": INTERVALS,
    "test": ("permutation", "t", "log-rank"),
    "effect": tuple(EFFECTS),
    "correction": tuple(CORRECTIONS),
}
"""What :func:`compare` can be asked for, by name."""


class Comparison(Table):
    """Variants compared with a reference over paired seeds, a row each."""

    def finding(self) -> str:
        """Return every variant's estimate with its interval, adjusted p, and the smallest effect that could show."""
        first = self.frame.iloc[0]
        said = "; ".join(_said(row) for _, row in self.frame.iterrows())
        return (
            f"{first.contrast} to {first.reference} over {first.pairs} paired seeds: {said} (could show: the "
            f"smallest effect that so many seeds show with 80 % power)"
        )

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the first ``n`` rows: estimate, interval, effect size, p and what could have shown."""
        numbers = "pairs estimate low high effect_size p p_adjusted p_equivalent smallest reached reference_reached"
        return self.frame[columns(self.frame, ("variant", "reference"), numbers)].head(n)

    def figure(self) -> Any:
        """Return the estimates with their intervals (a plotly figure)."""
        from figures.comparison import comparison_dots

        return comparison_dots(self.frame)


def _said(row: Any) -> str:
    if np.isnan(row.estimate):
        return f"{row.variant}: neither got there"
    shown = "" if np.isnan(row.smallest) else f", could show {row.smallest:.3g}"
    ends = "(no interval)" if np.isnan(row.low) else f"[{row.low:.3g}, {row.high:.3g}]"
    return f"{row.variant} {row.estimate:.3g} {ends}, p = {row.p_adjusted:.2g}{shown}"


def compare(
    frame: pd.DataFrame,
    reference: str = "classic",
    *,
    contrast: Contrast = "difference",
    interval: str = "t",
    test: str = "t",
    effect: str = "g_z",
    correction: str = "bonferroni",
    confidence: float = 0.95,
    margin: float | None = None,
    horizon: float | None = None,
    n_resamples: int = 9_999,
    seed: int = 0,
) -> Comparison:
    """Return one row a variant, compared with ``reference`` over the seeds that they share.

    ``frame`` has one row a run: variant, seed and value, or for times that may be censored variant, seed, steps
    (NaN: censored) and last. Estimates are variant minus reference of means, or with ``contrast="ratio"`` variant
    divided by reference of geometric means; of times, of means restricted to a ``horizon`` (by default the latest that
    every variant's curve reaches). Of a variant of which, as of the reference, no run got there before the horizon,
    nothing is judged (NaN), and it is not in the family. ``"log-rank"`` is for times and takes no account of pairs. For
    the rest, and the columns that every comparison has, see :func:`judge`.

    Columns: variant, reference, those of :func:`judge`; for times horizon, reached and reference_reached; confidence,
    and the names of contrast, interval, test, effect and correction.

    Raises:
        ValueError: for an unknown name, a missing column or number, no other variant, fewer than two pairs, seeds that
            differ or repeat, negative times, a horizon beyond every observation, a confidence that is none, or for
            resamples a seed that is no whole number of 0 or more.
    """
    named = {"contrast": contrast, "interval": interval, "test": test, "effect": effect, "correction": correction}
    for kind, name in named.items():
        known(kind, name, NAMES[kind])
    seed = whole("seed", seed, 0)
    timed = "steps" in frame
    require(timed or test != "log-rank", "the log-rank test is for times: give columns steps and last, or another test")
    require(timed or horizon is None, "a horizon is for times: give columns steps and last, or no horizon")
    others = _checked(frame, reference, timed)
    until = shared_horizon(frame, horizon) if timed else float("nan")
    pairs, rows = [], []
    for variant in others:
        row: dict[str, Any] = {"variant": variant, "reference": reference}
        if timed:
            pair, more = _times(frame, variant, reference, contrast, until)
        else:
            pair, more = paired_seeds(_values(frame, variant), _values(frame, reference), contrast), {}
        pairs.append(pair)
        rows.append(row | more)
    told = [i for i, pair in enumerate(pairs) if pair.seen > 0]
    by_rank = [logrank_p(times_of(frame, others[i]), times_of(frame, reference)) for i in told if test == "log-rank"]
    options: dict[str, Any] = {"interval": interval, "test": test, "effect": effect, "correction": correction}
    options |= {"confidence": confidence, "margin": margin, "n_resamples": n_resamples, "seed": seed}
    judged = judge([pairs[i] for i in told], by_rank or None, **options).set_axis(told).reindex(range(len(pairs)))
    judged["pairs"] = [len(pair.scores) for pair in pairs]
    return Comparison(pd.concat([pd.DataFrame(rows), judged], axis=1).assign(confidence=confidence, **named))


def judge(
    pairs: Sequence[PairedSeeds],
    p: Sequence[float] | None = None,
    *,
    interval: str = "t",
    test: str = "t",
    effect: str = "g_z",
    correction: str = "bonferroni",
    confidence: float = 0.95,
    margin: float | None = None,
    n_resamples: int = 9_999,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row a comparison of one family, its intervals and p-values adjusted alike.

    Of k comparisons, intervals have the confidence 1 - (1 - confidence) / k, unless the correction is ``"none"``.
    So with interval and test ``"t"`` and the correction ``"bonferroni"`` or ``"none"``, an interval excludes no effect
    exactly where ``p_adjusted`` is below 1 - confidence. (No simple interval agrees with Holm's p or with
    Benjamini-Hochberg's: theirs are wider than those p-values ask for.) Pairs that all differ alike have no interval
    (NaN), and p by exchanges within pairs. ``p`` stands for the test's p-values.

    Columns: pairs, estimate, low, high, effect_size, p, p_adjusted, smallest (the effect that so many seeds show with
    80 % power at the adjusted level: see :meth:`analysis.statistics.paired_seeds.PairedSeeds.smallest_shown`), and
    with a ``margin`` p_equivalent (adjusted): an effect is absent only where that is below 1 - confidence. Without
    pairs there is no row.

    Raises:
        ValueError: for an unknown name, a confidence or a margin that is none, or a seed that is no whole number of 0
            or more.

    Source: Dunn, JASA 56, 1961, for the intervals.
    """
    require_confidence(confidence)
    seed = whole("seed", seed, 0)
    level = (1 - confidence) / (1 if correction == "none" else max(len(pairs), 1))
    rows = []
    for i, pair in enumerate(pairs):
        found = pair.interval(interval, 1 - level, n_resamples, seed)
        row = {"pairs": found.n, "estimate": found.mean, "low": found.low, "high": found.high}
        row |= {"effect_size": pair.effect(effect), "p": p[i] if p else _p(pair, test, n_resamples, seed)}
        row |= {
            "smallest": pair.smallest_shown(level),
            "p_equivalent": pair.equivalence_p(margin) if margin is not None else 1.0,
        }
        rows.append(row)
    numbers = ("estimate", "low", "high", "effect_size", "p", "smallest", "p_equivalent")
    table = pd.DataFrame(rows, columns=["pairs", *numbers]).astype({"pairs": int} | dict.fromkeys(numbers, float))
    for name, source in (("p_adjusted", "p"), ("p_equivalent", "p_equivalent")):
        table[name] = adjust(table[source].to_numpy(), correction)
    return table if margin is not None else table.drop(columns="p_equivalent")


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
    return frame[frame["variant"] == variant].sort_values("seed", kind="stable")["value"].to_numpy(dtype=float)


def _times(
    frame: pd.DataFrame, variant: str, reference: str, contrast: Contrast, horizon: float
) -> tuple[PairedSeeds, dict[str, float]]:
    first, second = times_of(frame, variant), times_of(frame, reference)
    reached = {"reached": int(first.reached.sum()), "reference_reached": int(second.reached.sum())}
    return paired_restricted(first, second, horizon, contrast), {"horizon": horizon, **reached}


def _p(pair: PairedSeeds, test: str, n_resamples: int, seed: int) -> float:
    return pair.t_p() if known("test", test, ("t", "permutation")) == "t" else pair.permutation_p(n_resamples, seed)
