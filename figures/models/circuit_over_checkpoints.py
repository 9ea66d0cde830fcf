"""A circuit over training: how much of the behaviour it carries, and how much of it is there already."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.curves import edges
from figures.theme import colours, themed


def circuit_curves(frame: pd.DataFrame) -> go.Figure:
    """Return faithfulness of the final circuit, and overlap of each checkpoint's own with it, against steps.

    ``frame`` has columns step, faithfulness, low, high, overlap, gap, and where it is of runs run, variant and seed.
    """
    frame = frame if "run" in frame else frame.assign(run="", variant="", seed="")
    titles = ["faithfulness of the final circuit", "overlap of the circuit found then", "clean - corrupt metric"]
    figure = make_subplots(1, 3, subplot_titles=titles)
    palette = colours(frame.variant.unique())
    for run, rows in frame.groupby("run", sort=False):
        rows = rows.sort_values("step")
        variant, seed = str(rows.variant.iloc[0]), rows.seed.iloc[0]
        line = {"color": palette[variant], "width": 2}
        for column, value in enumerate(("faithfulness", "overlap", "gap"), 1):
            trace = go.Scatter(
                x=rows.step,
                y=rows[value],
                name=f"{variant}, seed {seed}",
                legendgroup=str(run),
                showlegend=column == 1,
                mode="lines+markers",
                line=line,
                marker={"size": 4},
            )
            figure.add_trace(trace, row=1, col=column)
        known = rows.dropna(subset=["low", "high"])
        figure.add_trace(edges(known, palette[variant], str(run)), row=1, col=1)
    figure.update_xaxes(title_text="step (updates)")
    figure.update_yaxes(range=[-0.3, 1.3], row=1, col=1)
    figure.update_yaxes(range=[0, 1.03], row=1, col=2)
    caption = (
        "Faithfulness: share of the clean-corrupt difference that the circuit alone keeps (95 % bootstrap interval "
        "over pairs);<br>it means little before the model tells clean from corrupt (right). Overlap: edges in both "
        "circuits among those in either."
    )
    one = frame.run.nunique() == 1
    figure.update_layout(showlegend=not one)
    of = f": {frame.variant.iloc[0]}, seed {frame.seed.iloc[0]}" if one and frame.variant.iloc[0] else ""
    return themed(figure, f"The circuit over training{of}", caption, frame.run, height=460)
