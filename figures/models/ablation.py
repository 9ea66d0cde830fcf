"""What breaks when something is taken away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuits.common.palette import GREY, TEAL
from figures.curves import whiskers
from figures.findings import joined, number, over, whom
from figures.models.several_runs import by_run, once
from figures.theme import colours, themed
from figures.words import fitting

WHOLE = "whole model"
_NORMAL = 1.959964
"""Standard errors to each side of 95 % of a normal distribution."""
_ROW, _BESIDE = 24, 9
"""Pixels of a row, and of a variant's dot more."""


def ablation_bars(frame: pd.DataFrame) -> go.Figure:
    """Return accuracy under every ablation, a row each, below that of the whole model: a dot a variant, or a run where
    several are of one, with intervals.

    ``frame`` is :func:`analysis.ablation.ablate`'s, with a column variant where several models are drawn.

    Raises:
        ValueError: if a run has several whole models, at several steps for example.
    """
    frame = by_run(frame) if "variant" in frame else frame.assign(variant="")
    once(frame.drop_duplicates(["variant", "accuracy", "loss"]), "whole model", "variant")
    rows = pd.concat([_whole(frame), _ablated(frame)], ignore_index=True)
    labels = list(dict.fromkeys(rows.label))
    variants = list(dict.fromkeys(rows.variant))
    # An unnamed model is no variant, and has the colour of none.
    palette = colours(variants) | {"": TEAL}
    figure = go.Figure()
    for i, variant in enumerate(variants):
        aside = 0.24 * (i - (len(variants) - 1) / 2)
        figure.add_trace(_dots(rows[rows.variant == variant], labels, str(variant), palette[variant], aside))
        lacking = [label for label in labels if label not in set(rows.label[rows.variant == variant])]
        figure.add_trace(_lacking(lacking, labels, str(variant), aside))
        whole = float(rows.accuracy[(rows.variant == variant) & (rows.label == WHOLE)].iloc[0])
        figure.add_vline(x=whole, line={"color": GREY, "width": 1, "dash": "longdash"})
    figure.update_xaxes(range=[-0.02, 1.03], title_text="accuracy", zeroline=False)
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.4, -0.6])
    figure.update_yaxes(zeroline=False, showgrid=True)
    figure.update_layout(showlegend=len(variants) > 1)
    height = 170 + (_ROW + _BESIDE * (len(variants) - 1)) * len(labels)
    left = 24 + round(6.6 * max(len(label) for label in labels))
    of = joined(whom(frame), over(frame, "sequence"))
    runs = frame.run if "run" in frame else ()
    return themed(figure, _finding(rows), _caption(frame), runs, height=height, left=left, of=of)


def _whole(frame: pd.DataFrame) -> pd.DataFrame:
    first = frame.drop_duplicates("variant")
    return _with_ends(first.assign(label=WHOLE))


def _ablated(frame: pd.DataFrame) -> pd.DataFrame:
    labels = [_label(row) for row in frame.to_dict("records")]
    return _with_ends(frame.assign(label=labels, accuracy=frame.accuracy_ablated, loss=frame.loss_ablated))


def _with_ends(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the ends of Wilson's 95 % interval of their accuracy, which stay between 0 and 1."""
    p, n, z = rows.accuracy.to_numpy(float), rows.n.to_numpy(float), _NORMAL
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return rows.assign(low=np.clip(low, 0, p), high=np.clip(high, p, 1))


def _dots(rows: pd.DataFrame, labels: list[str], variant: str, colour: str, aside: float) -> go.Scatter:
    ends = rows.to_dict("records")
    text = [
        f"{joined(variant, row['label'])}<br>accuracy {number(row, 'accuracy', '.3f')}, loss {row['loss']:.3f}<br>"
        f"{row['n']} sequences, one run"
        for row in ends
    ]
    return go.Scatter(
        x=rows.accuracy,
        y=[labels.index(label) + aside for label in rows.label],
        error_x=whiskers(rows.accuracy, rows.low, rows.high, symmetric=False, thickness=1.4, width=3),
        mode="markers",
        marker={"color": colour, "size": 8},
        name=variant or "model",
        legendgroup=variant,
        hovertext=text,
        hoverinfo="text",
    )


def _lacking(lacking: list[str], labels: list[str], variant: str, aside: float) -> go.Scatter:
    """Crosses at the edge, for rows that a variant has no part of."""
    return go.Scatter(
        x=[0.0] * len(lacking),
        y=[labels.index(label) + aside for label in lacking],
        mode="markers",
        marker={"symbol": "x-thin", "size": 8, "line": {"color": GREY, "width": 1.4}},
        hovertext=[f"{variant}, {label}: not measured" for label in lacking],
        hoverinfo="text",
        legendgroup=variant,
        showlegend=False,
    )


def _finding(rows: pd.DataFrame) -> str:
    """What the stream is worth where it was cut, and the worst of all, of the variant that breaks most."""
    cut = rows[rows.part.eq("forward cut") & rows.label.ne(WHOLE)]
    worst = rows[rows.label != WHOLE].sort_values("accuracy", kind="stable").iloc[0]
    whole = rows[rows.label == WHOLE].set_index("variant")
    several = len(whole) > 1

    def said(row: pd.Series, ends: bool) -> str:
        found = number(row.to_dict(), "accuracy") if ends else f"{row.accuracy:.2f}"
        of = f" in {row.variant}" if several else ""
        return f"{found} instead of {whole.accuracy[row.variant]:.2f}{of}"

    if worst.high >= whole.low[worst.variant]:
        return f"No ablation shows a loss of accuracy; the lowest is {said(worst, True)} ({worst.label})"
    most = f"{worst.label}: accuracy "
    if len(cut):
        stream = cut.sort_values("accuracy", kind="stable").iloc[0]
        return fitting(
            f"Without the stream's forward values accuracy is {said(stream, True)}; the worst is "
            f"{most}{worst.accuracy:.2f}",
            f"Without the stream's forward values accuracy is {said(stream, True)}",
        )
    return fitting(*(f"Most is lost without {most}{said(worst, ends)}" for ends in (True, False)))


def _caption(frame: pd.DataFrame) -> str:
    parts = (
        "'head' removes its output and what it passes on, 'z' and 'outgoing' one half each; in brackets what comes in "
        "its place. 'forward cut' and 'gradient cut' set the stream's gate, and the latter cannot change the forward "
        "pass."
    )
    edges = (
        "Of a cut edge its reader alone gets something else, named in the last brackets; a plus joins edges that are "
        "cut at once."
    )
    of_edges = frame.part.str.contains(" > ", regex=False).any()
    crosses = " A cross: the model has no such part." if frame.variant.nunique() > 1 else ""
    return f"Whiskers: Wilson's 95 % intervals; dashed: the whole model. {edges if of_edges else parts}{crosses}"


def _label(row: dict) -> str:
    where = f" L{row['layer']}H{row['head']}" if row["head"] != "all" else ""
    method = "" if row["method"] == "-" else f" ({row['method']})"
    return f"{row['part']}{where}{method}"
