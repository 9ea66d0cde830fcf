"""Curves with intervals: the mean over seeds and its band."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.statistics.intervals import Scale, mean_interval, scale_of
from analysis.statistics.one_run_each import require_one_run_each
from figures.theme import faded


def over_seeds(frame: pd.DataFrame, by: str = "step", scale: Scale | None = None) -> pd.DataFrame:
    """Return mean, low and high (95 % t interval over seeds) of ``value`` at every ``by`` that all seeds have.

    Beyond the first end of a run the mean would be of those that learn later, or not at all. The scale is by default
    that of the measure: intervals of what lies between 0 and 1 stay there (see :func:`analysis.mean_interval`).

    Raises:
        ValueError: if a seed has several runs, or a run comes twice.
    """
    if "seed" in frame:
        require_one_run_each(frame, (), at=(by,))
    rows = []
    scale = scale or scale_of(str(frame["measure"].iloc[0]) if "measure" in frame and len(frame) else "")
    for at, values in frame.groupby(by)["value"]:
        interval = mean_interval(values.to_numpy(), scale=scale)
        rows.append({by: at, "mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n})
    curve = pd.DataFrame(rows)
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
    if known.empty:
        return [line]
    edge = go.Scatter(
        x=pd.concat([known["step"], known["step"][::-1]]),
        y=pd.concat([known["high"], known["low"][::-1]]),
        fill="toself",
        fillcolor=faded(colour, 0.14),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
    )
    return [edge, line]


def seeds_caption(frame: pd.DataFrame) -> str:
    """Return how many seeds stand behind a figure, in words."""
    n = frame.groupby("variant")["seed"].nunique()
    if n.max() == 1:
        return "One seed; no interval."
    many = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
    ends = frame.groupby(["variant", "seed"])["step"].max().groupby("variant").nunique()
    early = " A curve ends where the first of its runs ended." if ends.max() > 1 else ""
    return f"Mean over {many} seeds; bands are 95 % t intervals over seeds.{early}"
