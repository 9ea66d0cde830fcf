"""A figure of what a learned gain says of a route through training, beside what the route does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import GREY, ROUTES, VERMILION
from figures.curves import band
from figures.findings import joined, number
from figures.theme import themed
from figures.words import counted, listed, span

SHARES = {
    "gain_share": ("of the gains", ROUTES["stream"]),
    "size_share": ("of the sizes", GREY),
    "causal_share": ("causal", VERMILION),
}
"""What a share is of, in words, and its colour."""
_SHORT = {"gain_share": "gains", "size_share": "sizes"}


def gains_in_training(table: pd.DataFrame, off: pd.DataFrame, runs: Sequence[str] = (), of: str = "") -> go.Figure:
    """Return the stream's share of the gains, of the sizes and of what is lost, through training, a panel a rule.

    ``table`` has columns variant, step, share, mean, low, high, n; ``off`` says how far the first two are from the
    causal one, over the rules that learn: told_by, mean, low, high. The title says it.
    """
    variants = list(dict.fromkeys(table.variant))
    figure = make_subplots(1, len(variants), column_titles=variants, shared_yaxes=True, horizontal_spacing=0.03)
    for column, variant in enumerate(variants, 1):
        for share, (words, colour) in SHARES.items():
            curve = table[(table.variant == variant) & (table.share == share)].sort_values("step", kind="stable")
            traces = band(curve, words, colour, showlegend=column == 1)
            figure.add_traces(traces, rows=[1] * len(traces), cols=[column] * len(traces))
        figure.update_xaxes(title_text="step (updates)", row=1, col=column)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(title_text="the stream's share", col=1)
    figure.update_annotations(font_size=13)
    caption = (
        f"Mean over {span(table.n)} seeds; bands are 95 % t intervals over seeds. The causal share is of what is lost "
        "without both routes (Shapley value), from the first checkpoint at which that is 0.05 nats in all runs; a "
        "curve ends where the first of its runs ended."
    )
    nearest: list[Any] = off.sort_values("mean", kind="stable").to_dict("records")
    said = [f"{number(row, 'mean')} by {_SHORT[row['told_by']]}" for row in nearest]
    finding = f"In training a causal share is told to within {listed(said)}"
    return themed(figure, finding, caption, runs, of=joined(of, counted(len(runs), "run")), height=460)
