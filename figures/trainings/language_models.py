"""Figures of language models: loss and answers against tokens, what changes with size, what a variant costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.errors import known, require
from figures.curves import band, curve_of, seeds_caption, span, whiskers
from figures.theme import GREEN, colours, dash, faded, themed

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
    "tokens to threshold ratio to classic": "tokens to threshold,<br>times classic's",
    "final loss difference": "final loss minus<br>classic's (nats)",
    "final probability difference": "final probability of IO<br>minus classic's",
}
EVEN = {"logit_difference": 0.0, "preference": 0.5}
"""Where a measure does not tell right from wrong."""
EARLY = 0.1
"""The share of training whose losses are too large for the axis of what comes after."""
MILLION = 1e6
_LINE = {"color": "#AAAAAA", "width": 1, "dash": "dash"}
_WHISKERS = {"symmetric": False, "thickness": 1.4, "width": 4}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star")


def loss_curves(
    metrics: pd.DataFrame, reference: str = "classic", split: str = "validation", title: str = "Loss of language models"
) -> go.Figure:
    """Return the loss against tokens (left) and its difference to the reference's, seed by seed (right), by variant.

    ``metrics`` has columns variant, seed, run, step, tokens, split, measure, those of :func:`analysis.over_seeds`, and
    the rows of :func:`analysis.statistics.curves.with_differences`; it is of one condition. Nats; below 0 on the right
    is better than the reference.

    Raises:
        ValueError: for several conditions, or where no differences are there.
        UnknownNameError: for a split or a reference that is not there.
    """
    chosen = _chosen(metrics, [split], "loss")
    known("variant", reference, chosen.variant.unique())
    less = metrics[(metrics.split == split) & (metrics.measure == f"loss minus {reference}'s")]
    require(
        len(less) > 0 or chosen.variant.nunique() == 1,
        f"there are no differences to {reference}: analysis.statistics.curves.with_differences makes them",
    )
    figure = make_subplots(1, 2, subplot_titles=[f"{split} loss", f"minus {reference}'s"], horizontal_spacing=0.09)
    palette = colours(chosen.variant.unique())
    cut = False
    for column, rows in enumerate((chosen, less), start=1):
        curves = _curves(rows)
        for variant, curve in curves.items():
            _add(figure, curve, variant, palette[variant], 1, column, column == 1)
        cut |= _frame_late(figure, pd.concat(curves.values()) if curves else chosen.head(0), column)
    figure.add_hline(y=0.0, line=_LINE, row=1, col=2)  # type: ignore[arg-type] # plotly takes numbers
    figure.update_xaxes(title_text="tokens seen (millions)", rangemode="tozero")
    figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
    figure.update_yaxes(title_text="difference of losses (nats)", zeroline=False, row=1, col=2)
    figure.update_annotations(font_size=13)
    early = f" The first {100 * EARLY:.0f} % of training may leave the frame." if cut else ""
    caption = f"{seeds_caption(chosen)}<br>Right: differences are taken seed by seed, at the same tokens.{early}"
    return themed(figure, title, caption, chosen.run, height=470)


def ioi_curves(
    metrics: pd.DataFrame,
    measure: str = "probability",
    splits: Sequence[str] = tuple(IOI_SETS),
    title: str = "Indirect objects over training",
    levels: Mapping[str, float] | None = None,
) -> go.Figure:
    """Return a measure of the answers to IOI prompts against tokens: a panel a set of prompts, a curve a variant.

    ``metrics`` is as for :func:`loss_curves`; the right answer is the indirect object (IO), the wrong one the subject.
    ``levels`` are horizontal lines with names.

    Raises:
        ValueError: for several conditions.
        UnknownNameError: for a set or a measure that is not there.
    """
    figure = _panels(metrics, measure, splits, title)
    for name, level in (levels or {}).items():
        note = {"text": name, "font": {"color": "#666666", "size": 12}}
        figure.add_hline(y=level, line=_LINE, annotation=note, annotation_position="top left")
    return figure


def nested_curves(
    metrics: pd.DataFrame, splits: Sequence[str] = DEPTHS, title: str = "Relations inside relations, by depth"
) -> go.Figure:
    """Return accuracy of the answers on nested clauses against tokens: a panel a depth, a curve a variant.

    ``metrics`` is as for :func:`loss_curves`; ``splits`` can name the kinds of questions too.

    Raises:
        ValueError: for several conditions.
        UnknownNameError: for a set that is not there.
    """
    return _panels(metrics, "accuracy", splits, title)


def _panels(metrics: pd.DataFrame, measure: str, splits: Sequence[str], title: str) -> go.Figure:
    chosen = _chosen(metrics, splits, measure)
    columns = len(splits) if len(splits) <= 4 else 3
    rows = -(-len(splits) // columns)
    words = IOI_SETS | NESTED_SETS
    figure = make_subplots(
        rows,
        columns,
        specs=[[{} if row * columns + i < len(splits) else None for i in range(columns)] for row in range(rows)],
        subplot_titles=[words.get(split, split) for split in splits],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.24 / rows,
    )
    palette = colours(chosen.variant.unique())
    for i, split in enumerate(splits):
        row, column = i // columns + 1, i % columns + 1
        for variant, curve in _curves(chosen[chosen.split == split]).items():
            _add(figure, curve, variant, palette[variant], row, column, i == 0)
        if measure in EVEN:
            figure.add_hline(y=EVEN[measure], line=_LINE, row=row, col=column)  # type: ignore[arg-type] # numbers
    figure.update_xaxes(rangemode="tozero")
    for i in range(max(0, len(splits) - columns), len(splits)):  # nothing below them
        figure.update_xaxes(title_text="tokens seen (millions)", row=i // columns + 1, col=i % columns + 1)
    figure.update_yaxes(title_text=MEASURE_WORDS.get(measure, measure), col=1)
    if measure == "logit_difference":
        figure.update_yaxes(matches="y", zeroline=False)
    else:
        figure.update_yaxes(range=[0, 1.03])
    figure.update_annotations(font_size=13)
    return themed(figure, title, seeds_caption(chosen), chosen.run, height=150 + 290 * rows)


def _chosen(metrics: pd.DataFrame, splits: Sequence[str], measure: str) -> pd.DataFrame:
    conditions = metrics.condition.unique().tolist() if "condition" in metrics else []
    # Seeds are equal across conditions, so their runs would be averaged as if they were one.
    require(len(conditions) <= 1, f"metrics are of several conditions ({', '.join(conditions)}); draw one at a time")
    for split in splits:
        known("set", split, metrics.split.unique())
    measured = metrics[metrics.split.isin(list(splits))]
    known("measure", measure, measured.measure.unique())
    return measured[measured.measure == measure]


def _curves(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The curve over seeds of every variant; ``step``, which bands are drawn along, holds millions of tokens."""
    by_variant = {str(variant): curve_of(part, "tokens") for variant, part in rows.groupby("variant", sort=False)}
    return {variant: curve.assign(step=curve.tokens / MILLION) for variant, curve in by_variant.items()}


