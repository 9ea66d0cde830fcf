"""Figures of learning: a curve a variant with its interval over seeds, and everything that one run measured."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import AQUA, GREEN, GREY, OLIVE, PURPLE, TEAL, VERMILION
from figures.curves import Crossing, crossing, curve_of, drawn, few, seeds_caption
from figures.theme import colours, themed
from figures.trainings.verdicts import finding
from figures.words import fitting, gates, listed, span

SPLIT_WORDS = {
    "test": "training mix",
    "ic": "novel classes: in context",
    "ic2": "shifted labels: in context",
    "iw": "known classes, target not in context: in weights",
}
_SPLITS = (PURPLE, TEAL, OLIVE, AQUA, VERMILION, GREEN)
"""Of what one run measured; none is a variant's that has curves beside it."""


def reference_of(variants: list[str]) -> str:
    """Return the variant with which others are compared: classic where it is there, or else the first."""
    return "classic" if "classic" in variants else variants[0]


def learning_curves(
    metrics: pd.DataFrame,
    split: str = "ic",
    threshold: float | None = 0.95,
    of: str = "",
    ratios: pd.DataFrame | None = None,
) -> go.Figure:
    """Return accuracy against steps, a curve a variant with its interval over seeds, and the line of the threshold.

    ``metrics`` has columns variant, seed, run, step, split, measure, value, and those of :func:`analysis.over_seeds`;
    ``of`` says of what size and task. The title says when the curves come to the threshold, or what ``ratios`` (as for
    :func:`figures.time_ratios`) say of it.
    """
    chosen = metrics[(metrics.split == split) & (metrics.measure == "accuracy")]
    variants = [str(v) for v in dict.fromkeys(chosen.variant)]
    figure, palette, each = go.Figure(), colours(variants), few(chosen)
    curves = {v: curve_of(chosen[chosen.variant == v]) for v in variants}
    for variant in variants:
        figure.add_traces(drawn(chosen[chosen.variant == variant], palette[variant], each))
    if threshold is not None:
        figure.add_hline(
            y=threshold,
            line={"color": GREY, "width": 1, "dash": "longdash"},
            annotation={"text": f"{threshold:.0%}", "font": {"color": "#666666"}},
            annotation_position="top left",
        )
    figure.update_xaxes(title_text="step (updates)", rangemode="tozero")
    figure.update_yaxes(title_text=f"accuracy ({SPLIT_WORDS.get(split, split)})", range=[0, 1.06])
    title = finding(ratios) if ratios is not None else _when(curves, threshold)
    caption = seeds_caption(chosen, each) + gates(variants)
    return themed(figure, title, caption, chosen.run, of=whose(chosen, of, threshold, split))


def whose(metrics: pd.DataFrame, of: str, threshold: float | None = None, split: str = "") -> str:
    """Return of whom a figure is, in words: what it is told, how many runs, the threshold and the evaluation set."""
    n = metrics.groupby("variant")["seed"].nunique()
    runs = "one run a variant" if n.max() == 1 else f"{span(n)} seeds a variant"
    read = SPLIT_WORDS.get(split, split)
    at = [f"learned is {threshold:.0%} accuracy"] if threshold is not None else []
    return "; ".join([*([of] if of else []), runs, *at, *([f"evaluated on {read}"] if read else [])])


