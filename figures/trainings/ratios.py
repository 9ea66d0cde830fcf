"""Ratios of the steps that variants take to learn, a dot with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.common.palette import GREY
from circuits.common.text_table import rows_of
from figures.axes import log_ticks
from figures.curves import whiskers
from figures.panels import Panel, entitle, lay_out
from figures.theme import WIDTH, colours, themed
from figures.trainings.verdicts import FEW, OTHER, explain, finding, verdict_of, words_of
from figures.words import gates, listed, span

SHOWN = (0.15, 4.5)
"""Ratios that an axis shows at most, beside the dots themselves; intervals may leave it, and an arrow says so."""


def time_ratios(table: pd.DataFrame, runs: Sequence[str] = (), title: str = "", of: str = "") -> go.Figure:
    """Return the ratio of every variant's steps to its reference's, a dot with its interval, by reference.

    ``table`` has columns condition, variant, reference, ratio, low, high, p_adjusted, p_equivalent (to 1, within
    ``margin``), pairs, and it may have same_as (of runs that went the same way as others'). The symbol is the verdict:
    filled where told apart from 1, a diamond where equivalent, open where neither; a row without a ratio says why.
    ``of`` says of what size and task; without a ``title`` the figure says what the table does.
    """
    shown = table.assign(ratio_row=_row_names(table))
    figure, panels = go.Figure(), _panels(shown)
    low, high = _frame(shown)
    heights, left, axes = lay_out(figure, list(panels), WIDTH - 30)
    palette = colours(map(str, shown.variant.unique()), OTHER)
    for panel, rows in panels.items():
        for trace in [*_dots(rows, palette), *_arrows(rows, palette, low, high), *_without(rows, low)]:
            figure.add_trace(trace.update({"showlegend": False} | axes[panel]))
        place = {"xref": axes[panel]["xaxis"], "yref": f"{axes[panel]['yaxis']} domain"}
        line = {"color": GREY, "width": 1, "dash": "dash"}
        figure.add_shape(type="line", x0=1, x1=1, y0=0, y1=1, line=line, layer="above", **place)
    figure.update_xaxes(log_ticks(low, high) | {"tickangle": 0})
    figure.update_xaxes(range=[math.log10(low), math.log10(high)], zeroline=False)
    entitle(figure, axes)
    explain(figure, shown)
    cut = bool((shown.low < low).any() or (shown.high > high).any())
    caption = (
        "Ratio of restricted mean steps to the threshold, log axis. Intervals: 95 %, paired t, and p: both "
        "Bonferroni-adjusted over all comparisons of the table, so that an interval excludes 1 exactly where p < 0.05."
        + (" Arrows: the interval goes on beyond the frame." if cut else "")
        + gates(shown.variant)
    )
    pairs = shown.pairs[shown.ratio.notna()]
    paired = f"{span(pairs)} pairs of runs of one seed a comparison" if len(pairs) else ""
    whose = "; ".join(part for part in (of, paired) if part)
    return themed(figure, title or finding(table), caption, runs, height=heights + 188, left=left, of=whose)


def _row_names(table: pd.DataFrame) -> pd.Series:
    by_condition = _by_comparison(table)
    return (table.condition if by_condition else table.variant).astype(str)


def _by_comparison(table: pd.DataFrame) -> bool:
    """Whether there is a panel a comparison, and a row a condition."""
    n = len(table.drop_duplicates(["variant", "reference"]))
    return n <= FEW and n < table.condition.nunique()


def _panels(table: pd.DataFrame) -> dict[Panel, pd.DataFrame]:
    """The rows of every panel: of a comparison, or of a condition and a reference."""
    by_comparison, several = _by_comparison(table), table.condition.nunique() > 1
    found: dict[Panel, pd.DataFrame] = {}
    for key, rows in table.groupby(["variant" if by_comparison else "condition", "reference"], sort=False):
        title = str(key[0]) if several else ""
        axis = f"times {key[1]}'s steps"
        found[Panel(title, axis, tuple(dict.fromkeys(rows.ratio_row)))] = rows
    return found


def _frame(table: pd.DataFrame) -> tuple[float, float]:
    """The least and the largest ratio of the axis: of all dots, and of the intervals as far as ``SHOWN``."""
    known = table[table.ratio.notna()]
    if known.empty:
        return 0.5, 2.0
    low = min(max(SHOWN[0], known.low.min()), known.ratio.min(), 1.0)
    high = max(min(SHOWN[1], known.high.max()), known.ratio.max(), 1.0)
    room = (high / low) ** 0.04 if high > low else 1.05
    return low / room, high * room


def _dots(rows: pd.DataFrame, palette: dict[str, str]) -> list[go.Scatter]:
    """A trace a colour."""
    known = rows[rows.ratio.notna()]
    hues = known.variant.map(palette)
    return [
        go.Scatter(
            x=some.ratio,
            y=some.ratio_row,
            error_x=whiskers(some.ratio, some.low, some.high, width=3, color=hue),
            mode="markers",
            marker={"color": hue, "size": 9, "symbol": [verdict_of(row).symbol for row in rows_of(some)]},
            name=listed(some.variant.unique()),
            hovertext=[_told(row) for row in rows_of(some)],
            hoverinfo="text",
        )
        for hue, some in known.groupby(hues, sort=False)
    ]


def _told(row: Any) -> str:
    """A row in words, for who points at it."""
    p = "p < 0.001" if row.p_adjusted < 0.001 else f"p = {row.p_adjusted:.2g}"
    return (
        f"{row.variant} / {row.reference}, {row.condition}: {row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}] "
        f"times the steps, {p} (adjusted), {row.pairs:.0f} pairs: {words_of(row)}"
    )


def _arrows(rows: pd.DataFrame, palette: dict[str, str], low: float, high: float) -> list[go.Scatter]:
    """At the edge of the frame, where intervals go on."""
    traces = []
    inside = (high / low) ** 0.012  # so that no arrow lies on a row's name
    ends = ((rows.low < low, low * inside, "triangle-left"), (rows.high > high, high / inside, "triangle-right"))
    for out, edge, symbol in ends:
        some = rows[out]
        if len(some):
            traces.append(
                go.Scatter(
                    x=[edge] * len(some),
                    y=some.ratio_row,
                    mode="markers",
                    marker={"color": [palette[str(v)] for v in some.variant], "size": 9, "symbol": symbol},
                    hovertext=[_told(row) for row in rows_of(some)],
                    hoverinfo="text",
                )
            )
    return traces


def _without(rows: pd.DataFrame, low: float) -> list[go.Scatter]:
    """Why there is no ratio, where there is none."""
    some = rows[rows.ratio.isna()]
    if some.empty:
        return []
    said = [words_of(row) for row in rows_of(some)]
    return [
        go.Scatter(
            x=[low] * len(some),
            y=some.ratio_row,
            mode="text",
            text=[f" {words}" for words in said],
            textposition="middle right",
            textfont={"color": OTHER, "size": 12},
            hovertext=[
                f"{row.variant} / {row.reference}: {words}" for row, words in zip(rows_of(some), said, strict=True)
            ],
            hoverinfo="text",
        )
    ]
