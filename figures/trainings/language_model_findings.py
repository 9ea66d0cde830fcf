"""What curves of language models say in a sentence: how far they part on the way, and whether they end apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from figures.findings import LEAST, number, plain, spelt
from figures.trainings.learning import reference_of
from figures.words import fitting, listed

_SHORT = {"probability": "P(right answer)", "wrong_probability": "P(wrong answer)"}
"""Measures whose names are too long for a title."""
_LEVEL = 0.05
"""Below this adjusted p two variants are told apart."""
MILLION = 1e6


def loss_finding(
    less: Mapping[str, pd.DataFrame], base: pd.DataFrame, reference: str, ends: pd.DataFrame | None
) -> str:
    """Return by how much a variant's loss is below the reference's on the way at most, and what is said of the end.

    ``less`` are the curves of differences, ``base`` is the reference's own; ``ends`` is as for
    :func:`figures.loss_curves`.
    """
    if not less:
        return f"The loss of {reference} ends at {number(base.iloc[-1].to_dict(), 'mean')} nats"
    deepest = {variant: float(curve["mean"].min()) for variant, curve in less.items()}
    first = min(deepest, key=lambda variant: deepest[variant])
    if deepest[first] > -LEAST:
        way = f"No variant is below {reference} on the way"
    else:
        way = f"{first} is up to {-deepest[first]:.2f} nats below {reference} on the way"
    if ends is not None:
        return fitting(f"{way}; at the end {_told(ends, reference)}", way)
    last = {variant: curve.iloc[-1].to_dict() for variant, curve in less.items()}
    lowest = min(last, key=lambda variant: last[variant]["mean"])
    return fitting(f"{way}; at the end {lowest}'s minus {reference}'s is {number(last[lowest], 'mean')}", way)


def _told(ends: pd.DataFrame, reference: str) -> str:
    """Which variants are told apart from the reference at the end."""
    variants = list(dict.fromkeys(ends.variant))
    apart = list(dict.fromkeys(ends.variant[ends.p_adjusted < _LEVEL]))
    if not apart:
        return f"{'no variant is' if len(variants) > 1 else f'{variants[0]} is not'} told apart from {reference}"
    return f"{listed(apart)} {'is' if len(apart) == 1 else 'are'} told apart from {reference}"


def levels_finding(
    lasts: Mapping[tuple[str, str], dict[Any, Any]],
    splits: Sequence[str],
    measure: str,
    words: Mapping[str, str],
    ends: pd.DataFrame | None,
) -> str:
    """Return where curves end, and where ``ends`` are given, whether that is told apart from the reference's.

    ``lasts`` are the last points of curves by set and variant.
    """
    variants = list(dict.fromkeys(variant for _, variant in lasts))
    reference, what = reference_of(variants), _SHORT.get(measure, spelt(measure))
    others = [variant for variant in variants if variant != reference]
    first = splits[0]
    if not others or ends is None:
        best = max(variants, key=lambda variant: lasts[first, variant]["mean"])
        other = "" if best == reference else reference
        if others and not other:
            other = max(others, key=lambda variant: lasts[first, variant]["mean"])
        return fitting(
            *(
                f"The {what} ends at {of(lasts[first, best])}{f' in {best}' if others else ''}"
                + (f", at {of(lasts[first, other])} in {other}" if other else "")
                + f" ({words.get(first, first)})"
                for of in (lambda row: number(row, "mean"), lambda row: plain(row["mean"]))
            )
        )
    apart = ends[ends.p_adjusted < _LEVEL].sort_values("p_adjusted", kind="stable")
    split, variant = (first, others[0]) if apart.empty else (apart.split.iloc[0], apart.variant.iloc[0])
    if apart.empty and len(others) > 1:
        variant = max(others, key=lambda one: lasts[first, one]["mean"])
    alone = len(others) == 1 or apart.variant.nunique() == 1
    of = "" if alone else f" in {variant}"
    numbers = f"{plain(lasts[split, variant]['mean'])}{of} against {plain(lasts[split, reference]['mean'])}"
    return fitting(
        f"At the end {_told(ends, reference)}: {what} {numbers} ({words.get(split, split)})",
        f"At the end {_told(ends, reference)}: {what} {numbers}",
        f"At the end {_told(ends, reference)}",
    )


def gap_finding(curves: Mapping[str, pd.DataFrame], levels: Mapping[str, float]) -> str:
    """Return how far the second curve is above the first at most, and at the end, beside the gap of their levels.

    Where it is nowhere above by what two digits show, that is said instead of how far.
    """
    (low, below), (high, above) = curves.items()
    gap = above.set_index("tokens")["mean"] - below.set_index("tokens")["mean"]
    most, at = float(gap.max()), float(gap.index[int(gap.argmax())]) / MILLION
    end, papers = f"at the end {plain(float(gap.iloc[-1]))}", f"in the paper {plain(levels[high] - levels[low])}"
    if most < LEAST:
        return f"As they learn, {high} is nowhere above {low}, {end}; {papers}"
    above_by = f"As they learn, {high} is up to {plain(most)} above {low}"
    return fitting(f"{above_by} (at {at:.1f} million tokens), {end}; {papers}", f"{above_by}; {papers}")
