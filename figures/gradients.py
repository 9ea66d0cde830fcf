"""How much of a gradient came through the stream, over training."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import BLACK, BLUE, VERMILION, colours, dash, themed

_COLOURS = {"W_Q": VERMILION, "W_K": BLACK, "W_V": BLUE}


def gradient_shares(frame: pd.DataFrame) -> go.Figure:
    """Return stream share and alignment of the gradients that the stream reaches, against steps.

    ``frame`` has columns variant, run, step, parameter, layer, weight, head, stream_share, alignment, whole. Parameters
    that no gradient reaches through the stream are left out.
    """
    reached = frame.groupby("parameter")["stream"].transform("max") > 0
    shown = frame[reached & frame.parameter.str.contains("attn")]
    titles = ["share that came through the stream", "alignment of the two shares", "norm of the whole gradient"]
    figure = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.07)
    several = shown.variant.nunique() > 1
    palette = colours(shown.variant.unique())
    for (variant, layer, weight, head), rows in shown.groupby(["variant", "layer", "weight", "head"], sort=False):
        variant, weight = str(variant), str(weight)
        curve = rows.sort_values("step")
        name = f"{variant}: {weight} of L{layer}H{head}"
        colour = palette[variant] if several else _COLOURS.get(weight, BLACK)
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
        "Share = |stream| / (|direct| + |stream|) of each weight's gradient of the training loss; alignment = cosine "
        "of these two.<br>The shares add up to the whole gradient exactly. One run a variant, one batch a checkpoint."
    )
    return themed(figure, "Gradient by route", caption, shown.run, height=460)