def _add(
    figure: go.Figure, curve: pd.DataFrame, variant: str, colour: str, row: int, column: int, showlegend: bool
) -> None:
    traces = band(curve, variant, colour, dash(variant), showlegend=showlegend)
    traces[-1].update(hovertemplate="%{x:,.3g} million tokens: %{y:.4g}<extra>" + variant + "</extra>")
    figure.add_traces(traces, rows=[row] * len(traces), cols=[column] * len(traces))


def _frame_late(figure: go.Figure, curves: pd.DataFrame, column: int) -> bool:
    """Fit a vertical axis to what comes after the first tokens; return whether anything lies outside."""
    late = curves[curves.tokens >= EARLY * curves.tokens.max()]
    if late.empty:
        return False
    ends = [end[["mean", "low", "high"]] for end in (late, curves)]
    low, high = (float(np.nanmin(ends[0])), float(np.nanmax(ends[0])))
    margin = 0.05 * (high - low) or 0.05
    figure.update_yaxes(range=[low - margin, high + margin], row=1, col=column)
    return bool(np.nanmin(ends[1]) < low - margin or np.nanmax(ends[1]) > high + margin)


def scaling(table: pd.DataFrame, runs: Sequence[str] = (), title: str = "Does it help larger models?") -> go.Figure:
    """Return ratios or differences to classic against parameters: a panel a measure, a colour a variant, whiskers.

    ``table`` has columns size, parameters, variant, measure, mean, low, high, pairs, step_time_ratio. Points of one
    size stand beside each other; the dashed line is where a variant does as classic.
    """
    measures = list(dict.fromkeys(table.measure))
    figure = make_subplots(1, len(measures), horizontal_spacing=0.1)
    names = list(dict.fromkeys(table.variant))
    palette = colours(dict.fromkeys(["classic", *names]))
    for column, measure in enumerate(measures, start=1):
        for i, name in enumerate(names):
            rows = table[(table.measure == measure) & (table.variant == name)].sort_values("parameters")
            aside = 10 ** (0.04 * (i - (len(names) - 1) / 2))
            figure.add_trace(_points(rows, name, palette[name], aside, column == 1), row=1, col=column)
        ratio = "ratio" in measure
        figure.add_hline(y=1.0 if ratio else 0.0, line=_LINE, row=1, col=column)  # type: ignore[arg-type] # numbers
        figure.update_yaxes(title_text=MEASURE_WORDS.get(measure, measure), zeroline=False, row=1, col=column)
    sizes = table[["parameters", "size"]].drop_duplicates().sort_values("parameters")
    ends = [math.log10(sizes.parameters.min()) - 0.25, math.log10(sizes.parameters.max()) + 0.25]
    ticks = [f"{size}<br>{_rounded(float(n))}" for n, size in zip(sizes.parameters, sizes["size"], strict=True)]
    figure.update_xaxes(type="log", range=ends, tickvals=sizes.parameters.tolist(), ticktext=ticks, tickangle=0)
    figure.update_xaxes(title_text="parameters (log axis)", showgrid=False)
    caption = (
        f"Against classic of the same size, {_pairs(table.pairs)} of seeds a point; whiskers are 95 % "
        "intervals, adjusted over all ratios or differences.<br>Dashed: as classic. Points of one size stand beside "
        "each other to be seen."
    )
    return themed(figure, title, caption, runs, height=450, below=72)


