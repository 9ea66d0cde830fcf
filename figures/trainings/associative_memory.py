"""Figures of the associative memory: accuracy against ``a`` and against size, heat maps, and the best ``a`` by task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import BLACK, BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, faded, themed

SIMILARITY_WORDS = {
    "dot": "dot product",
    "pearson": "Pearson correlation",
    "manhattan": "Manhattan distance",
    "euclidean": "Euclidean distance",
}
SIMILARITY_COLOURS = {"dot": BLUE, "pearson": VERMILION, "manhattan": ORANGE, "euclidean": GREEN}
CURVE_WORDS = {"length": "length of the sequence (tokens)", "dimension": "dimension of the vectors"}
PAPER_MARKS = {
    "paper, plot": {"symbol": "circle-open", "size": 9, "line": {"width": 1.6}},
    "paper, printed": {"symbol": "x", "size": 7},
}
_TASK_STYLES = (
    (BLACK, "solid"),
    (BLUE, "dash"),
    (VERMILION, "dot"),
    (GREEN, "dashdot"),
    (ORANGE, "solid"),
    (PINK, "longdash"),
    (SKY, "longdashdot"),
)
_STAGES = ("scores", "softmax", "argmax")
_SHADES = [[0.0, "#F7FBFF"], [0.5, "#6BAED6"], [1.0, "#08306B"]]


def accuracy_by_a(curves: pd.DataFrame) -> go.Figure:
    """Return accuracy against ``a``, a curve for dot product and one for Pearson correlation, with the paper's points.

    ``curves`` has columns curve ("dot by a", "pearson by a"), source ("here", "paper, plot", "paper, printed"), x,
    accuracy, low, high, n.
    """
    figure = go.Figure()
    for similarity in ("dot", "pearson"):
        chosen, name = curves[curves.curve == f"{similarity} by a"], SIMILARITY_WORDS[similarity]
        figure.add_traces(_with_paper(chosen, name, SIMILARITY_COLOURS[similarity]))
    figure.add_vline(x=1, line={"color": "#888888", "width": 1, "dash": "longdash"})
    figure.update_xaxes(title_text="a (weight of the token before)", range=[-0.02, 2.04])
    figure.update_yaxes(title_text="accuracy", range=[-0.03, 1.04])
    caption = (
        f"{_trials(curves)} Circles: read off the paper's plots (±0.01). Crosses: printed by it, for 512 classes where "
        "the curve has 50.<br>Dashed: a = 1, where a label and its object score alike. Pearson correlation ignores "
        "length, so an object in the first place stays ahead of its label."
    )
    return themed(figure, "The associative memory finds the label once a is above 1", caption, below=60)


def accuracy_by_size(curves: pd.DataFrame) -> go.Figure:
    """Return accuracy against length and against dimension, a panel each, with the paper's points.

    ``curves`` is as for :func:`accuracy_by_a`, with curves "length" and "dimension".
    """
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05)
    for i, (curve, words) in enumerate(CURVE_WORDS.items()):
        chosen = curves[curves.curve == curve]
        traces = _with_paper(chosen, "dot product", BLUE, mode="lines+markers", showlegend=i == 0)
        figure.add_traces(traces, rows=[1] * len(traces), cols=[i + 1] * len(traces))
        ticks = sorted(set(chosen.x))
        figure.update_xaxes(title_text=words, type="log", tickvals=ticks, ticktext=[f"{x:g}" for x in ticks], col=i + 1)
    figure.update_yaxes(range=[0.65, 1.02])
    figure.update_yaxes(title_text="accuracy", col=1)
    caption = (
        f"a = 2, dot product. {_trials(curves)} Circles: read off the paper's plots (±0.01). The axis starts at 0.65."
    )
    return themed(figure, "Longer sequences cost nothing, small dimensions do", caption)


def heat_maps(frame: pd.DataFrame, which: str = "corrected") -> go.Figure:
    """Return one sequence's scores, softmax and argmax, a row each, by similarity, a column each.

    ``frame`` has columns map ("authors", "corrected"), stage, similarity, row, column, value, answer; ``which`` picks
    the map.
    """
    chosen = frame[frame["map"] == which]
    similarities = [name for name in SIMILARITY_WORDS if name in set(chosen.similarity)]
    titles = [f"{SIMILARITY_WORDS[s]}: {stage}" for stage in _STAGES for s in similarities]
    figure = make_subplots(
        3, len(similarities), subplot_titles=titles, horizontal_spacing=0.075, vertical_spacing=0.075
    )
    for i, stage in enumerate(_STAGES):
        for j, similarity in enumerate(similarities):
            cells = chosen[(chosen.stage == stage) & (chosen.similarity == similarity)]
            axis = "" if i == j == 0 else str(i * len(similarities) + j + 1)
            figure.add_trace(_heat(figure, cells, stage, axis), row=i + 1, col=j + 1)
            figure.add_trace(_answers(cells), row=i + 1, col=j + 1)
    rows, columns = ("key", "query") if which == "authors" else ("query", "key")
    last = int(chosen.row.max())
    figure.update_xaxes(range=[-0.5, last + 0.5], tickvals=[0, 5, 10, 15, last], constrain="domain")
    figure.update_yaxes(range=[last + 0.5, -0.5], tickvals=[0, 5, 10, 15, last], constrain="domain")
    figure.update_xaxes(title_text=columns, title_standoff=4, row=3)
    figure.update_yaxes(title_text=rows, title_standoff=4, col=1)
    figure.update_annotations(font_size=11.5)
    title = "What each token attends to" + (", as the authors draw it" if which == "authors" else "")
    return themed(figure, title, _HEAT_CAPTIONS[which], height=900, below=52)


_HEAT_CAPTIONS = {
    "authors": "One sequence, a = 2. Keys are rows, queries columns, with zeros where the key is not later than the "
    "query; softmax and argmax go along rows, zeros counted.<br>Distances are as they are: dark is far. The last row "
    "is the blank's random key; what the blank retrieves, its query, would be the last column, which is empty.",
    "corrected": "One sequence, a = 2. Queries are rows, keys columns; later keys and a token's own are left out, but "
    "for the blank (last row), whose own key is random.<br>Distances are negative: dark is near. Red: the label asked "
    "for, in the row of the blank. Softmax is shown as a multiple of an even share of its row.",
}


def best_a(tasks: pd.DataFrame) -> go.Figure:
    """Return accuracy against ``a`` by task, a panel a similarity and dimension; a mark where ``a`` is best.

    ``tasks`` has columns task, reach, d, similarity, a, accuracy, low, high, n, best, chosen, not_worse. The line is
    thick where ``a`` is not significantly worse than the best; the mark's bar is the middle 95 % of ``chosen``.
    """
    similarities, sizes = list(dict.fromkeys(tasks.similarity)), list(dict.fromkeys(tasks.d))
    titles = [f"{SIMILARITY_WORDS[s]}, dimension {d}" for d in sizes for s in similarities]
    figure = make_subplots(
        len(sizes),
        len(similarities),
        subplot_titles=titles,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.2 / len(sizes),
    )
    cases = tasks[["task", "reach"]].drop_duplicates().itertuples(index=False)
    for (task, reach), (colour, style) in zip(cases, _TASK_STYLES * 2, strict=False):
        for i, d in enumerate(sizes):
            for j, similarity in enumerate(similarities):
                here = (tasks.d == d) & (tasks.similarity == similarity)
                rows = tasks[here & (tasks.task == task) & (tasks.reach == reach)].sort_values("a")
                name = f"{task}, reach {reach}" if task == "lag" else str(task)
                line = {"color": colour, "dash": style}
                figure.add_traces(_case(rows, name, line, i == j == 0), rows=[i + 1] * 3, cols=[j + 1] * 3)
    ticks = [0.25, 0.5, 1, 2, 4, 8, 16]
    ends = [math.log10(tasks.a.min() * 0.95), math.log10(tasks.a.max() * 1.1)]
    figure.update_xaxes(type="log", range=ends, tickvals=ticks, ticktext=["1/4", "1/2", *"1248", "16"])
    figure.update_xaxes(title_text="a", row=len(sizes))
    figure.update_yaxes(range=[-0.03, 1.06])
    figure.update_yaxes(title_text="accuracy", col=1)
    figure.update_annotations(font_size=13)
    caption = (
        f"{_trials(tasks)} Marks: the smallest a of the largest accuracy; their bars hold 95 % of its choices over "
        "bootstrap resamples of the trials.<br>Thick: not significantly worse than the best (one-sided sign tests, "
        "trial by trial, Holm). Where nothing works (lag, reach 1), the best is by chance."
    )
    return themed(figure, "Which a is best, by task", caption, height=180 + 270 * len(sizes))


def _case(rows: pd.DataFrame, name: str, line: dict[str, Any], showlegend: bool) -> list[go.Scatter]:
    """A task's curve: thin everywhere, thick where it is as good as the best, and a mark at the best."""
    common: dict[str, Any] = {"name": name, "legendgroup": name}
    hover = {"hovertemplate": "a %{x:.3g}: %{y:.3f}<extra>" + name + "</extra>"}
    thin = go.Scatter(
        x=rows.a, y=rows.accuracy, mode="lines", line={**line, "width": 1.6}, showlegend=showlegend, **common, **hover
    )
    good = rows.accuracy.where(rows.not_worse)
    wide = {"color": faded(line["color"], 0.25), "width": 7}
    thick = go.Scatter(x=rows.a, y=good, mode="lines", line=wide, showlegend=False, hoverinfo="skip", **common)
    best, below = rows[rows.best], rows.chosen.cumsum()
    low, high = rows.a[below >= 0.025].iloc[0], rows.a[below >= 0.975 - 1e-9].iloc[0]
    bar = {"type": "data", "array": high - best.a, "arrayminus": best.a - low, "thickness": 1.4, "width": 3}
    marker = {"color": line["color"], "size": 9, "symbol": "diamond", "line": {"color": "white", "width": 1}}
    mark = go.Scatter(
        x=best.a, y=best.accuracy, error_x=bar, mode="markers", marker=marker, showlegend=False, **common, **hover
    )
    return [thin, thick, mark]


