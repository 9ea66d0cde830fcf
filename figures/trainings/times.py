"""Figures of many runs: learning curves by evaluation set, runs still below a threshold, gradient by route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.curves import Crossing, curve_of, drawn, few, seeds_caption
from figures.theme import colours, dash, faded, themed
from figures.trainings.learning import SPLIT_WORDS, reference_of, whose
from figures.words import counted, fitting, gates, listed, span

SPLITS = ("test", "ic", "ic2", "iw")


def all_curves(metrics: pd.DataFrame, of: str = "") -> go.Figure:
    """Return accuracy (above) and loss (below) on every evaluation set against steps, a curve a variant.

    ``metrics`` has columns variant, seed, run, step, split, measure, value, and those of :func:`analysis.over_seeds`;
    ``of`` says of what size and task.
    """
    titles = [SPLIT_WORDS[split].replace(": ", ":<br>").replace(", target", ",<br>target") for split in SPLITS]
    figure = make_subplots(
        2, 4, subplot_titles=titles, shared_xaxes=True, horizontal_spacing=0.045, vertical_spacing=0.07
    )
    variants = [str(v) for v in dict.fromkeys(metrics.variant)]
    palette, each = colours(variants), few(metrics)
    for row, measure in enumerate(("accuracy", "loss"), start=1):
        for column, split in enumerate(SPLITS, start=1):
            chosen = metrics[(metrics.split == split) & (metrics.measure == measure)]
            for variant, rows in chosen.groupby("variant", sort=False):
                traces = drawn(rows, palette[str(variant)], each, showlegend=row == column == 1)
                figure.add_traces(traces, rows=[row] * len(traces), cols=[column] * len(traces))
    losses = metrics[metrics.measure == "loss"]
    figure.update_yaxes(range=[0, 1.03], row=1)
    figure.update_yaxes(range=[0, 1.15 * losses["mean"].max()], row=2)
    figure.update_yaxes(title_text="accuracy", row=1, col=1)
    figure.update_yaxes(title_text="loss (nats)", row=2, col=1)
    figure.update_xaxes(title_text="step (updates)", row=2)
    figure.update_xaxes(rangemode="tozero")
    figure.update_annotations(font_size=12)
    above = (
        " Bands of the loss may go on above the frame." if losses["high"].max() > 1.15 * losses["mean"].max() else ""
    )
    caption = seeds_caption(metrics, each) + above
    return themed(figure, _ends(metrics, variants), caption, metrics.run, height=640, of=whose(metrics, of))


def _ends(metrics: pd.DataFrame, variants: list[str]) -> str:
    """Where the variants end on every evaluation set, and on which of these the intervals do not overlap."""
    measured = metrics[metrics.measure == "accuracy"]
    reference = reference_of(variants)
    ends = {
        (v, split): curve_of(rows).iloc[-1] for (v, split), rows in measured.groupby(["variant", "split"], sort=False)
    }
    last = min(int(end.step) for end in ends.values())
    splits = [split for split in SPLITS if (reference, split) in ends]
    others = [v for v in variants if v != reference]
    named = {"test": "training mix", "ic": "novel classes", "ic2": "shifted labels", "iw": "in weights"}
    values = {v: [f"{ends[v, split]['mean']:.0%}" for split in splits if (v, split) in ends] for v in variants}
    apart = [
        named[split]
        for split in splits
        if any((v, split) in ends and _apart(ends[v, split], ends[reference, split]) for v in others)
    ]
    if not others:
        shown = ", ".join(f"{named[split]} {x}" for split, x in zip(splits, values[reference], strict=True))
        return f"{reference} ends at {shown}"
    if measured.n.max() == 1:
        return f"Accuracy at step {last:,}: " + "; ".join(f"{v} {', '.join(values[v])}" for v in variants)
    said = f"{listed(apart)} told apart by intervals" if apart else "intervals overlap"
    ranges = ", ".join(
        f"{named[s]} {span([float(ends[v, s]['mean']) for v in variants if (v, s) in ends], '.0%')}" for s in splits
    )
    return fitting(f"At step {last:,} {said}: {ranges}", f"At step {last:,} {said}")


def _apart(own: Any, other: Any) -> bool:
    """Whether the intervals of two points do not overlap."""
    return bool(own["low"] > other["high"] or own["high"] < other["low"])


def survival(curves: pd.DataFrame, runs: Sequence[str] = (), of: str = "") -> go.Figure:
    """Return the share of runs that have not reached the threshold yet, against steps, with pointwise 95 % bands.

    ``curves`` has columns variant, step, survival, low, high, at_risk, events (see :func:`analysis.survival_curves`);
    ``of`` says of what size and task, and of which threshold. The title counts runs, and those that ended before the
    last step of their variant, below the threshold, apart from those that are known to be below it there.
    """
    figure = go.Figure()
    palette = colours(curves.variant.unique())
    medians: dict[str, Crossing] = {}
    left: dict[str, _Left] = {}
    for variant, rows in curves.groupby("variant", sort=False):
        name, colour, total = str(variant), palette[str(variant)], int(rows.at_risk.max())
        medians[name] = Crossing(*(_half(rows, column) for column in ("survival", "low", "high")))
        end = rows.iloc[-1]
        followed, below = int(end.at_risk - end.events), total - int(rows.events.sum())
        left[name] = _Left(followed, below - followed, float(end.step))
        steps: dict[str, Any] = {"x": rows.step, "legendgroup": name, "line_shape": "hv", "mode": "lines"}
        figure.add_trace(go.Scatter(y=rows.low, line={"width": 0}, showlegend=False, hoverinfo="skip", **steps))
        fill = {"fill": "tonexty", "fillcolor": faded(colour, 0.12), "line": {"width": 0}}
        figure.add_trace(go.Scatter(y=rows.high, showlegend=False, hoverinfo="skip", **fill, **steps))
        hover = (
            "step %{x:,}: %{y:.0%} still below [%{customdata[0]:.0%}, %{customdata[1]:.0%}], %{customdata[2]} of "
            f"{counted(total, 'run')} followed<extra>{name}</extra>"
        )
        line = {"color": colour, "dash": dash(name), "width": 2.2}
        known = rows[["low", "high", "at_risk"]].to_numpy()
        trace = go.Scatter(y=rows.survival, name=name, line=line, customdata=known, hovertemplate=hover, **steps)
        figure.add_trace(trace)
    # All are below for long; what happens begins where the first run gets there.
    moved, last = curves[curves.survival < 1].step, float(curves.step.max())
    if len(moved):
        figure.update_xaxes(range=[max(0, moved.min() - 0.3 * (last - moved.min())), 1.01 * last])
    figure.update_xaxes(title_text="step (updates)")
    figure.update_yaxes(title_text="share of runs still below", range=[-0.02, 1.03], tickformat=".0%")
    counts = curves.groupby("variant", sort=False)["at_risk"].max()
    caption = (
        "Kaplan-Meier curves; bands are pointwise 95 % intervals (log-log), without width where no or all are below."
    )
    whom = "; ".join(part for part in (of, f"{span(counts)} runs a variant") if part)
    return themed(figure, _halves(medians, left), caption, runs, of=whom)


def _half(rows: pd.DataFrame, column: str) -> float:
    """The first step at which no more than half are below; NaN where there is none."""
    steps = rows.step[rows[column] <= 0.5]
    return float(steps.iloc[0]) if len(steps) else float("nan")


class _Left(NamedTuple):
    """The runs of a variant that are not known to get there."""

    followed: int
    """Those that were followed to the last step and are still below."""
    ended: int
    """Those that were below when they ended, before that step."""
    step: float

    def said(self, variant: str) -> list[str]:
        """Return how many are still below at the last step, and how many ended before, of those that there are."""
        ended = f"{self.ended} not followed so far"
        if self.followed:
            beside = f" ({ended})" if self.ended else ""
            return [f"{self.followed} of {variant} not by {self.step:,.0f}{beside}"]
        return [f"{self.ended} of {variant} not followed to {self.step:,.0f}"] if self.ended else []


def _halves(medians: dict[str, Crossing], left: dict[str, _Left]) -> str:
    """When half of the runs of every variant are there, and how many are not at the end."""
    there = sorted((v for v in medians if medians[v].reached), key=lambda v: medians[v].step)
    below = listed(words for v, runs in left.items() for words in runs.said(v))
    rest = f"; {below}" if below else ""
    counts = f"; {counted(sum(runs.followed + runs.ended for runs in left.values()), 'run')} not known to be"
    if not there:
        return fitting(*(f"In no variant are half of the runs there{each}" for each in (rest, counts)))
    words = {v: str(medians[v]) for v in there}
    return fitting(
        *(
            f"Half are there by step {said[there[0]]} ({there[0]})"
            + "".join(f", {said[v]} ({v})" for v in there[1:])
            + rest
            for said in (words, {v: words[v].split(" [")[0] for v in there})
        ),
        *(f"Half are there first of {there[0]}, last of {there[-1]}{each}" for each in (rest, counts)),
    )


def gradient_share_curves(shares: pd.DataFrame, of: str = "", weight: str = "a weight") -> go.Figure:
    """Return the stream's share of a weight's gradient over training, a curve a variant with its band over seeds.

    ``shares`` has columns variant, seed, run, step, value, and those of :func:`analysis.over_seeds`: |stream| /
    (|direct| + |stream|). ``of`` says of what size and task, ``weight`` of which weight.
    """
    figure = go.Figure()
    variants = [str(v) for v in dict.fromkeys(shares.variant)]
    palette, each = colours(variants), few(shares)
    curves = {v: curve_of(shares[shares.variant == v]) for v in variants}
    for variant in variants:
        figure.add_traces(drawn(shares[shares.variant == variant], palette[variant], each))
    figure.update_xaxes(title_text="step (updates)", rangemode="tozero")
    top = max(float(np.nanmax(curve[["mean", "high"]])) for curve in curves.values())
    # A share of none lies on the axis, and is seen.
    figure.update_yaxes(title_text="share: |stream| / (|direct| + |stream|)", range=[-0.02 * top, 1.08 * top or 1.0])
    norms = f"Norms of the two shares of the gradient of {weight}; the shares add up to it."
    caption = f"{seeds_caption(shares, each)} {norms}{gates(variants)}"
    return themed(figure, _from_to(curves, weight), caption, shares.run, of=whose(shares, of))


def _from_to(curves: dict[str, pd.DataFrame], weight: str) -> str:
    """The share at the start and where the curve ends, by variant; those without any by name."""
    none = [v for v, curve in curves.items() if float(curve["mean"].max()) < 0.005]
    told = {v: [float(curve["mean"].iloc[i]) for i in (0, -1)] for v, curve in curves.items() if v not in none}
    rest = f"; none in {listed(none)}" if none else ""
    if not told:
        return f"No gradient of {weight} comes through the stream"
    ways = [f"{start:.0%} at first, {end:.0%} at last ({v})" for v, (start, end) in told.items()]
    short = [ways[0], *(f"{start:.0%}, {end:.0%} ({v})" for v, (start, end) in list(told.items())[1:])]
    return fitting(
        f"Gradient of {weight} through the stream: {'; '.join(ways)}{rest}",
        f"Gradient of {weight} through the stream: {'; '.join(short)}{rest}",
        f"Gradient through the stream: {'; '.join(short)}{rest}",
        f"Through the stream come {span([x for ends in told.values() for x in ends], '.0%')} of the gradient{rest}",
    )