def _points(rows: pd.DataFrame, name: str, colour: str, aside: float, showlegend: bool) -> go.Scatter:
    text = [
        f"{name}, {r['size']}: {r['mean']:.3g} [{r['low']:.3g}, {r['high']:.3g}], {r['pairs']:.0f} pairs; a step takes "
        f"{r['step_time_ratio']:.2f} times classic's"
        for r in rows.to_dict("records")
    ]
    return go.Scatter(
        x=rows.parameters * aside,
        y=rows["mean"],
        error_y=whiskers(rows["mean"], rows.low, rows.high, **_WHISKERS),
        mode="lines+markers",
        line={"color": colour, "dash": dash(name), "width": 1.2},
        marker={"color": colour, "size": 9, "symbol": _symbol("circle", name)},
        name=name,
        legendgroup=name,
        showlegend=showlegend,
        hovertext=text,
        hoverinfo="text",
    )


def cost_against_gain(
    table: pd.DataFrame, runs: Sequence[str] = (), title: str = "Does a variant pay for itself?"
) -> go.Figure:
    """Return tokens to the threshold against time a step, both as ratios to classic: a colour a variant, whiskers.

    ``table`` has columns variant, size, time, time_low, time_high (a step's), memory (at its peak), tokens,
    tokens_low, tokens_high (to the threshold), pairs. Below the line, where the product of the two is less than 1, a
    variant is at the threshold sooner on the clock.
    """
    sizes = list(dict.fromkeys(table["size"]))
    symbols: dict[str, str] = dict(zip(sizes, _SYMBOLS * len(sizes), strict=False))
    ends = [_ends(table[[name, f"{name}_low", f"{name}_high"]]) for name in ("time", "tokens")]
    figure = go.Figure(_break_even(np.linspace(ends[0][0], ends[0][1], 61)))
    palette = colours(dict.fromkeys(["classic", *table.variant]))
    for variant, rows in table.groupby("variant", sort=False):
        figure.add_trace(_costs(rows, str(variant), palette[str(variant)], symbols))
    if len(sizes) > 1:
        figure.add_traces([_key(size, symbols[size]) for size in sizes])
    figure.update_xaxes(title_text="time of a step, times classic's", range=ends[0], zeroline=False)
    figure.update_yaxes(title_text="tokens to the threshold,<br>times classic's", range=ends[1], zeroline=False)
    caption = (
        f"Ratios to classic of the same size, {_pairs(table.pairs)} of seeds a point; whiskers are 95 % "
        "intervals (tokens: adjusted).<br>In the shaded part, below time x tokens = 1, a variant is at the threshold "
        "sooner on the clock. Memory on hover."
    )
    return themed(figure, title, caption, runs, height=520)