def _heat(figure: go.Figure, cells: pd.DataFrame, stage: str, axis: str) -> go.Heatmap:
    grid = cells.pivot(index="row", columns="column", values="value").to_numpy()
    relative = stage == "softmax" and bool(np.isnan(grid).any())
    across, up = figure.layout[f"xaxis{axis}"].domain, figure.layout[f"yaxis{axis}"].domain  # type: ignore[index] # plotly layouts are
    bar = {
        "x": across[1] + 0.003,
        "xanchor": "left",
        "y": sum(up) / 2,
        "len": up[1] - up[0],
        "thickness": 7,
        "tickfont": {"size": 9},
        "nticks": 4,
        "xpad": 0,
        "ypad": 0,
    }
    hover = f"row %{{y}}, column %{{x}}: {'%{customdata:.4f}' if relative else '%{z:.4f}'}<extra></extra>"
    shades: dict[str, Any] = {"colorscale": _SHADES, "colorbar": bar, "showscale": stage != "argmax"}
    # Early rows share their weight among few keys, and would make the others pale.
    shown = grid * (~np.isnan(grid)).sum(1, keepdims=True) if relative else grid
    return go.Heatmap(z=shown, customdata=grid, hovertemplate=hover, hoverongaps=False, **shades)


def _answers(cells: pd.DataFrame) -> go.Scatter:
    right = cells[cells.answer]
    marker = {"symbol": "square-open", "size": 10, "color": "#D62728", "line": {"width": 2}}
    return go.Scatter(x=right.column, y=right.row, mode="markers", marker=marker, showlegend=False, hoverinfo="skip")


def _with_paper(
    chosen: pd.DataFrame, name: str, colour: str, mode: str = "lines", showlegend: bool = True
) -> list[go.Scatter]:
    """A curve with its band, and the paper's points on it."""
    here = chosen[chosen.source == "here"].sort_values("x")
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
    traces = [edge, line.update(marker={"size": 5})]
    for source, mark in PAPER_MARKS.items():
        points = chosen[chosen.source == source]
        if points.empty:
            continue
        plotted = source == "paper, plot"
        label = f"paper ({name.split(' ')[0]})" if plotted else source
        marker = {**mark, "color": colour if plotted else BLACK}
        common: dict[str, Any] = {"name": label, "marker": marker, "mode": "markers", "showlegend": showlegend}
        traces.append(go.Scatter(x=points.x, y=points.accuracy, **common))
    return traces


def _trials(frame: pd.DataFrame) -> str:
    ours = frame[frame.source == "here"] if "source" in frame else frame
    return f"{ours.n.max()} sequences a point" + ("; bands are Wilson's 95 % intervals." if "source" in frame else ".")
