"""Curves with intervals: the mean over seeds, its band, the seeds themselves, and where they cross a line."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuits.common.errors import require
from figures.theme import dash, faded
from figures.words import span

FEW = 5
"""Of no more seeds than so many, each is drawn."""


def curve_of(rows: pd.DataFrame, by: str = "step") -> pd.DataFrame:
    """Return one row a point of a variant's curve, in the order of ``by``, as far as all of its seeds count.

    Those that ended because they had learned count on (see :func:`analysis.over_seeds`); where another ended, the
    curve ends: beyond, the mean would be of those that learn later, or not at all. ``rows`` are of one variant, split
    and measure, with the columns mean, low, high and n of :func:`analysis.over_seeds`.

    Raises:
        ValueError: if these columns are not there.
    """
    missing = [name for name in ("mean", "low", "high", "n") if name not in rows]
    require(not missing, f"a curve has no {' and no '.join(missing)}: analysis.over_seeds(metrics) makes these columns")
    curve = rows.drop_duplicates(by).sort_values(by, kind="stable")
    return curve[curve.n == curve.n.max()]


def band(curve: pd.DataFrame, name: str, colour: str, style: str = "solid", **where: Any) -> list[go.Scatter]:
    """Return the traces of one curve: its band, where there is one, and its line."""
    known = curve.dropna(subset=["low", "high"])
    ends = "" if known.empty else " [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
    seeds = ", mean of %{customdata[2]} seeds" if "n" in curve and len(known) else ", one run"
    line = go.Scatter(
        x=curve["step"],
        y=curve["mean"],
        customdata=None if known.empty else curve.reindex(columns=["low", "high", "n"]).to_numpy(),
        name=name,
        legendgroup=name,
        mode="lines" if len(curve) > 1 else "markers",
        line={"color": colour, "dash": style, "width": 2.2},
        hovertemplate="step %{x:,}: %{y:.3f}" + ends + seeds + "<extra>" + name + "</extra>",
        **where,
    )
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


def few(frame: pd.DataFrame) -> bool:
    """Return whether every seed of a frame is drawn: no variant has one alone, nor more than ``FEW``."""
    seeds = frame.groupby("variant")["seed"].nunique()
    return bool(1 < seeds.max() <= FEW)


def seeds(rows: pd.DataFrame, name: str, colour: str) -> list[go.Scatter]:
    """Return a thin line a seed, as far as it was measured; ``rows`` are of one variant, split and measure."""
    return [
        go.Scatter(
            x=run["step"],
            y=run["value"],
            mode="lines",
            line={"color": faded(colour, 0.45), "width": 0.8},
            name=f"{name}, seed {seed}",
            legendgroup=name,
            showlegend=False,
            hovertemplate="step %{x:,}: %{y:.3f}<extra>" + f"{name}, seed {seed}, one run</extra>",
        )
        for seed, run in rows.sort_values("step", kind="stable").groupby("seed", sort=False)
    ]


def drawn(
    rows: pd.DataFrame, colour: str, each: bool, style: str | None = None, name: str = "", showlegend: bool = True
) -> list[go.Scatter]:
    """Return the traces of a variant: the seeds themselves where ``each``, the band over them, and the mean.

    ``rows`` are of one variant, split and measure; colour and the style of the line are the variant's.
    """
    variant = str(rows.variant.iloc[0])
    mean = band(curve_of(rows), name or variant, colour, dash(variant) if style is None else style)
    mean[-1].showlegend = showlegend
    return [*(seeds(rows, name or variant, colour) if each else []), *mean]


class Crossing(NamedTuple):
    """Where a mean curve comes to a level, and where its band does: NaN for never."""

    step: float
    early: float
    late: float

    @property
    def reached(self) -> bool:
        """Whether the mean comes to the level."""
        return not np.isnan(self.step)

    def apart(self, other: Crossing) -> bool:
        """Return whether the two bands come to the level at steps that do not overlap; without bands, never."""
        if not (self.early < np.inf and other.early < np.inf):
            return False
        return bool(self.late < other.early or other.late < self.early)

    def __str__(self) -> str:
        late = f"{_rounded(self.late):,}" if self.late < np.inf else "later"
        return f"{_rounded(self.step):,}" + ("" if np.isnan(self.early) else f" [{_rounded(self.early):,}, {late}]")


def _rounded(step: float) -> int:
    """Three digits, which is more than evaluations and seeds tell."""
    return int(float(f"{step:.3g}"))


def crossing(curve: pd.DataFrame, level: float) -> Crossing:
    """Return where a curve comes to a level from below, on the straight line between two points.

    ``curve`` is :func:`curve_of`'s. Without a band both its steps are NaN; a band whose low end never comes there is
    there at infinity.
    """
    step, early, late = (_first(curve, end, level) for end in ("mean", "high", "low"))
    banded = bool(curve["low"].notna().any())
    return Crossing(step, early if banded else np.nan, (np.inf if np.isnan(late) else late) if banded else np.nan)


def _first(curve: pd.DataFrame, column: str, level: float) -> float:
    steps, values = curve["step"].to_numpy(dtype=float), curve[column].to_numpy(dtype=float)
    above = np.flatnonzero(values >= level)
    if not len(above):
        return float("nan")
    at = int(above[0])
    if not at or not values[at - 1] < level:
        return float(steps[at])
    return float(np.interp(level, values[at - 1 : at + 1], steps[at - 1 : at + 1]))


def seeds_caption(frame: pd.DataFrame, each: bool = False) -> str:
    """Return how many seeds stand behind a figure, in words; ``each`` is whether they are drawn too."""
    n = frame.groupby("variant")["seed"].nunique()
    if n.max() == 1:
        return "One seed; no interval."
    ends = frame.groupby(["variant", "seed"])["step"].max()
    shorter = ends < ends.groupby("variant").transform("max")
    held = frame.groupby(["variant", "seed"])["stopped"].first() if "stopped" in frame else shorter & False
    return (
        f"Mean over {span(n)} seeds; bands are 95 % t intervals over seeds."
        + (" Thin lines: each seed." if each else "")
        + (
            " Runs that ended because they had learned count on with their last value."
            if (shorter & held).any()
            else ""
        )
        + (" A curve ends where the first of its other runs ended." if (shorter & ~held).any() and held.any() else "")
        + (" A curve ends where the first of its runs ended." if (shorter & ~held).any() and not held.any() else "")
    )


def whiskers(mean: pd.Series, low: pd.Series, high: pd.Series, **style: Any) -> dict[str, Any]:
    """Return error bars from the low to the high ends of intervals."""
    return {"type": "data", "array": high - mean, "arrayminus": mean - low, **style}