def _ends(numbers: pd.DataFrame) -> list[float]:
    """The ends of an axis that shows all of some ratios, and 1."""
    low, high = min(1.0, float(np.nanmin(numbers))), max(1.0, float(np.nanmax(numbers)))
    margin = 0.08 * (high - low) or 0.08
    return [low - margin, high + margin]


def _break_even(across: np.ndarray) -> go.Scatter:
    return go.Scatter(
        x=across,
        y=1 / across,
        mode="lines",
        name="time x tokens = 1",
        line={"color": "#888888", "width": 1.2, "dash": "longdash"},
        fill="tozeroy",
        fillcolor=faded(GREEN, 0.07),
        hoverinfo="skip",
    )


def _costs(rows: pd.DataFrame, name: str, colour: str, symbols: dict[str, str]) -> go.Scatter:
    text = [
        f"{name}, {r['size']}<br>time {r['time']:.3g} [{r['time_low']:.3g}, {r['time_high']:.3g}]<br>tokens "
        f"{r['tokens']:.3g} [{r['tokens_low']:.3g}, {r['tokens_high']:.3g}]<br>memory {r['memory']:.3g}"
        for r in rows.to_dict("records")
    ]
    return go.Scatter(
        x=rows.time,
        y=rows.tokens,
        error_x=whiskers(rows.time, rows.time_low, rows.time_high, **_WHISKERS),
        error_y=whiskers(rows.tokens, rows.tokens_low, rows.tokens_high, **_WHISKERS),
        mode="markers",
        marker={"color": colour, "size": 10, "symbol": [_symbol(symbols[size], name) for size in rows["size"]]},
        name=name,
        legendgroup=name,
        hovertext=text,
        hoverinfo="text",
    )


def _key(size: str, symbol: str) -> go.Scatter:
    """What a symbol means: a trace of the legend alone."""
    return go.Scatter(x=[None], y=[None], mode="markers", name=size, marker={"color": "#888888", "symbol": symbol})


def _symbol(symbol: str, variant: str) -> str:
    """Symbols tell gates apart, as dashes do on lines."""
    return symbol + {"dash": "-open", "dot": "-open-dot"}.get(dash(variant), "")


def _pairs(numbers: pd.Series) -> str:
    return f"{span(numbers)} {'pair' if numbers.max() == 1 else 'pairs'}"


def _rounded(parameters: float) -> str:
    return f"{parameters / MILLION:.2g} million" if parameters >= 1e5 else f"{parameters:,.0f}"
