"""A circuit over training: how much of the behaviour it carries, and how much of it is there already."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import GREY
from figures.curves import edges
from figures.findings import joined, number, over, spelt, whom
from figures.models.cells import with_ends
from figures.models.several_runs import alike
from figures.theme import colours, dash, themed
from figures.words import fitting, listed

_LINE: dict[str, Any] = {"color": GREY, "width": 1, "dash": "longdash"}


def circuit_curves(frame: pd.DataFrame) -> go.Figure:
    """Return faithfulness of the final circuit, and overlap of each checkpoint's own with it, against steps.

    ``frame`` has columns step, faithfulness, low, high, overlap, gap, and where it is of runs run, variant and seed; it
    may have metric and n.

    Raises:
        ValueError: if what is drawn is of several metrics.
    """
    frame = frame if "run" in frame else frame.assign(run="", variant="", seed="")
    metric = spelt(alike(frame, "metric").get("metric", "metric"))
    measures = {
        "faithfulness": "faithfulness of the final circuit",
        "overlap": "overlap with the circuit found then",
        "gap": f"{metric}, clean minus corrupt",
    }
    figure = make_subplots(1, 3, subplot_titles=list(measures.values()), horizontal_spacing=0.06)
    palette = colours(frame.variant.unique())
    for run, rows in frame.groupby("run", sort=False):
        rows = rows.sort_values("step", kind="stable")
        variant = str(rows.variant.iloc[0])
        name = joined(variant, f"seed {rows.seed.iloc[0]}" if variant else "") or "model"
        for column, (value, words) in enumerate(measures.items(), 1):
            trace = _curve(rows, value, words, name, palette[variant])
            trace.update(legendgroup=str(run), showlegend=column == 1, line_dash=dash(variant))
            figure.add_trace(trace, row=1, col=column)
        # No band over steps that have no interval.
        parts = rows.assign(part=rows.low.isna().cumsum()).dropna(subset=["low", "high"])
        for _, known in parts.groupby("part"):
            figure.add_trace(edges(known, palette[variant], str(run)), row=1, col=1)
    figure.add_hline(y=1.0, line=_LINE, row=1, col=1)  # type: ignore[arg-type] # plotly takes numbers
    figure.add_hline(y=0.0, line=_LINE, row=1, col=3)  # type: ignore[arg-type] # plotly takes numbers
    figure.update_xaxes(title_text="step (updates)", rangemode="tozero")
    figure.update_yaxes(range=_frame(frame), row=1, col=1)
    figure.update_yaxes(range=[-0.02, 1.03], row=1, col=2)
    figure.update_annotations(font_size=13)
    caption = (
        "Faithfulness: the share of the clean-corrupt difference that the final circuit alone keeps (bands: 95 % "
        "bootstrap intervals over pairs); it means little before the model tells clean from corrupt (right). Overlap: "
        "edges in both circuits among those in either."
    )
    figure.update_layout(showlegend=frame.run.nunique() > 1)
    return themed(figure, _finding(frame), caption, frame.run, height=430, of=joined(whom(frame), over(frame, "pair")))


def _curve(rows: pd.DataFrame, value: str, words: str, name: str, colour: str) -> go.Scatter:
    ends = rows[["low", "high"]].to_numpy(float)
    beside, of_faithfulness = with_ends(rows[["faithfulness"]].to_numpy(float), ends[:, :1], ends[:, 1:])
    said = of_faithfulness if value == "faithfulness" else ""
    pairs = f", {over(rows, 'pair')}" if "n" in rows else ""
    return go.Scatter(
        x=rows.step,
        y=rows[value],
        customdata=np.array(beside)[:, 0],
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 5},
        hovertemplate=f"step %{{x:,}}: {words} %{{y:.3f}}{said}{pairs}<extra>{name}</extra>",
    )


def _frame(frame: pd.DataFrame) -> list[float]:
    """From where to where faithfulness lies, intervals included, and 0 and 1."""
    numbers = frame[["faithfulness", "low", "high"]]
    low, high = min(0.0, float(numbers.min().min())), max(1.0, float(numbers.max().max()))
    return [low - 0.06 * (high - low), high + 0.06 * (high - low)]


def _finding(frame: pd.DataFrame) -> str:
    """Of one run, what the final circuit keeps where that is first measured and at the end; of several, at the ends."""
    known = frame.dropna(subset=["faithfulness"]).sort_values("step", kind="stable")
    if known.empty:
        return "The final circuit's faithfulness cannot be measured at any step: clean and corrupt are not told apart"
    last = known.drop_duplicates("run", keep="last")
    if len(last) > 1:
        ends = listed(
            f"{number(row.to_dict(), 'faithfulness')} ({row.variant}, seed {row.seed})" for _, row in last.iterrows()
        )
        low, high = last.faithfulness.min(), last.faithfulness.max()
        return fitting(
            f"At the end the final circuits keep {ends} of the difference",
            f"At the end the final circuits of {len(last)} runs keep {low:.2f} to {high:.2f} of the difference",
        )
    first, end = known.iloc[0], last.iloc[0]
    if first.step == end.step:
        return f"At step {end.step:,} the final circuit keeps {number(end.to_dict(), 'faithfulness')} of the difference"
    return fitting(
        *(
            f"The final circuit keeps {of(first)} of the difference at step {first.step:,}, {of(end)} at step "
            f"{end.step:,}"
            for of in (lambda row: number(row.to_dict(), "faithfulness"), lambda row: f"{row.faithfulness:.2f}")
        )
    )
