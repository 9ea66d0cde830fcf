"""How much of a gradient came through the stream, over training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import BLUE, GREY
from figures.axes import log_axis
from figures.findings import joined, whom
from figures.models.cells import crosses, fitted, printed
from figures.models.several_runs import by_run, once
from figures.theme import colours, dash, themed
from figures.words import counted, fitting, listed

MOST = 4
"""Weights that have panels: those with the largest share through the stream."""
_LEAST = 30
"""Pixels that a row of a heat map takes."""
_LEAST_SCALED = 5
"""Rows that are as high as a scale of colours; in fewer the printed numbers say enough."""
_LINE = {"color": GREY, "width": 1, "dash": "longdash"}
_MEASURES = {
    "stream_share": "share through the stream",
    "alignment": "alignment of the two shares (cosine)",
    "whole": "norm of the whole gradient",
}
_SHARE = "Share = |stream| / (|direct| + |stream|); alignment = cosine of the two, which add up to the whole gradient."


def gradient_shares(frame: pd.DataFrame) -> go.Figure:
    """Return share, alignment and norm of the gradients that the stream reaches against steps: a row a weight, a
    line a variant, or a run where several are of one.

    ``frame`` has columns variant, run, step, tensor, layer, part, head, stream, stream_share, alignment, whole. What no
    gradient reaches through the stream, or is not of attention, is left out; of more than four weights (of a layer and
    head) those with the largest share are drawn.

    Raises:
        ValueError: if a run has a gradient twice at a step.
    """
    frame = by_run(frame)
    once(frame, "gradient", "variant", "step", "tensor", "head")
    attention = frame[frame.tensor.str.contains("attn")]
    reached = attention[attention.groupby(["variant", "tensor", "head"])["stream"].transform("max") > 0]
    named = reached.assign(weight=_weights(reached))
    largest = named.groupby("weight")["stream_share"].max().sort_values(ascending=False, kind="stable")
    weights = list(largest.index[:MOST])
    titles = [f"{weight}: {words}" for weight in weights or ["no weight"] for words in _MEASURES.values()]
    rows = max(1, len(weights))
    figure = make_subplots(
        rows, 3, subplot_titles=titles, shared_xaxes=True, horizontal_spacing=0.06, vertical_spacing=0.22 / rows
    )
    palette = colours(frame.variant.unique())
    for row, weight in enumerate(weights, 1):
        for variant, curve in named[named.weight == weight].groupby("variant", sort=False):
            for column, measure in enumerate(_MEASURES, 1):
                trace = _curve(curve.sort_values("step", kind="stable"), str(variant), measure, palette[str(variant)])
                figure.add_trace(trace.update(showlegend=row == column == 1), row=row, col=column)
        figure.update_yaxes(log_axis(named.whole[named.weight == weight]), row=row, col=3)
    figure.add_hline(y=0.0, line=_LINE, col=2)  # type: ignore[arg-type] # plotly takes numbers
    figure.update_xaxes(title_text="step (updates)", row=rows)
    figure.update_yaxes(range=[-0.02, 1.03], col=1)
    figure.update_yaxes(range=[-1.03, 1.03], col=2)
    figure.update_annotations(font_size=13)
    shown = f" Of {len(largest)} weights that the stream reaches, the {MOST} with the largest share." * (
        len(largest) > MOST
    )
    caption = f"{_SHARE}{shown} A line is of one run, at all steps on the same examples."
    of = joined(whom(frame), "gradients of attention's weights")
    return themed(figure, _over_steps(frame, named, weights), caption, frame.run, of=of, height=190 + 230 * rows)


def _weights(rows: pd.DataFrame) -> pd.Series:
    named = [
        f"{part} of L{layer}H{head}" for part, layer, head in zip(rows.part, rows.layer, rows["head"], strict=True)
    ]
    return pd.Series(named, rows.index, dtype=object)


def _curve(curve: pd.DataFrame, variant: str, measure: str, colour: str) -> go.Scatter:
    words, weight = _MEASURES[measure], curve.weight.iloc[0]
    return go.Scatter(
        x=curve.step,
        y=curve[measure],
        name=variant or "model",
        legendgroup=variant,
        mode="lines" if len(curve) > 1 else "markers",
        line={"color": colour, "dash": dash(variant), "width": 2},
        hovertemplate=f"step %{{x:,}}: {words} %{{y:.3g}}<extra>{joined(variant, weight, 'one run')}</extra>",
    )


def _over_steps(frame: pd.DataFrame, named: pd.DataFrame, weights: list[str]) -> str:
    """What came through the stream to the first weight at the last step, and in which variants nothing did."""
    nothing = [str(v) for v in dict.fromkeys(frame.variant) if v not in set(named.variant)]
    if not weights:
        return "The stream brings no gradient to any weight of attention"
    rows = named[named.weight == weights[0]]
    last = rows[rows.step == rows.groupby("variant")["step"].transform("max")].drop_duplicates("variant")
    first = rows[rows.step == rows.groupby("variant")["step"].transform("min")].drop_duplicates("variant")
    if len(last) == 1:
        began, ended = first.iloc[0], last.iloc[0]
        at = "" if began.step == ended.step else f", {began.stream_share:.0%} at step {began.step:,}"
        of = f" in {ended.variant}" if frame.variant.nunique() > 1 else ""
        share = f"{ended.stream_share:.0%} comes through the stream at step {ended.step:,}"
        said = f"Of the gradient of {weights[0]} {share}{at}{of}"
    else:
        shares = listed(f"{row.stream_share:.0%} in {row.variant}" for row in last.itertuples())
        said = f"Through the stream comes, at the end, of the gradient of {weights[0]} {shares}"
    none = f"; none in {listed(nothing)}" if nothing else ""
    return fitting(said + none, said)


def split_bars(frame: pd.DataFrame) -> go.Figure:
    """Return of every tensor and head that the stream brings gradient to the share that it brings, and the alignment.

    ``frame`` is :meth:`analysis.gradients.split.GradientSplit.to_frame`.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example.
    """
    once(frame, "gradient", "tensor", "head")
    reached = frame[frame.stream > 0].sort_values("stream_share", kind="stable")
    heads = ["" if head == "all" else f", head {head}" for head in reached["head"]]
    names = [f"{tensor}{head}" for tensor, head in zip(reached.tensor, heads, strict=True)]
    measures = dict(list(_MEASURES.items())[:2])
    titles = list(measures.values())
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (value, words) in enumerate(measures.items(), 1):
        bars = go.Bar(
            x=reached[value],
            y=names,
            orientation="h",
            marker_color=BLUE,
            customdata=reached[["whole", "direct", "stream"]],
            hovertemplate=f"%{{y}}: {words} %{{x:.3f}}<br>norms: whole %{{customdata[0]:.3g}}, direct "
            "%{customdata[1]:.3g}, stream %{customdata[2]:.3g}<extra>one model</extra>",
        )
        figure.add_trace(bars, row=1, col=column)
    figure.update_xaxes(range=[0, 1.03], row=1, col=1)
    figure.update_xaxes(range=[-1.03, 1.03], row=1, col=2)
    figure.update_layout(showlegend=False)
    tensors, there = frame.tensor.nunique(), reached.tensor.nunique()
    title = f"The stream brings no gradient to any of {counted(tensors, 'tensor')}"
    if there:
        top = reached.iloc[-1]
        most = f"most to {names[-1]}: {top.stream_share:.0%}"
        title = f"The stream brings gradient to {there} of {counted(tensors, 'tensor')}; {most}"
    caption = f"{_SHARE} Tensors that the stream does not reach are not drawn."
    size: dict[str, Any] = {
        "height": 210 + 24 * max(1, len(reached)),
        "left": 24 + round(6.8 * max([0, *map(len, names)])),
    }
    return themed(figure, title, caption, of="one model, one batch", **size)


def gradient_pairs(frame: pd.DataFrame) -> go.Figure:
    """Return, for a run's last step, what share of each gradient crossed the stream at which layer pair first.

    ``frame`` has columns run, step, tensor, layer, part, head, reader, source, read, fed, share (of the sum of the
    norms of the direct share and of all crossings). What no gradient reaches through the stream, or is not of
    attention, is left out.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example.
    """
    last = frame[(frame.step == frame.step.max()) & frame.tensor.str.contains("attn")]
    once(last, "share", "tensor", "head", "reader", "source", "read", "fed")
    named = last.assign(
        pair=[f"{row.read}{row.source} → {row.fed}{row.reader}" for row in last.itertuples()], weight=_weights(last)
    )
    table = named.pivot_table("share", "weight", "pair", sort=False)
    table = table[table.max(axis=1) > 0]
    shares = table.to_numpy(float)
    heat = go.Heatmap(
        z=shares,
        x=table.columns,
        y=table.index,
        zmin=0,
        zmax=1,
        colorscale="Blues",
        text=printed(shares),
        texttemplate="%{text}",
        colorbar={"title": "share", "thickness": 12},
        showscale=len(table) >= _LEAST_SCALED,
        hovertemplate="%{y}, %{x}: share %{z:.3f}<extra>one run</extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    absent = crosses(shares, list(table.columns), list(table.index), "no such connection")
    figure = go.Figure([heat, absent])
    across, up = fitted(len(table.columns), len(table))
    figure.update_xaxes(
        title_text="connection of the stream: source layer → reading layer", showgrid=False, range=across
    )
    figure.update_yaxes(range=up[::-1], showgrid=False)
    title, step = "No gradient of attention's weights crosses the stream", frame.step.max()
    if len(table):
        weight, pair = np.unravel_index(int(np.nanargmax(shares)), shares.shape)
        share, to, across = shares[weight, pair], table.index[weight], table.columns[pair]
        title = f"The largest share of a gradient that crosses the stream is {share:.0%}: at {across}, of {to}"
    caption = (
        "Share = norm of what crossed there first, seen from the weight, over the sum of the norms of the direct share "
        "and all crossings."
    )
    of = joined(whom(last), f"step {step:,}", "one batch")
    size: dict[str, Any] = {"height": 212 + _LEAST * max(1, len(table)), "left": 120}
    return themed(figure, title, caption, last.run, of=of, **size)
