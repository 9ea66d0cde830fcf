"""Curves of language models against tokens: loss, answers about indirect objects, answers about nested clauses."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.errors import known, require
from circuits.common.palette import GREY
from figures.curves import curve_of, drawn, few, seeds_caption
from figures.findings import joined
from figures.theme import colours, themed
from figures.trainings.language_model_findings import gap_finding, levels_finding, loss_finding
from figures.words import span

IOI_SETS = {
    "ioi train": "names and templates of training",
    "ioi names": "new names",
    "ioi templates": "new templates",
    "ioi held-out": "new names in new templates",
    "ioi paper": "the paper's prompts",
}
NESTED_SETS = {
    "depth 0": "depth 0: one clause",
    "depth 1": "depth 1",
    "depth 2": "depth 2",
    "depth 3": "depth 3",
    "giver": "who gave it?",
    "receiver": "who got it?",
    "object": "what was given?",
}
DEPTHS = ("depth 0", "depth 1", "depth 2", "depth 3")
MEASURE_WORDS = {
    "probability": "probability of the right answer",
    "wrong_probability": "probability of the wrong answer",
    "logit_difference": "logit difference, right - wrong",
    "accuracy": "accuracy (right answer likeliest)",
    "preference": "preference (right over wrong)",
}
EVEN = {"logit_difference": 0.0, "preference": 0.5}
"""Where a measure does not tell right from wrong."""
EARLY = 0.1
"""The share of training whose losses are too large for the axis of what comes after."""
MILLION = 1e6
_LINE = {"color": GREY, "width": 1, "dash": "longdash"}
_ACROSS = 5
"""Panels side by side at most."""
_TITLE = 24
"""Characters of a line of a panel's title."""


def loss_curves(
    metrics: pd.DataFrame,
    reference: str = "classic",
    split: str = "validation",
    of: str = "",
    ends: pd.DataFrame | None = None,
) -> go.Figure:
    """Return the loss against tokens (left) and its difference to the reference's, seed by seed (right), by variant.

    ``metrics`` has columns variant, seed, run, step, tokens, split, measure, those of :func:`analysis.over_seeds`, and
    the rows of :func:`analysis.statistics.curves.with_differences`; it is of one condition. Nats; below 0 on the right
    is better than the reference. ``of`` says of what size and task, and ``ends`` what is told apart at the end:
    variant, split, p_adjusted.

    Raises:
        ValueError: for several conditions, or where no differences are there.
        UnknownNameError: for a split or a reference that is not there.
    """
    chosen = _chosen(metrics, [split], "loss")
    known("variant", reference, chosen.variant.unique())
    less = _in_millions(metrics[(metrics.split == split) & (metrics.measure == f"loss minus {reference}'s")])
    require(
        len(less) > 0 or chosen.variant.nunique() == 1,
        f"there are no differences to {reference}: analysis.statistics.curves.with_differences makes them",
    )
    titles = [f"{split} loss", f"{split} loss minus {reference}'s"]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.09)
    palette, each, cut = colours(chosen.variant.unique()), few(chosen), False
    for column, rows in enumerate((chosen, less), start=1):
        for variant, curve in rows.groupby("variant", sort=False):
            _add(figure, curve, palette[str(variant)], each, 1, column, column == 1)
        cut |= _frame_late(figure, rows, column)
    figure.add_hline(y=0.0, line=_LINE, row=1, col=2)  # type: ignore[arg-type] # plotly takes numbers
    figure.update_xaxes(title_text="tokens seen (millions)", rangemode="tozero")
    figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
    figure.update_yaxes(title_text=f"loss minus {reference}'s (nats)", zeroline=False, row=1, col=2)
    figure.update_annotations(font_size=13)
    early = f" The first {100 * EARLY:.0f} % of training may leave the frame." if cut else ""
    caption = f"{seeds_caption(chosen, each)} Right: differences are taken seed by seed, at the same tokens.{early}"
    late = less[less.tokens >= EARLY * less.tokens.max()]
    curves = {str(v): curve_of(rows, "tokens") for v, rows in late.groupby("variant", sort=False)}
    title = loss_finding(curves, curve_of(chosen[chosen.variant == reference], "tokens"), reference, ends)
    return themed(figure, title, caption, chosen.run, height=440, of=joined(of, _seeds(chosen)))


