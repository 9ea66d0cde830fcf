"""Curves with intervals: the mean over seeds and its band."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.common.errors import require
from figures.theme import faded


def curve_of(rows: pd.DataFrame, by: str = "step") -> pd.DataFrame:
    """Return one row a point of a variant's curve, in the order of ``by``, as far as all of its seeds go.

    Beyond the first end of a run the mean would be of those that learn later, or not at all. ``rows`` are of one
    variant, split and measure, with the columns mean, low, high and n of :func:`analysis.over_seeds`.

    Raises:
        ValueError: if these columns are not there.
    """
    missing = [name for name in ("mean", "low", "high", "n") if name not in rows]
    require(not missing, f"a curve has no {' and no '.join(missing)}: analysis.over_seeds(metrics) makes these columns")
    curve = rows.drop_duplicates(by).sort_values(by)
    return curve[curve.n == curve.n.max()]


def band(curve: pd.DataFrame, name: str, colour: str, style: str = "solid", **where: Any) -> list[go.Scatter]:
    """Return the traces of one curve: its band, where there is one, and its line."""
    line = go.Scatter(
        x=curve["step"],
        y=curve["mean"],
        name=name,
        legendgroup=name,
        mode="lines",
        line={"color": colour, "dash": style, "width": 2.2},
        hovertemplate="step %{x:,}: %{y:.3f}<extra>" + name + "</extra>",
        **where,
    )
    known = curve.dropna(subset=["low", "high"])
    return [line] if known.empty else [edges(known, colour, name), line]


def edges(curve: pd.DataFrame, colour: str, group: str) -> go.Scatter:
    """Return the band between the low and the high ends of a curve."""
    return go.Scatter(
        x=pd.concat([curve["step"], curve["step"][::-1]]),
        y=pd.concat([curve["high"], curve["low"][::-1]]),
        mode="lines" if len(curve) < 10 else None,  # of fewer than 20 points plotly draws each otherwise
        fill="toself",
        fillcolor=faded(colour, 0.14),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
    )


def seeds_caption(frame: pd.DataFrame) -> str:
    """Return how many seeds stand behind a figure, in words."""
    n = frame.groupby("variant")["seed"].nunique()
    if n.max() == 1:
        return "One seed; no interval."
    ends = frame.groupby(["variant", "seed"])["step"].max().groupby("variant").nunique()
    early = " A curve ends where the first of its runs ended." if ends.max() > 1 else ""
    return f"Mean over {span(n)} seeds; bands are 95 % t intervals over seeds.{early}"


def span(numbers: pd.Series) -> str:
    """Return the least and the largest of some whole numbers in words, or the one that all are."""
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low}" if low == high else f"{low} to {high}"


def whiskers(mean: pd.Series, low: pd.Series, high: pd.Series, **style: Any) -> dict[str, Any]:
    """Return error bars from the low to the high ends of intervals."""
    return {"type": "data", "array": high - mean, "arrayminus": mean - low, **style}
