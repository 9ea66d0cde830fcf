"""How much of a gradient came through the stream, over training."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import BLACK, BLUE, VERMILION, colours, dash, themed

_LEAST = 30
"""Pixels that a row of a heat map takes."""
_COLOURS = {"W_Q": VERMILION, "W_K": BLACK, "W_V": BLUE}


def gradient_shares(frame: pd.DataFrame) -> go.Figure:
    """Return stream share and alignment of the gradients that the stream reaches, against steps.

    ``frame`` has columns variant, run, step, tensor, layer, part, head, stream, stream_share, alignment, whole. What no
    gradient reaches through the stream, or is not of attention, is left out.
    """
    reached = frame.groupby("tensor")["stream"].transform("max") > 0
    shown = frame[reached & frame.tensor.str.contains("attn")]
    titles = ["share that came through the stream", "alignment of the two shares", "norm of the whole gradient"]
    figure = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.07)
    several = shown.variant.nunique() > 1
    palette = colours(shown.variant.unique())
    for (variant, layer, part, head), rows in shown.groupby(["variant", "layer", "part", "head"], sort=False):
        variant, part = str(variant), str(part)
        curve = rows.sort_values("step")
        name = f"{variant}: {part} of L{layer}H{head}"
        colour = palette[variant] if several else _COLOURS.get(part, BLACK)
        for column, value in enumerate(("stream_share", "alignment", "whole"), 1):
            trace = go.Scatter(
                x=curve.step,
                y=curve[value],
                name=name,
                legendgroup=name,
                mode="lines",
                line={"color": colour, "dash": dash(variant), "width": 2},
                showlegend=column == 1,
            )
            figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title_text="step (updates)")
    figure.update_yaxes(range=[0, 1.03], row=1, col=1)
    figure.update_yaxes(range=[-1.03, 1.03], row=1, col=2)
    figure.update_yaxes(type="log", row=1, col=3)
    caption = (
        "Share = |stream| / (|direct| + |stream|) of each gradient of the training loss; alignment = cosine of these "
        "two.<br>The shares add up to the whole gradient exactly. One run a variant, one held-out batch for all steps."
    )
    return themed(figure, "Gradient by route", caption, shown.run, height=460)


def split_bars(frame: pd.DataFrame) -> go.Figure:
    """Return of every tensor and head that the stream brings gradient to the share that it brings, and the alignment.

    ``frame`` is :meth:`analysis.gradients.split.GradientSplit.to_frame`.
    """
    reached = frame[frame.stream > 0].sort_values("stream_share")
    names = reached.tensor + [("" if head == "all" else f", head {head}") for head in reached["head"]]
    titles = ["share that came through the stream", "alignment of the two shares"]
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    for column, value in enumerate(("stream_share", "alignment"), 1):
        bars = go.Bar(
            x=reached[value],
            y=names,
            orientation="h",
            marker_color=BLUE,
            customdata=reached[["whole", "direct", "stream"]],
            hovertemplate="%{y}: %{x:.3f}<br>norms: whole %{customdata[0]:.3g}, direct %{customdata[1]:.3g}, "
            "stream %{customdata[2]:.3g}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
    figure.update_xaxes(range=[0, 1.03], row=1, col=1)
    figure.update_xaxes(range=[-1.03, 1.03], row=1, col=2)
    figure.update_layout(showlegend=False)
    figure.update_yaxes(automargin=True)
    caption = (
        f"Share = |stream| / (|direct| + |stream|); alignment = cosine of the two. Of {frame.tensor.nunique()} tensors "
        f"the stream reaches {reached.tensor.nunique()}; the others are not drawn."
    )
    return themed(figure, "Gradient by route", caption, height=240 + 22 * len(reached))


def gradient_pairs(frame: pd.DataFrame) -> go.Figure:
    """Return, for a run's last step, what share of each gradient crossed the stream at which layer pair first.

    ``frame`` has columns run, step, tensor, layer, part, head, reader, source, read, fed, share (of the sum of the
    norms of the direct share and of all crossings). What no gradient reaches through the stream, or is not of
    attention, is left out.
    """
    last = frame[(frame.step == frame.step.max()) & frame.tensor.str.contains("attn")]
    named = last.assign(
        pair=last.read + last.source.astype(str) + " → " + last.fed + last.reader.astype(str),
        weight=last.part + " of L" + last.layer.astype(str) + "H" + last["head"].astype(str),
    )
    table = named.pivot_table("share", "weight", "pair", sort=False)
    table = table[table.max(axis=1) > 0]
    heat = go.Heatmap(z=table, x=table.columns, y=table.index, zmin=0, zmax=1, colorscale="Blues")
    figure = go.Figure(heat.update(texttemplate="%{z:.2f}"))
    figure.update_xaxes(title_text="connection of the stream: source layer → reading layer")
    figure.update_yaxes(autorange="reversed")
    caption = (
        "Share = norm of what crossed there first, seen from the weight, over the sum of the norms of the direct share "
        f"and all crossings.<br>Step {frame.step.max()}, one held-out batch."
    )
    return themed(figure, "Gradient by layer pair", caption, last.run, height=240 + _LEAST * len(table))