def ioi_curves(
    metrics: pd.DataFrame,
    measure: str = "probability",
    splits: Sequence[str] = tuple(IOI_SETS),
    of: str = "",
    ends: pd.DataFrame | None = None,
) -> go.Figure:
    """Return a measure of the answers to IOI prompts against tokens: a panel a set of prompts, a curve a variant.

    ``metrics``, ``of`` and ``ends`` are as for :func:`loss_curves`; the right answer is the indirect object (IO), the
    wrong one the subject.

    Raises:
        ValueError: for several conditions.
        UnknownNameError: for a set or a measure that is not there.
    """
    return _panels(metrics, measure, splits, of, ends)


def nested_curves(
    metrics: pd.DataFrame, splits: Sequence[str] = DEPTHS, of: str = "", ends: pd.DataFrame | None = None
) -> go.Figure:
    """Return accuracy of the answers on nested clauses against tokens: a panel a depth, a curve a variant.

    ``metrics``, ``of`` and ``ends`` are as for :func:`loss_curves`; ``splits`` can name the kinds of questions too.

    Raises:
        ValueError: for several conditions.
        UnknownNameError: for a set that is not there.
    """
    return _panels(metrics, "accuracy", splits, of, ends)


def gap_curves(metrics: pd.DataFrame, levels: Mapping[str, float], split: str = "ioi paper", of: str = "") -> go.Figure:
    """Return the probability of the right answer of two variants against tokens, with a level that each is set against.

    ``metrics`` and ``of`` are as for :func:`loss_curves`; ``levels`` are what the paper reports of both variants.

    Raises:
        ValueError: for several conditions, or levels that are not of two variants.
        UnknownNameError: for a set or a variant that is not there.
    """
    require(len(levels) == 2, f"a gap is that of two variants, got levels of {len(levels)}")
    chosen = _chosen(metrics, [split], "probability")
    curves = {
        v: curve_of(chosen[chosen.variant == known("variant", v, chosen.variant.unique())], "tokens") for v in levels
    }
    figure, palette, each = go.Figure(), colours(levels), few(chosen)
    for variant, level in levels.items():
        figure.add_traces(_traces(chosen[chosen.variant == variant], palette[variant], each, True))
        note = {"text": f"the paper's {variant}: {level:.0%}", "font": {"color": palette[variant], "size": 12}}
        figure.add_hline(y=level, line=_LINE, annotation=note, annotation_position="top left")
    figure.update_xaxes(title_text="tokens seen (millions)", rangemode="tozero")
    figure.update_yaxes(title_text=f"{MEASURE_WORDS['probability']}", range=[-0.01, 1.03])
    about = joined(of, _seeds(chosen), f"on {IOI_SETS.get(split, split)}")
    return themed(figure, gap_finding(curves, levels), seeds_caption(chosen, each), chosen.run, of=about)


