"""Figures of how attention forms while a classifier learns in context."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.curves import Crossing, crossing, curve_of, drawn, few, seeds_caption
from figures.theme import colours, themed
from figures.trainings.learning import reference_of, whose
from figures.words import fitting, gates, listed, span

PROGRESS: dict[str, str] = {
    "ila": "label looks at its item (ILA): first-layer attention, mean over the labels",
    "tila": "target looks at the labels of its class (TILA): last-layer attention, summed",
    "tla": "target looks at all labels (TLA): last-layer attention, summed",
    "cla": "labels of the context (CLA): their probability, summed",
}
"""The progress measures of in-context classification (:mod:`analysis.heads.progress_measures`) in words."""


def progress_measures(metrics: pd.DataFrame, split: str = "ic", of: str = "") -> go.Figure:
    """Return four measures of progress against steps, one panel each; columns as for :func:`figures.learning_curves`.

    The title compares when the variants have come half way: between where the reference (classic, or else the first
    variant) starts and the least level at which a variant ends.
    """
    chosen = metrics[metrics.measure.isin(list(PROGRESS)) & (metrics.split == split)]
    titles = [words.split(":")[0] for words in PROGRESS.values()]
    figure = make_subplots(2, 2, subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.12)
    variants = [str(v) for v in dict.fromkeys(chosen.variant)]
    palette, each = colours(variants), few(chosen)
    curves: dict[str, dict[str, pd.DataFrame]] = {}
    for i, name in enumerate(PROGRESS):
        measured = chosen[chosen.measure == name]
        curves[name] = {v: curve_of(measured[measured.variant == v]) for v in variants if (measured.variant == v).any()}
        for variant in curves[name]:
            traces = drawn(measured[measured.variant == variant], palette[variant], each, showlegend=i == 0)
            figure.add_traces(traces, rows=[i // 2 + 1] * len(traces), cols=[i % 2 + 1] * len(traces))
    figure.update_xaxes(title_text="step (updates)", row=2)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(range=[0, 1.03])
    figure.update_yaxes(title_text="attention", col=1)
    figure.update_yaxes(title_text="probability", row=2, col=2)
    figure.update_annotations(font_size=13)
    caption = (
        f"{seeds_caption(chosen, each)} Attention to labels and items is between 0 and 1; half way (title) is between "
        "where the reference starts and the lowest level at which a variant ends." + gates(variants)
    )
    title = _half_way(curves, variants)
    return themed(figure, title, caption, chosen.run, height=620, of=whose(chosen, of, split=split))


def _half_way(curves: dict[str, dict[str, pd.DataFrame]], variants: list[str]) -> str:
    """When the variants are half way in the measures, as multiples of the reference's steps."""
    reference = reference_of(variants)
    at = {name: _crossings(each, reference) for name, each in curves.items() if each.get(reference) is not None}
    others = [v for v in variants if v != reference]
    if not others:
        steps = [c[reference].step for c in at.values() if c[reference].reached]
        return (
            f"{reference} is half way in the measures at steps {span(steps, ',.0f')}" if steps else "No measure rises"
        )
    said = [_against([(c[v], c[reference]) for c in at.values() if v in c]) for v in others]
    head = f"Half way against {reference}: "
    return fitting(
        *(head + "; ".join(f"{v} {part[i]}" for v, part in zip(others, said, strict=True)) for i in (0, 1)),
        head + "; ".join(f"{v} {part[1].replace(' measures', '')}" for v, part in zip(others, said, strict=True)),
    )


def _crossings(curves: dict[str, pd.DataFrame], reference: str) -> dict[str, Crossing]:
    start = float(curves[reference]["mean"].iloc[0])
    end = min(float(curve["mean"].iloc[-1]) for curve in curves.values())
    return {v: crossing(curve, (start + end) / 2) for v, curve in curves.items()} if end > start else {}


def _against(pairs: list[tuple[Crossing, Crossing]]) -> tuple[str, str]:
    """In how many measures a variant is sooner or later than the reference, with the ratios of steps and without."""
    known = [(own, other) for own, other in pairs if own.reached and other.reached and other.step > 0]
    if not known:
        return "does not get there", "does not get there"
    ratios = [own.step / other.step for own, other in known]
    one_run = any(np.isnan(own.early) or np.isnan(other.early) for own, other in known)
    apart = [ratio for (own, other), ratio in zip(known, ratios, strict=True) if one_run or own.apart(other)]
    ways = {"sooner": sum(r < 1 for r in apart), "later": sum(r > 1 for r in apart)}
    parts = [f"{n} of {len(pairs)}" if n < len(pairs) else f"all {n}" for n in ways.values()]
    told = [f"{words} in {part}" for (words, n), part in zip(ways.items(), parts, strict=True) if n]
    said = f"{listed(told)} measures" if told else "not told apart"
    return f"{said} ({span(ratios, '.2f')} times its steps)", said