def _when(curves: dict[str, pd.DataFrame], threshold: float | None) -> str:
    """When the mean curves come to the threshold; without one, where they end."""
    ends = {v: float(curve["mean"].iloc[-1]) for v, curve in curves.items() if len(curve)}
    at = {v: crossing(c, threshold) for v, c in curves.items()} if threshold is not None else {}
    there = sorted((v for v in at if at[v].reached), key=lambda v: at[v].step)
    best = max(ends, key=lambda v: ends[v]) if ends else ""
    if not there or threshold is None:
        last = (
            f"{best} ends highest, at {ends[best]:.0%}" if len(ends) > 1 else f"{best} ends at {ends.get(best, 0):.0%}"
        )
        return last if threshold is None else f"No curve reaches {threshold:.0%}: {last}"
    lacking = [v for v in at if not at[v].reached]
    rest = f"; {listed(lacking)} {'does' if len(lacking) == 1 else 'do'} not" if lacking else ""
    alike = _not_apart({v: at[v] for v in there})
    return fitting(
        *(
            f"{there[0]} is at {threshold:.0%} at step {words(at[there[0]])}"
            + "".join(f", {v} at {words(at[v])}" for v in there[1:])
            + rest
            + alike
            for words in (str, lambda c: str(c).split(" [")[0])
        ),
        f"{there[0]} is first at {threshold:.0%}, {there[-1]} last of {len(there)} that get there{rest}",
    )


def _not_apart(at: dict[str, Crossing]) -> str:
    """Of which variants the bands come to a level as the reference's do."""
    reference = reference_of(list(at))
    banded = {v: c for v, c in at.items() if c.early == c.early}
    alike = [v for v in banded if v != reference and reference in banded and not banded[v].apart(banded[reference])]
    return f"; {listed(alike)} not told apart from {reference}" if alike else ""


def run_curves(metrics: pd.DataFrame, run: str) -> go.Figure:
    """Return everything that one run measured against steps: a panel a measure, a line a split.

    ``metrics`` has columns step, split, measure, value.
    """
    measures = list(dict.fromkeys(metrics.measure))
    across = min(len(measures), 4)
    down = -(-len(measures) // across)
    words = [str(measure).replace("_", " ") for measure in measures]
    figure = make_subplots(down, across, subplot_titles=words, horizontal_spacing=0.06, vertical_spacing=0.25 / down)
    palette = dict(zip(dict.fromkeys(metrics.split), _SPLITS * 20, strict=False))
    named: set[str] = set()
    for i, measure in enumerate(measures):
        for split, rows in metrics[metrics.measure == measure].groupby("split", sort=False):
            curve, name = rows.sort_values("step", kind="stable"), SPLIT_WORDS.get(str(split), str(split))
            where = {"name": name, "legendgroup": name, "showlegend": name not in named}
            mode = "lines" if len(curve) > 1 else "markers"
            hover = "step %{x:,}: %{y:.4g}<extra>" + f"{words[i]}, {name}; one run</extra>"
            trace = go.Scatter(x=curve.step, y=curve["value"], mode=mode, line={"color": palette[split], "width": 2})
            trace.update(hovertemplate=hover, **where)
            figure.add_trace(trace, row=i // across + 1, col=i % across + 1)
            named.add(name)
    for i in range(len(measures)):
        if i + across >= len(measures):  # nothing below it
            figure.update_xaxes(title_text="step (updates)", row=i // across + 1, col=i % across + 1)
    figure.update_xaxes(rangemode="tozero")
    figure.update_annotations(font_size=13)
    of = f"{run}; one run, no interval"
    return themed(figure, _ended(metrics), "", [run], height=260 + 200 * down, of=of)


def _ended(metrics: pd.DataFrame) -> str:
    """What stands in the last row of the first measure that is an accuracy, or else of the first, by split."""
    measures = list(dict.fromkeys(metrics.measure))
    measure = "accuracy" if "accuracy" in measures else measures[0]
    last = metrics[(metrics.measure == measure) & (metrics.step == metrics.step.max())]
    form = ".0%" if measure == "accuracy" else ".3g"
    ends = [f"{row['value']:{form}} ({SPLIT_WORDS.get(row['split'], row['split'])})" for row in last.to_dict("records")]
    said = f"{str(measure).replace('_', ' ')} at step {metrics.step.max():,}"
    return fitting(f"The {said} is {listed(ends)}", *(f"The {said} is {e}" for e in ends[:1]), f"The {said}")