def _panels(
    metrics: pd.DataFrame, measure: str, splits: Sequence[str], of: str, ends: pd.DataFrame | None
) -> go.Figure:
    chosen = _chosen(metrics, splits, measure)
    columns = min(len(splits), _ACROSS)
    rows = -(-len(splits) // columns)
    words = IOI_SETS | NESTED_SETS
    figure = make_subplots(
        rows,
        columns,
        specs=[[{} if row * columns + i < len(splits) else None for i in range(columns)] for row in range(rows)],
        subplot_titles=["<br>".join(textwrap.wrap(words.get(split, split), _TITLE)) for split in splits],
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.24 / rows,
    )
    palette, each = colours(chosen.variant.unique()), few(chosen)
    for i, split in enumerate(splits):
        row, column = i // columns + 1, i % columns + 1
        for variant, curve in chosen[chosen.split == split].groupby("variant", sort=False):
            _add(figure, curve, palette[str(variant)], each, row, column, i == 0)
        if measure in EVEN:
            figure.add_hline(y=EVEN[measure], line=_LINE, row=row, col=column)  # type: ignore[arg-type] # numbers
    figure.update_xaxes(rangemode="tozero")
    for i in range(max(0, len(splits) - columns), len(splits)):  # nothing below them
        figure.update_xaxes(title_text="tokens seen (millions)", row=i // columns + 1, col=i % columns + 1)
    figure.update_yaxes(title_text=MEASURE_WORDS.get(measure, measure), col=1)
    if measure == "logit_difference":
        figure.update_yaxes(matches="y", zeroline=False)
    else:
        figure.update_yaxes(range=[-0.01, 1.03])
    figure.update_annotations(font_size=13)
    by = chosen.groupby(["split", "variant"], sort=False, observed=True)
    lasts = {(str(split), str(variant)): _last(part) for (split, variant), part in by}
    title = levels_finding(lasts, list(splits), measure, words, ends)
    size: dict[str, Any] = {"height": 150 + 310 * rows, "above": 14}
    about = joined(of, _seeds(chosen))
    return themed(figure, title, seeds_caption(chosen, each), chosen.run, of=about, **size)


def _last(rows: pd.DataFrame) -> dict[Any, Any]:
    return curve_of(rows, "tokens").iloc[-1].to_dict()


def _seeds(metrics: pd.DataFrame) -> str:
    n = metrics.groupby("variant")["seed"].nunique()
    return "one run a variant" if n.max() == 1 else f"{span(n)} seeds a variant"


def _chosen(metrics: pd.DataFrame, splits: Sequence[str], measure: str) -> pd.DataFrame:
    conditions = metrics.condition.unique().tolist() if "condition" in metrics else []
    # Seeds are equal across conditions, so their runs would be averaged as if they were one.
    require(len(conditions) <= 1, f"metrics are of several conditions ({', '.join(conditions)}); draw one at a time")
    for split in splits:
        known("set", split, metrics.split.unique())
    measured = metrics[metrics.split.isin(list(splits))]
    known("measure", measure, measured.measure.unique())
    return _in_millions(measured[measured.measure == measure])


def _in_millions(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose ``step``, which curves are drawn along, holds millions of tokens."""
    return rows.assign(step=rows.tokens / MILLION)


def _traces(rows: pd.DataFrame, colour: str, each: bool, showlegend: bool) -> list[go.Scatter]:
    traces = drawn(rows, colour, each, showlegend=showlegend)
    for trace in traces:
        if trace.hovertemplate:
            trace.hovertemplate = str(trace.hovertemplate).replace("step %{x:,}", "%{x:.3g} million tokens")
    return traces


def _add(
    figure: go.Figure, rows: pd.DataFrame, colour: str, each: bool, row: int, column: int, showlegend: bool
) -> None:
    traces = _traces(rows, colour, each, showlegend)
    figure.add_traces(traces, rows=[row] * len(traces), cols=[column] * len(traces))


def _frame_late(figure: go.Figure, rows: pd.DataFrame, column: int) -> bool:
    """Fit a vertical axis to what comes after the first tokens; return whether anything lies outside."""
    late = rows[rows.tokens >= EARLY * rows.tokens.max()]
    if late.empty:
        return False
    ends = [end[["value", "mean", "low", "high"]] for end in (late, rows)]
    low, high = (float(np.nanmin(ends[0])), float(np.nanmax(ends[0])))
    margin = 0.05 * (high - low) or 0.05
    figure.update_yaxes(range=[low - margin, high + margin], row=1, col=column)
    return bool(np.nanmin(ends[1]) < low - margin or np.nanmax(ends[1]) > high + margin)
