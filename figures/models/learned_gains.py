"""What a head uses of what a stream brings, against the gain that was learned for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import EARLIER_TO_LATER, GREY
from figures.findings import joined, number
from figures.theme import themed
from figures.words import counted, listed

TOLD = {"gain_share": "of the learned gain", "size_share": "of the size"}
"""What a causal share is set against: a share of what."""
_SHORT = {"gain_share": "gain", "size_share": "size"}
_SIZES = (5.0, 22.0)
"""Pixels of a point at which nothing is lost, and how many more where a nat is."""


def shares_against_gains(
    table: pd.DataFrame, runs: Sequence[str] = (), off: pd.DataFrame | None = None, of: str = ""
) -> go.Figure:
    """Return the causal share of the stream in every head, against its share of the gains (above) and of the sizes.

    ``table`` has columns variant, run, layer, head, gain_share, size_share, causal_share, both_lost: a row a head of a
    run. There is a panel a variant; colours are layers, and points as large as what is lost without both routes.
    ``off`` says how far shares are from causal ones: told_by, mean, low, high; by default it is the mean over all
    heads. ``of`` says of what size and task.
    """
    variants, layers = list(dict.fromkeys(table.variant)), sorted(table.layer.unique())
    figure = make_subplots(
        len(TOLD),
        len(variants),
        subplot_titles=variants,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.025,
        vertical_spacing=0.13,
    )
    for row, (told_by, words) in enumerate(TOLD.items(), 1):
        for column, variant in enumerate(variants, 1):
            line = {"color": GREY, "width": 1, "dash": "longdash"}
            same = go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, showlegend=False, hoverinfo="skip")
            figure.add_trace(same, row=row, col=column)
            for layer in layers:
                some = table[(table.variant == variant) & (table.layer == layer)]
                if len(some):
                    colour = EARLIER_TO_LATER[int(layer) % len(EARLIER_TO_LATER)]
                    figure.add_trace(_heads(some, told_by, int(layer), colour), row=row, col=column)
            figure.update_xaxes(title_text=f"stream's share {words}", row=row, col=column)
    for layer in layers:
        first: Any = next(figure.select_traces({"legendgroup": f"layer {layer}"}))
        first.update(showlegend=True, legendrank=int(layer))
    figure.update_xaxes(range=[-0.03, 1.05], showticklabels=True, zeroline=False)
    figure.update_yaxes(range=_frame(table.causal_share), zeroline=False)
    figure.update_yaxes(title_text="stream's causal share", col=1)
    figure.update_annotations(font_size=13)
    caption = (
        "A point is a head of a run, as large as the loss without both of its routes, each replaced by its mean at "
        "its position. On the dashed line a share tells the causal one; a causal share may leave 0 to 1 where a route "
        "does harm."
    )
    heads = joined(of, counted(table.run.nunique(), "run"), f"{len(table)} heads")
    return themed(figure, _finding(_mean_distances(table) if off is None else off), caption, runs, of=heads, height=620)


def _heads(some: pd.DataFrame, told_by: str, layer: int, colour: str) -> go.Scatter:
    name = f"layer {layer}"
    text = [
        f"L{layer}H{row['head']}, {row['variant']}: share {TOLD[told_by]} {row[told_by]:.2f}, causal "
        f"{row['causal_share']:.2f}<br>without both routes {row['both_lost']:.3f} nats are lost<br>{row['run']}"
        for row in some.to_dict("records")
    ]
    size = _SIZES[0] + _SIZES[1] * some.both_lost.clip(lower=0).pow(0.5)
    return go.Scatter(
        x=some[told_by],
        y=some.causal_share,
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=False,
        marker={"color": colour, "opacity": 0.75, "size": size, "line": {"color": "white", "width": 0.6}},
        hovertext=text,
        hoverinfo="text",
    )


def _frame(shares: pd.Series) -> list[float]:
    low, high = min(0.0, float(shares.min())), max(1.0, float(shares.max()))
    return [low - 0.05, high + 0.05]


def _finding(off: pd.DataFrame) -> str:
    """How far shares of gains and of sizes are from the causal ones, the nearer first."""
    rows: list[Any] = off.sort_values("mean", kind="stable").to_dict("records")
    said = listed(f"{number(row, 'mean')} by that of {_SHORT[row['told_by']]}" for row in rows)
    return f"A head's causal share is told to within {said}"


def _mean_distances(table: pd.DataFrame) -> pd.DataFrame:
    means = {told_by: float((table[told_by] - table.causal_share).abs().mean()) for told_by in TOLD}
    return pd.DataFrame({"told_by": means.keys(), "mean": means.values()})
