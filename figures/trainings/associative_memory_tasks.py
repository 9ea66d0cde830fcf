"""Which ``a`` of the associative memory is best, task by task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import GREY, SIMILARITIES
from figures.findings import joined, over
from figures.theme import faded, themed
from figures.trainings.associative_memory import SIMILARITY_WORDS
from figures.words import counted

_TICKS = {0.5: "1/2", 2: "2", 8: "8"}


def best_a(tasks: pd.DataFrame, of: str = "") -> go.Figure:
    """Return accuracy against ``a``: a row a dimension, a column a task, a curve a similarity with a mark at its best.

    ``tasks`` has columns task, reach, d, similarity, a, accuracy, low, high, n, best, chosen, not_worse. The line is
    thick where ``a`` is not significantly worse than the best; the mark's bar is the middle 95 % of ``chosen``. ``of``
    says what is asked.
    """
    similarities, sizes = list(dict.fromkeys(tasks.similarity)), list(dict.fromkeys(tasks.d))
    cases = list(dict.fromkeys(zip(tasks.task, tasks.reach, strict=True)))
    names = [f"{task},<br>reach {reach}" if task == "lag" else str(task).replace(" ", "<br>") for task, reach in cases]
    figure = make_subplots(
        len(sizes),
        len(cases),
        subplot_titles=names,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.012,
        vertical_spacing=0.14 / len(sizes),
    )
    for i, d in enumerate(sizes):
        for j, (task, reach) in enumerate(cases):
            for similarity in similarities:
                here = (tasks.d == d) & (tasks.similarity == similarity) & (tasks.task == task) & (tasks.reach == reach)
                traces = _case(tasks[here].sort_values("a", kind="stable"), similarity, i == j == 0)
                figure.add_traces(traces, rows=[i + 1] * 3, cols=[j + 1] * 3)
        figure.update_yaxes(title_text=f"accuracy, dimension {d}", row=i + 1, col=1)
    figure.add_vline(x=1, line={"color": GREY, "width": 1, "dash": "longdash"})
    ends = [math.log10(tasks.a.min() * 0.95), math.log10(tasks.a.max() * 1.1)]
    figure.update_xaxes(type="log", range=ends, tickvals=list(_TICKS), ticktext=list(_TICKS.values()), tickangle=0)
    figure.update_xaxes(title_text="a", row=len(sizes))
    figure.update_yaxes(range=[-0.02, 1.04])
    figure.update_annotations(font_size=13)
    caption = (
        "Marks: the smallest a of the largest accuracy; their bars hold 95 % of its choices over bootstrap resamples "
        "of the trials. Thick: not significantly worse than the best (one-sided sign tests, trial by trial, Holm). "
        "Where nothing works, the best is by chance. Dashed: a = 1."
    )
    about = joined(of, f"{over(tasks, 'sequence')} a point")
    size: dict[str, Any] = {"height": 150 + 240 * len(sizes), "above": 14}
    return themed(figure, _finding(tasks), caption, of=about, **size)


def _finding(tasks: pd.DataFrame) -> str:
    """Which a are not worse than the best in most cases, and in how many a = 1 is not."""
    cases = len(tasks.drop_duplicates(["task", "reach", "d", "similarity"]))
    grid = np.sort(tasks.a.unique())
    good = tasks[tasks.not_worse].groupby("a").size().reindex(grid, fill_value=0)
    most = good[good == good.max()].index
    whole = len(most) == int(((grid >= most.min()) & (grid <= most.max())).sum())
    named = f"a from {most.min():.3g} to {most.max():.3g}" if whole and len(most) > 1 else f"a = {most.min():.3g}"
    one = grid[np.abs(np.log(grid)).argmin()]
    lead = f"{named} is not shown to be worse than the best in {good.max()} of {counted(cases, 'case')}"
    return f"{lead}, a = {one:.3g} in {good[one] or 'none'}"


def _case(rows: pd.DataFrame, similarity: str, showlegend: bool) -> list[go.Scatter]:
    """A task's curve: thin everywhere, thick where it is as good as the best, and a mark at the best."""
    name, colour = SIMILARITY_WORDS[similarity], SIMILARITIES[similarity]
    common: dict[str, Any] = {"name": name, "legendgroup": name}
    hover = {
        "customdata": rows[["low", "high", "n"]],
        "hovertemplate": "a %{x:.3g}: accuracy %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], "
        f"%{{customdata[2]:,}} sequences<extra>{name}, {rows.task.iloc[0]}</extra>",
    }
    line = {"color": colour, "width": 1.6}
    thin = go.Scatter(x=rows.a, y=rows.accuracy, mode="lines", line=line, showlegend=showlegend, **common, **hover)
    good = rows.accuracy.where(rows.not_worse)
    wide = {"color": faded(colour, 0.25), "width": 7}
    thick = go.Scatter(x=rows.a, y=good, mode="lines", line=wide, showlegend=False, hoverinfo="skip", **common)
    best, below = rows[rows.best], rows.chosen.cumsum()
    low, high = rows.a[below >= 0.025].iloc[0], rows.a[below >= 0.975 - 1e-9].iloc[0]
    bar = {"type": "data", "array": high - best.a, "arrayminus": best.a - low, "thickness": 1.4, "width": 3}
    marker = {"color": colour, "size": 9, "symbol": "star-triangle-up", "line": {"color": "white", "width": 1}}
    text = f"best: a = {best.a.iloc[0]:.3g} [{low:.3g}, {high:.3g}], accuracy {best.accuracy.iloc[0]:.3f}, {name}"
    mark = go.Scatter(
        x=best.a,
        y=best.accuracy,
        error_x=bar,
        mode="markers",
        marker=marker,
        showlegend=False,
        hovertext=text,
        hoverinfo="text",
        **common,
    )
    return [thin, thick, mark]
