"""What a head uses of what a stream brings, against the gain that was learned for it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import BLACK, colours, themed

_TOLD = {"gain_share": "share of the learned gain", "size_share": "share of the size"}
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")


def shares_against_gains(table: pd.DataFrame, runs: Sequence[str] = ()) -> go.Figure:
    """Return the causal share of the stream in every head, against its share of the gains and of the sizes.

    ``table`` has columns variant, run, layer, head, gain_share, size_share, causal_share, both_lost: a row a head of a
    run. Points are as large as what is lost without both routes; symbols are layers.
    """
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05)
    palette = colours(table.variant.unique())
    layers = sorted(table.layer.unique())
    for column, (told_by, name) in enumerate(_TOLD.items(), 1):
        line = {"color": BLACK, "width": 1, "dash": "dot"}
        figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, showlegend=False), row=1, col=column)
        for variant, rows in table.groupby("variant", sort=False):
            figure.add_trace(
                go.Scatter(
                    x=rows[told_by],
                    y=rows.causal_share,
                    mode="markers",
                    name=str(variant),
                    legendgroup=str(variant),
                    showlegend=column == 1,
                    marker={
                        "color": palette[str(variant)],
                        "opacity": 0.7,
                        "size": 5 + 22 * rows.both_lost.clip(lower=0).pow(0.5),
                        "symbol": [_SYMBOLS[layers.index(layer) % len(_SYMBOLS)] for layer in rows.layer],
                    },
                    text=[f"L{layer}H{head}" for layer, head in zip(rows.layer, rows["head"], strict=True)],
                    hovertemplate="%{text}: %{x:.2f}, causal %{y:.2f}<extra>" + str(variant) + "</extra>",
                ),
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text=f"stream's {name}", range=[-0.03, 1.03], row=1, col=column)
    figure.update_yaxes(title_text="stream's causal share", row=1, col=1)
    marks = ", ".join(f"{_SYMBOLS[i % len(_SYMBOLS)]} layer {layer}" for i, layer in enumerate(layers))
    caption = (
        f"A point is a head of a run ({table.run.nunique()} runs), as large as the loss without both of its routes; "
        f"{marks}.<br>On the dotted line a share tells the causal one. Each route replaced by its mean at its position."
    )
    return themed(figure, "What is learned, and what is used", caption, runs, height=520, below=75)
