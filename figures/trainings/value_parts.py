"""A figure of what a layer's values are made of through training, and how much of each part tells the label."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import GREEN, ROUTES, TEAL, VERMILION
from figures.curves import band
from figures.findings import joined, number
from figures.theme import themed
from figures.words import counted, listed, span

MEASURES = {
    "size": "norm (root mean square)",
    "signal": "share of variance between labels",
    "overlap": "cosine with the part from the input",
}
COLOURS = {
    "input": GREEN,
    "first layer": VERMILION,
    "stream": ROUTES["stream"],
    "own": ROUTES["own"],
    "used": TEAL,
}
"""Of the parts: from the input, from what the first layer wrote, through the stream; own values; all that is used."""


def value_parts(table: pd.DataFrame, runs: Sequence[str] = (), of: str = "") -> go.Figure:
    """Return three measures of every part of the second layer's values at label tokens, a column a variant.

    ``table`` has columns variant, step, part, measure, mean, low, high, n. The title says how much of the values that
    are used tells the label at the end.
    """
    variants = list(dict.fromkeys(table.variant))
    figure = make_subplots(
        len(MEASURES),
        len(variants),
        column_titles=variants,
        shared_xaxes=True,
        shared_yaxes="rows",  # type: ignore[arg-type] # plotly's stubs lag
        horizontal_spacing=0.04,
        vertical_spacing=0.06,
    )
    named: set[str] = set()
    for row, (measure, words) in enumerate(MEASURES.items(), 1):
        for column, variant in enumerate(variants, 1):
            there = table[(table.measure == measure) & (table.variant == variant)]
            for part, colour in COLOURS.items():
                curve = there[there.part == part].sort_values("step", kind="stable")
                if len(curve) and (measure, part) != ("overlap", "input"):
                    traces = band(curve, part, colour, showlegend=part not in named)
                    named.add(part)
                    figure.add_traces(traces, rows=[row] * len(traces), cols=[column] * len(traces))
        figure.update_yaxes(title_text=words, row=row, col=1)
    figure.update_xaxes(title_text="step (updates)", row=len(MEASURES))
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero", row=1)
    for row, low in ((2, 0.0), (3, -0.2)):
        figure.update_yaxes(range=[low, 1.03], row=row)
    figure.update_annotations(font_size=13)
    caption = (
        f"Mean over {span(table.n)} seeds; bands are 95 % t intervals over seeds. Own values are those from the input "
        "and from what the first layer wrote together; used ones, the stream too. A share of 1: the label fixes the "
        "value. A curve ends where the first of its runs ended."
    )
    whom = joined(of, counted(len(runs), "run"))
    return themed(figure, _finding(table, variants), caption, runs, of=whom, height=860)


def _finding(table: pd.DataFrame, variants: Sequence[str]) -> str:
    used = table[(table.part == "used") & (table.measure == "signal")].sort_values("step", kind="stable")
    said = [f"{number(used[used.variant == v].iloc[-1], 'mean')} of {v}'s values" for v in variants]
    return f"At the end the label fixes {listed(said)}"
