"""Figures of the mechanism: what breaks and what restores, phase by phase."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import BLACK, BLUE, GREEN, ORANGE, PINK, VERMILION, dash, themed

_COLOURS = ((BLACK, VERMILION, ORANGE, BLUE), (GREEN, BLUE, PINK))
"""Of what is broken (whole first), and of what is restored."""
PRESET_WORDS = {"paper": "paper's size", "small": "small preset"}


def phases(table: pd.DataFrame, broken: list[str], restored: list[str], runs: list[str]) -> go.Figure:
    """Return, a row a preset: accuracy under ablations, and effects of patching, over the phases of training.

    ``table`` has columns preset, variant, phase, accuracy, and those named in ``broken`` (accuracies) and ``restored``
    (normalised effects). Colour: what is done; dashes: the variant's gate; classic is dotted thin.
    """
    presets = list(dict.fromkeys(table.preset))
    titles = [f"{PRESET_WORDS[p]}: {what}" for p in presets for what in ("accuracy without a part", "restored by")]
    figure = make_subplots(len(presets), 2, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.14)
    for row, preset in enumerate(presets, start=1):
        for column, measures in enumerate((["accuracy", *broken], restored), start=1):
            for variant, curve in table[table.preset == preset].groupby("variant", sort=False):
                for colour, measure in zip(_COLOURS[column - 1], measures, strict=False):
                    if curve[measure].isna().all():
                        continue
                    name = f"{variant}: {'whole' if measure == 'accuracy' else measure}"
                    style = "dot" if variant == "classic" else dash(str(variant))
                    line = {"color": colour, "dash": style, "width": 1.6 if variant == "classic" else 2.4}
                    trace = go.Scatter(x=curve.phase, y=curve[measure], name=name, mode="lines+markers", line=line)
                    trace.update(legendgroup=name, showlegend=row == 1, marker={"size": 5})
                    figure.add_trace(trace, row=row, col=column)
    order = ["before", "within", "after", "end"]
    figure.update_xaxes(categoryorder="array", categoryarray=order, range=[-0.2, 3.2])
    figure.update_yaxes(range=[-0.03, 1.03], col=1)
    figure.update_yaxes(rangemode="tozero", col=2)
    figure.update_annotations(font_size=13)
    caption = (
        "Means over runs. Left: accuracy on novel classes, whole and with a part replaced by its mean, or cut. Right: "
        "share of the<br>logit difference that comes back with one thing put back before layer 1 at the right labels."
    )
    return themed(figure, "Which routes do it, phase by phase", caption, runs, height=200 + 330 * len(presets))
