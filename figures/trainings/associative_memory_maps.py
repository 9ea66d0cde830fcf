"""What every token of one sequence of the associative memory attends to, by similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import themed
from figures.trainings.associative_memory import SIMILARITY_WORDS

STAGES = {"scores": "scores", "softmax": "softmax", "argmax": "largest of each row"}
_SHADES = [[0.0, "#F7FBFF"], [0.5, "#6BAED6"], [1.0, "#08306B"]]
_LEFT_OUT = "#E3E3E3"
_CAPTIONS = {
    "authors": "Keys are rows, queries columns, with zeros where the key is not later than the query; softmax and "
    "argmax go along rows, zeros counted. Distances are as they are: dark is far. The last row is the blank's random "
    "key; what the blank retrieves, its query, would be the last column.",
    "corrected": "Queries are rows, keys columns; grey: later keys and a token's own, left out but for the blank (last "
    "row), whose own key is random. Distances are negative: dark is near. Red: the label asked for, in the row of the "
    "blank. Softmax is shown as a multiple of an even share of its row.",
}


def heat_maps(frame: pd.DataFrame, which: str = "corrected", of: str = "") -> go.Figure:
    """Return one sequence's scores, softmax and argmax, a row each, by similarity, a column each.

    ``frame`` has columns map ("authors", "corrected"), stage, similarity, row, column, value, answer; ``which`` picks
    the map, and ``of`` says of what task.
    """
    chosen = frame[frame["map"] == which]
    similarities = [name for name in SIMILARITY_WORDS if name in set(chosen.similarity)]
    titles = [f"{SIMILARITY_WORDS[s]}: {words}" for words in STAGES.values() for s in similarities]
    figure = make_subplots(
        3, len(similarities), subplot_titles=titles, horizontal_spacing=0.075, vertical_spacing=0.075
    )
    for i, stage in enumerate(STAGES):
        for j, similarity in enumerate(similarities):
            cells = chosen[(chosen.stage == stage) & (chosen.similarity == similarity)]
            axis = "" if i == j == 0 else str(i * len(similarities) + j + 1)
            figure.add_trace(_heat(figure, cells, stage, axis), row=i + 1, col=j + 1)
            figure.add_trace(_answers(cells), row=i + 1, col=j + 1)
    rows, columns = ("key", "query") if which == "authors" else ("query", "key")
    last = int(chosen.row.max())
    ticks: dict[str, Any] = {
        "tickvals": sorted({*range(0, last - 2, 5), last}),
        "constrain": "domain",
        "showgrid": False,
    }
    figure.update_xaxes(range=[-0.5, last + 0.5], zeroline=False, **ticks)
    figure.update_yaxes(range=[last + 0.5, -0.5], zeroline=False, **ticks)
    figure.update_xaxes(title_text=columns, title_standoff=4, row=3)
    figure.update_yaxes(title_text=rows, title_standoff=4, col=1)
    figure.update_annotations(font_size=11.5)
    figure.update_layout(plot_bgcolor=_LEFT_OUT)
    title = _corrected(chosen) if chosen.answer.any() else _authors(chosen)
    about = f"{of}, one sequence" if of else "one sequence"
    return themed(figure, title, _CAPTIONS[which], height=860, below=52, of=about)


def _corrected(cells: pd.DataFrame) -> str:
    """By how many similarities the blank attends most to the label asked for."""
    answers = cells[cells.answer & (cells.stage == "argmax")]
    found = answers.groupby("similarity")["value"].max() > 0
    names = [SIMILARITY_WORDS[s] for s in found.index[~found]]
    missed = f", not by {' or '.join(names)}" if names else ""
    most = f"by {found.sum()} of {len(found)} similarities{missed}"
    return f"The blank attends most to the label that is asked for {most}"


def _authors(cells: pd.DataFrame) -> str:
    """Whether the column of the blank's query holds any score, as which the retrieval would show."""
    last = cells[(cells.column == cells.column.max()) & (cells.stage == "scores")]
    empty = bool((last["value"].fillna(0) == 0).all())
    what = "is empty, so that what the blank retrieves is not shown" if empty else "holds what the blank retrieves"
    return f"As the authors draw it, the column of the blank's query {what}"


def _heat(figure: go.Figure, cells: pd.DataFrame, stage: str, axis: str) -> go.Heatmap:
    grid = cells.pivot(index="row", columns="column", values="value").to_numpy()
    relative = stage == "softmax" and bool(np.isnan(grid).any())
    across, up = figure.layout[f"xaxis{axis}"].domain, figure.layout[f"yaxis{axis}"].domain  # type: ignore[index] # layouts are
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
    name = f"{SIMILARITY_WORDS[cells.similarity.iloc[0]]}: {STAGES[stage]}"
    value = "%{customdata:.4f}" if relative else "%{z:.4f}"
    hover = f"row %{{y}}, column %{{x}}: {value}<extra>{name}, one sequence</extra>"
    shades: dict[str, Any] = {"colorscale": _SHADES, "colorbar": bar, "showscale": stage != "argmax"}
    # Early rows share their weight among few keys, and would make the others pale.
    shown = grid * (~np.isnan(grid)).sum(1, keepdims=True) if relative else grid
    return go.Heatmap(z=shown, customdata=grid, hovertemplate=hover, hoverongaps=False, **shades)


def _answers(cells: pd.DataFrame) -> go.Scatter:
    right = cells[cells.answer]
    marker = {"symbol": "square-open", "size": 10, "color": "#D62728", "line": {"width": 2}}
    return go.Scatter(x=right.column, y=right.row, mode="markers", marker=marker, showlegend=False, hoverinfo="skip")
