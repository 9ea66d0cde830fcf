"""What a variant brings against classic of the same size, and what it costs: ratios and differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import BLACK, GREY
from figures.curves import whiskers
from figures.findings import joined, number
from figures.theme import colours, dash, themed
from figures.trainings.verdicts import OPEN, TOLD, Verdict
from figures.words import counted, fitting, listed, span

MEASURES = {
    "tokens to threshold ratio to classic": ("tokens to the threshold,<br>times classic's", "times the tokens"),
    "final loss difference": ("final loss minus<br>classic's (nats)", "final loss"),
    "final probability difference": ("final probability of IO<br>minus classic's", "final probability of IO"),
}
"""Measures on an axis, and in a title."""
COSTS = {"time": "time of a step, times classic's", "tokens": "tokens to the threshold, times classic's"}
MILLION = 1e6
_LINE = {"color": GREY, "width": 1, "dash": "longdash"}
_WHISKERS = {"symmetric": False, "thickness": 1.4, "width": 4}
_ROW = 27
"""Pixels of a row of costs."""


def scaling(table: pd.DataFrame, runs: Sequence[str] = (), of: str = "") -> go.Figure:
    """Return ratios or differences to classic against parameters: a panel a measure, a colour a variant, whiskers.

    ``table`` has columns size, parameters, variant, measure, mean, low, high, pairs, step_time_ratio; a measure with
    "ratio" in its name is one. A filled point is told apart from classic (its interval, which is adjusted, is), an open
    one is not. Points of one size stand beside each other. ``of`` says of what task and threshold.
    """
    measures, names = (list(dict.fromkeys(table[column])) for column in ("measure", "variant"))
    figure = make_subplots(1, len(measures), horizontal_spacing=0.1)
    palette = colours(dict.fromkeys(["classic", *names]))
    for column, measure in enumerate(measures, start=1):
        for i, name in enumerate(names):
            rows = table[(table.measure == measure) & (table.variant == name)].sort_values("parameters", kind="stable")
            aside = 10 ** (0.04 * (i - (len(names) - 1) / 2))
            figure.add_trace(_points(rows, name, palette[name], aside, column == 1), row=1, col=column)
        figure.add_hline(y=_same(measure), line=_LINE, row=1, col=column)  # type: ignore[arg-type] # numbers
        figure.update_yaxes(title_text=MEASURES.get(measure, (measure,))[0], zeroline=False, row=1, col=column)
        shown = table[table.measure == measure][["mean", "low", "high"]].assign(same=_same(measure))
        figure.update_yaxes(range=_room(shown), row=1, col=column)
    verdicts = [_verdict(row, _same(row["measure"])) for row in table.to_dict("records")]
    figure.add_traces([_key(verdict) for verdict in (TOLD, OPEN) if verdict in verdicts])
    sizes = table[["parameters", "size"]].drop_duplicates().sort_values("parameters", kind="stable")
    ends = [math.log10(sizes.parameters.min()) - 0.25, math.log10(sizes.parameters.max()) + 0.25]
    ticks = [f"{size}<br>{_rounded(float(n))}" for n, size in zip(sizes.parameters, sizes["size"], strict=True)]
    figure.update_xaxes(type="log", range=ends, tickvals=sizes.parameters.tolist(), ticktext=ticks, tickangle=0)
    figure.update_xaxes(title_text="parameters (log axis)", showgrid=False)
    caption = (
        "Whiskers: 95 % intervals, adjusted over all ratios or all differences. Dashed: as classic. Points of one size "
        "stand beside each other to be seen."
    )
    about = joined(of, f"{_pairs(table.pairs)} of seeds a point")
    return themed(figure, _finding(table), caption, runs, of=about, height=430, below=72)


def _room(numbers: pd.DataFrame) -> list[float]:
    """The ends of an axis that shows all of some numbers."""
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    margin = 0.06 * (high - low) or 0.1
    return [low - margin, high + margin]


def _same(measure: str) -> float:
    return 1.0 if "ratio" in measure else 0.0


def _verdict(row: dict[Any, Any], same: float) -> Verdict:
    return TOLD if row["low"] > same or row["high"] < same else OPEN


def _finding(table: pd.DataFrame) -> str:
    """Which comparisons are told apart, and of how many."""
    rows = [(row, _verdict(row, _same(row["measure"]))) for row in table.to_dict("records")]
    told = [row for row, verdict in rows if verdict is TOLD]
    sizes = table["size"].nunique()
    if not told:
        return (
            f"No difference to classic is shown at any of {counted(sizes, 'size')} ({counted(len(rows), 'comparison')})"
        )
    said = [
        f"{row['variant']} at {row['size']}, {number(row, 'mean')} "
        f"{MEASURES.get(row['measure'], ('', row['measure']))[1]}"
        for row in told
    ]
    rest = len(rows) - len(told)
    others = f"; none of the other {counted(rest, 'comparison')}" if rest else ""
    return fitting(
        f"Told apart from classic: {listed(said)}{others}",
        f"{len(told)} of {len(rows)} comparisons are told apart from classic, as {said[0]}",
        f"{len(told)} of {len(rows)} comparisons are told apart from classic",
    )


def _points(rows: pd.DataFrame, name: str, colour: str, aside: float, showlegend: bool) -> go.Scatter:
    text = [
        f"{name}, {r['size']}: {number(r, 'mean', '.3g')}, {r['pairs']:.0f} pairs, "
        f"{_verdict(r, _same(r['measure'])).words}; a step takes {r['step_time_ratio']:.2f} times classic's"
        for r in rows.to_dict("records")
    ]
    symbols = [_verdict(row, _same(row["measure"])).symbol for row in rows.to_dict("records")]
    return go.Scatter(
        x=rows.parameters * aside,
        y=rows["mean"],
        error_y=whiskers(rows["mean"], rows.low, rows.high, **_WHISKERS),
        mode="lines+markers",
        line={"color": colour, "dash": dash(name), "width": 1.2},
        marker={"color": colour, "size": 9, "symbol": symbols, "line": {"color": colour, "width": 1.6}},
        name=name,
        legendgroup=name,
        showlegend=showlegend,
        hovertext=text,
        hoverinfo="text",
    )


def _key(verdict: Verdict) -> go.Scatter:
    """What a symbol means: a trace of the legend alone."""
    name = f"{verdict.words} (p < 0.05, adjusted)" if verdict is TOLD else verdict.words
    marker = {"color": BLACK, "size": 9, "symbol": verdict.symbol, "line": {"color": BLACK, "width": 1.6}}
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker)


def cost_against_gain(table: pd.DataFrame, runs: Sequence[str] = (), of: str = "") -> go.Figure:
    """Return time a step (left) and tokens to the threshold, both as ratios to classic: a row a size and variant.

    ``table`` has columns variant, size, time, time_low, time_high (a step's), memory (at its peak), tokens,
    tokens_low, tokens_high (to the threshold), pairs. Both panels have one scale, since the time to the threshold is
    the product of the two. A filled point is told apart from classic, an open one is not; a row without a number says
    so. ``of`` says of what task and threshold.
    """
    rows = table.assign(name=table.variant + ", " + table["size"])
    names = list(dict.fromkeys(rows.name))
    figure = make_subplots(1, 2, subplot_titles=list(COSTS.values()), shared_yaxes=True, horizontal_spacing=0.03)
    palette = colours(dict.fromkeys(["classic", *table.variant]))
    low, high = _ends(table[[f"{cost}{end}" for cost in COSTS for end in ("", "_low", "_high")]])
    for column, cost in enumerate(COSTS, start=1):
        for variant, some in rows.groupby("variant", sort=False):
            figure.add_trace(_costs(some, cost, palette[str(variant)]), row=1, col=column)
        figure.add_trace(_numbers(rows, cost, high), row=1, col=column)
        figure.add_vline(x=1.0, line=_LINE, row=1, col=column)  # type: ignore[arg-type] # plotly takes numbers
    verdicts = [_verdict(_of(row, cost), 1.0) for row in table.to_dict("records") for cost in COSTS]
    figure.add_traces([_key(verdict) for verdict in (TOLD, OPEN) if verdict in verdicts])
    figure.update_xaxes(range=[low, high], zeroline=False, title_text="ratio to classic of the same size")
    figure.update_yaxes(categoryorder="array", categoryarray=names, range=[len(names) - 0.4, -0.6], type="category")
    figure.update_annotations(font_size=13)
    caption = (
        "Whiskers: 95 % intervals, of tokens adjusted over what is compared. One scale: time x tokens is the time to "
        "the threshold (with memory on hover)."
    )
    about = joined(of, f"{_pairs(table.pairs)} of seeds a row")
    size: dict[str, Any] = {"height": 160 + _ROW * len(names), "left": 20 + round(6.9 * max(map(len, names)))}
    return themed(figure, _cost_finding(table), caption, runs, of=about, **size)


def _of(row: dict[Any, Any], cost: str) -> dict[str, float]:
    return {"mean": row[cost], "low": row[f"{cost}_low"], "high": row[f"{cost}_high"]}


def _cost_finding(table: pd.DataFrame) -> str:
    """How much time a step takes at least and at most, and which variants need fewer tokens, or more."""
    times = table[["time_low", "time_high"]]
    step = f"A step takes {times.min().min():.2f} to {times.max().max():.2f} times classic's time"
    told = [row for row in table.to_dict("records") if _verdict(_of(row, "tokens"), 1.0) is TOLD]
    if not told:
        return fitting(f"{step}; the tokens to the threshold are not told apart from classic's", step)
    fewer = [row for row in told if row["tokens"] < 1]
    more = len(told) - len(fewer)
    best = min(told, key=lambda row: row["tokens"])
    counts = [f"{len(fewer)} of {len(table)} need fewer tokens"] * bool(fewer) + [f"{more} more"] * bool(more)
    most = f"{best['tokens']:.2f} times in {best['variant']} ({best['size']})"
    return fitting(
        f"{step}; {', '.join(counts)}, down to {most}" if fewer else f"{step}; {', '.join(counts)}",
        f"{step}; {', '.join(counts)}",
        ", ".join(counts),
    )


def _ends(numbers: pd.DataFrame) -> tuple[float, float]:
    """The ends of an axis that shows all of some ratios, and 1, with room for numbers on the right."""
    low, high = min(1.0, float(np.nanmin(numbers))), max(1.0, float(np.nanmax(numbers)))
    room = high - low or 0.1
    return low - 0.06 * room, high + 0.5 * room


def _costs(rows: pd.DataFrame, cost: str, colour: str) -> go.Scatter:
    records = rows.to_dict("records")
    text = [
        f"{r['name']}<br>time of a step {number(_of(r, 'time'), 'mean', '.3f')}<br>tokens "
        f"{number(_of(r, 'tokens'), 'mean')}<br>time to the threshold {r['time'] * r['tokens']:.2f}<br>memory "
        f"{r['memory']:.3g}<br>{r['pairs']:.0f} pairs, {_verdict(_of(r, cost), 1.0).words}"
        for r in records
    ]
    symbols = [_verdict(_of(row, cost), 1.0).symbol for row in records]
    return go.Scatter(
        x=rows[cost],
        y=rows.name,
        error_x=whiskers(rows[cost], rows[f"{cost}_low"], rows[f"{cost}_high"], **_WHISKERS),
        mode="markers",
        marker={"color": colour, "size": 9, "symbol": symbols, "line": {"color": colour, "width": 1.6}},
        name=str(rows.variant.iloc[0]),
        showlegend=False,
        hovertext=text,
        hoverinfo="text",
    )


def _numbers(rows: pd.DataFrame, cost: str, right: float) -> go.Scatter:
    """The number of every row, at the right; where there is none, that too few got there."""
    form = ".3f" if cost == "time" else ".2f"
    said = [
        "too few got there " if np.isnan(row[cost]) else f"{number(_of(row, cost), 'mean', form)} "
        for row in rows.to_dict("records")
    ]
    return go.Scatter(
        x=[right] * len(rows),
        y=rows.name,
        mode="text",
        text=said,
        textposition="middle left",
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )


def _pairs(numbers: pd.Series) -> str:
    return f"{span(numbers)} {'pair' if numbers.max() == 1 else 'pairs'}"


def _rounded(parameters: float) -> str:
    return f"{parameters / MILLION:.2g} million" if parameters >= 1e5 else f"{parameters:,.0f}"
