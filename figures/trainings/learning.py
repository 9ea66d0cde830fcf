"""Figures of in-context learning: learning curves, progress measures, head scores over training."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.curves import band, curve_of, seeds_caption
from figures.theme import BLACK, BLUE, GREEN, ORANGE, PINK, VERMILION, colours, dash, themed

SPLIT_WORDS = {
    "test": "training mix",
    "ic": "novel classes: in context",
    "ic2": "shifted labels: in context",
    "iw": "known classes, target not in context: in weights",
}
PROGRESS: dict[str, str] = {
    "ila": "item-label association: first-layer attention from a label to the item before it, mean over the labels",
    "tila": "target-item-label association: last-layer attention from the target to the labels of its class, summed",
    "tla": "target-label association: last-layer attention from the target to all labels, summed",
    "cla": "context-label accuracy: probability, summed, of the labels that occur in the context",
}
"""The progress measures of in-context classification (:mod:`analysis.heads.progress_measures`) in words."""


def learning_curves(metrics: pd.DataFrame, split: str = "ic", threshold: float | None = 0.95) -> go.Figure:
    """Return accuracy against steps, a curve a variant with its interval over seeds, and the line of the threshold.

    ``metrics`` has columns variant, seed, run, step, split, measure, and those of :func:`analysis.over_seeds`.
    """
    chosen = metrics[(metrics.split == split) & (metrics.measure == "accuracy")]
    figure = go.Figure()
    palette = colours(chosen.variant.unique())
    for variant, rows in chosen.groupby("variant", sort=False):
        for trace in band(curve_of(rows), str(variant), palette[str(variant)], dash(str(variant))):
            figure.add_trace(trace)
    if threshold is not None:
        figure.add_hline(
            y=threshold,
            line={"color": "#888888", "width": 1, "dash": "longdash"},
            annotation={"text": f"{threshold:.0%}", "font": {"color": "#666666"}},
            annotation_position="bottom right",
        )
    figure.update_xaxes(title_text="step (updates)", rangemode="tozero")
    figure.update_yaxes(title_text=f"accuracy ({SPLIT_WORDS.get(split, split)})", range=[0, 1.03])
    return themed(figure, "Learning to learn in context", seeds_caption(chosen), chosen.run)


def run_curves(metrics: pd.DataFrame, run: str) -> go.Figure:
    """Return everything that one run measured against steps: a panel a measure, a line a split.

    ``metrics`` has columns step, split, measure, value.
    """
    measures = list(dict.fromkeys(metrics.measure))
    across = min(len(measures), 4)
    down = -(-len(measures) // across)
    figure = make_subplots(down, across, subplot_titles=measures, horizontal_spacing=0.06, vertical_spacing=0.25 / down)
    palette = dict(zip(dict.fromkeys(metrics.split), (BLUE, VERMILION, GREEN, ORANGE, PINK, BLACK) * 20, strict=False))
    named: set[str] = set()
    for i, measure in enumerate(measures):
        for split, rows in metrics[metrics.measure == measure].groupby("split", sort=False):
            curve = rows.sort_values("step")
            line = {"color": palette[split], "width": 2}
            where = {"name": str(split), "legendgroup": str(split), "showlegend": split not in named}
            trace = go.Scatter(x=curve.step, y=curve["value"], mode="lines", line=line, **where)
            figure.add_trace(trace, row=i // across + 1, col=i % across + 1)
            named.add(str(split))
    figure.update_xaxes(title_text="step (updates)", row=down)
    figure.update_annotations(font_size=13)
    return themed(figure, "What was measured", f"{run}; one run.", [run], height=260 + 200 * down)


def progress_measures(metrics: pd.DataFrame, split: str = "ic") -> go.Figure:
    """Return ILA, TILA, TLA and CLA against steps, one panel each; columns as for :func:`learning_curves`."""
    chosen = metrics[(metrics.split == split) & metrics.measure.isin(list(PROGRESS))]
    titles = [f"<b>{name.upper()}</b>  {text.split(':')[0]}" for name, text in PROGRESS.items()]
    figure = make_subplots(2, 2, subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.12)
    palette = colours(chosen.variant.unique())
    for i, name in enumerate(PROGRESS):
        for variant, rows in chosen[chosen.measure == name].groupby("variant", sort=False):
            traces = band(curve_of(rows), str(variant), palette[str(variant)], dash(str(variant)), showlegend=i == 0)
            figure.add_traces(traces, rows=[i // 2 + 1] * len(traces), cols=[i % 2 + 1] * len(traces))
    figure.update_xaxes(title_text="step (updates)", row=2)
    figure.update_yaxes(range=[0, 1.03])
    figure.update_annotations(font_size=13)
    caption = seeds_caption(chosen) + f" Measured on: {SPLIT_WORDS.get(split, split)}."
    return themed(figure, "Progress measures", caption, chosen.run, height=620)


def head_scores(frame: pd.DataFrame) -> go.Figure:
    """Return head scores over training: a panel a score, a line a head (colour: layer; line style: variant).

    ``frame`` has columns variant, run, step, layer, head, score, value, stderr, n, and where scores are of two heads
    ``partner``, the other one. Rows with layer -1 are of the whole model.
    """
    scores = list(dict.fromkeys(frame.score))
    columns = min(len(scores), 4)
    rows = -(-len(scores) // columns)
    figure = make_subplots(
        rows,
        columns,
        specs=[[{} if row * columns + i < len(scores) else None for i in range(columns)] for row in range(rows)],
        subplot_titles=scores,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.2 / rows,
    )
    styles = dict(zip(dict.fromkeys(frame.variant), ["solid", "dash", "dot", "dashdot"] * 20, strict=False))
    named: set[str] = set()
    for i, score in enumerate(scores):
        chosen = frame[frame.score == score].fillna({"partner": ""})
        for (variant, name), curve in chosen.groupby(["variant", _head_names(chosen)], sort=False):
            label = f"{variant} {name}"
            line = {"color": _shade(int(curve.layer.iloc[0])), "dash": styles[variant], "width": 2}
            trace = _head_curve(curve.sort_values("step"), label, line, showlegend=label not in named)
            figure.add_trace(trace, row=i // columns + 1, col=i % columns + 1)
            named.add(label)
    figure.update_yaxes(range=[0, 1.03])
    figure.update_xaxes(title_text="step (updates)", row=rows)
    n = frame[frame.score == scores[0]].n.max()
    caption = (
        f"Attention: mean over {n} sequences. Copying: over labels. Composition: of weights, exact. Bars are 95 % "
        "intervals over what a score averages. One run a variant."
    )
    return themed(figure, "Head scores over training", caption, frame.run, height=430 if rows == 1 else 290 * rows)


def _head_names(frame: pd.DataFrame) -> pd.Series:
    """What each row's curve is called; a score of two heads names both."""
    rows = zip(frame.layer, frame["head"], frame.get("partner", pd.Series("", frame.index)), strict=True)
    names = [f"{p} to L{layer}H{head}" if p else f"L{layer}H{head}" for layer, head, p in rows]
    return pd.Series(names, frame.index, name="name").where(frame.layer >= 0, "model")


def _shade(layer: int) -> str:
    return "#888888" if layer < 0 else (BLACK, VERMILION, BLUE, GREEN, ORANGE, PINK)[layer % 6]


def _head_curve(curve: pd.DataFrame, name: str, line: dict[str, Any], showlegend: bool) -> go.Scatter:
    error = {"type": "data", "array": 1.96 * curve["stderr"], "thickness": 0.8, "width": 0}
    return go.Scatter(
        x=curve["step"],
        y=curve["value"],
        error_y=error,
        name=name,
        legendgroup=name,
        mode="lines",
        line=line,
        showlegend=showlegend,
    )
