"""Figures of the associative memory beside the paper's: accuracy against ``a``, and against size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import BLACK, GREY, SIMILARITIES
from figures.findings import joined, number, over, plain
from figures.theme import faded, themed
from figures.words import fitting, sentence, span

SIMILARITY_WORDS = {
    "dot": "dot product",
    "pearson": "Pearson correlation",
    "manhattan": "Manhattan distance",
    "euclidean": "Euclidean distance",
}
CURVE_WORDS = {"length": "length of the sequence (tokens)", "dimension": "dimension of the vectors"}
PAPER_MARKS = {
    "paper, plot": {"symbol": "square-open", "size": 9, "line": {"width": 1.6}},
    "paper, printed": {"symbol": "x", "size": 7},
}


def accuracy_by_a(curves: pd.DataFrame, of: str = "") -> go.Figure:
    """Return accuracy against ``a``, a curve for dot product and one for Pearson correlation, with the paper's points.

    ``curves`` has columns curve ("dot by a", "pearson by a"), source ("here", "paper, plot", "paper, printed"), x,
    accuracy, low, high, n; ``of`` says of what task.
    """
    figure = go.Figure()
    ends, ones, last = list[str](), list[str](), 0.0
    for similarity in ("dot", "pearson"):
        chosen, name = curves[curves.curve == f"{similarity} by a"], SIMILARITY_WORDS[similarity]
        figure.add_traces(_with_paper(chosen, name, SIMILARITIES[similarity]))
        here = chosen[chosen.source == "here"].sort_values("x", kind="stable")
        ends.append(f"{plain(here.accuracy.iloc[-1])} by {name}")
        ones.append(plain(float(np.interp(1, here.x, here.accuracy))))
        last = max(last, float(here.x.max()))
    figure.add_vline(x=1, line={"color": GREY, "width": 1, "dash": "longdash"})
    figure.update_xaxes(title_text="a (weight of the token before)", range=[-0.02, 1.02 * last])
    figure.update_yaxes(title_text="accuracy", range=[-0.02, 1.03])
    title = f"With a = {last:g} the label is found at {' and '.join(ends)}, with a = 1 at {' and '.join(ones)}"
    caption = (
        f"{_BANDS} Squares: read off the paper's plots (±0.01). Crosses: printed by it, for 512 classes. Dashed: a = "
        "1, where a label and its object score alike. Pearson correlation ignores length, so an object in the first "
        "place stays ahead of its label."
    )
    return themed(figure, title, caption, below=60, of=joined(of, _trials(curves)))


def accuracy_by_size(curves: pd.DataFrame, of: str = "") -> go.Figure:
    """Return accuracy against length and against dimension, a panel each, with the paper's points.

    ``curves`` is as for :func:`accuracy_by_a`, with curves "length" and "dimension".
    """
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05)
    shown = curves[curves.curve.isin(list(CURVE_WORDS))]
    for i, (curve, words) in enumerate(CURVE_WORDS.items()):
        chosen = curves[curves.curve == curve]
        name = SIMILARITY_WORDS["dot"]
        traces = _with_paper(chosen, name, SIMILARITIES["dot"], mode="lines+markers", showlegend=i == 0)
        figure.add_traces(traces, rows=[1] * len(traces), cols=[i + 1] * len(traces))
        ticks = sorted(set(chosen.x))
        figure.update_xaxes(title_text=words, type="log", tickvals=ticks, ticktext=[f"{x:g}" for x in ticks], col=i + 1)
    low = max(0.0, float(shown[["accuracy", "low"]].min().min()) - 0.03)
    figure.update_yaxes(range=[low, 1.02])
    figure.update_yaxes(title_text="accuracy", col=1)
    said = [_along(shown[(shown.curve == curve) & (shown.source == "here")], curve) for curve in CURVE_WORDS]
    caption = f"{_BANDS} Squares: read off the paper's plots (±0.01). The axis starts at {low:.2f}."
    title = fitting(*("; ".join(part[i] for part in said) for i in (0, 1)))
    return themed(figure, sentence(title), caption, of=joined(of, _trials(curves)))


_BANDS = "Bands: Wilson's 95 % intervals."


def _along(rows: pd.DataFrame, what: str) -> tuple[str, str]:
    """Whether accuracy differs along a size, with its ends and without."""
    rows = rows.sort_values("x", kind="stable")
    if rows.low.max() <= rows.high.min():
        shown = f"no difference shown with {what} ({span(rows.accuracy, '.3f')})"
        return shown, shown
    first, second = sorted((rows.iloc[int(at)] for at in (rows.accuracy.argmin(), rows.accuracy.argmax())), key=_size)
    long, short = (
        f"accuracy is {of(first)} at {what} {first.x:g}, {of(second)} at {second.x:g}"
        for of in (lambda row: number(row.to_dict(), "accuracy"), lambda row: plain(row.accuracy))
    )
    return long, short


def _size(row: pd.Series) -> float:
    return float(row.x)


def _with_paper(
    chosen: pd.DataFrame, name: str, colour: str, mode: str = "lines", showlegend: bool = True
) -> list[go.Scatter]:
    """A curve with its band, and the paper's points on it."""
    here = chosen[chosen.source == "here"].sort_values("x", kind="stable")
    edge = go.Scatter(
        x=pd.concat([here.x, here.x[::-1]]),
        y=pd.concat([here.high, here.low[::-1]]),
        fill="toself",
        fillcolor=faded(colour, 0.18),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )
    line = go.Scatter(x=here.x, y=here.accuracy, name=name, mode=mode, line={"color": colour}, showlegend=showlegend)
    line.update(marker={"size": 5}, customdata=here[["low", "high", "n"]], hovertemplate=_hover(name))
    traces = [edge, line]
    for source, mark in PAPER_MARKS.items():
        points = chosen[chosen.source == source]
        if points.empty:
            continue
        plotted = source == "paper, plot"
        label = f"the paper's plot ({name.split(' ')[0]})" if plotted else "printed by the paper (dot)"
        marker = {**mark, "color": colour if plotted else BLACK}
        common: dict[str, Any] = {"name": label, "marker": marker, "mode": "markers", "showlegend": showlegend}
        common |= {"customdata": points[["low", "high", "n"]], "hovertemplate": _hover(label)}
        traces.append(go.Scatter(x=points.x, y=points.accuracy, **common))
    return traces


def _hover(name: str) -> str:
    return (
        "%{x:.3g}: accuracy %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], %{customdata[2]:,} sequences<extra>"
        f"{name}</extra>"
    )


def _trials(curves: pd.DataFrame) -> str:
    return f"{over(curves[curves.source == 'here'], 'sequence')} a point"
