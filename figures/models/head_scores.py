"""Figures of what every head does, over training."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import EARLIER_TO_LATER, TEAL
from figures.findings import plain, shows
from figures.models.several_runs import by_run, once
from figures.theme import themed
from figures.words import fitting, listed, sentence, span

SCORE_WORDS = {
    "ila": "label looks at its item",
    "tila": "target looks at the labels of its class",
    "tla": "target looks at all labels",
    "cla": "labels of the context",
}
"""Of scores that are called by a short name."""
_NAMED = 2
"""So many heads of one score are named."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "triangle-down")
"""Of the heads of a layer; how a line is dashed says which gate a variant has, in all figures."""


def head_scores(frame: pd.DataFrame, of: str = "") -> go.Figure:
    """Return head scores over training: a panel a score, a line a head (colour: layer, symbol: head), a row a variant,
    or a run where several are of one.

    ``frame`` has columns variant, run, step, layer, head, score, value, stderr, n, and where scores are of two heads
    ``partner``, the other one. Rows with layer -1 are of the whole model. ``of`` says of what size and task.

    Raises:
        ValueError: if a head of a run has a score twice at a step.
    """
    whose = _whose(frame, of)
    frame = by_run(frame)
    once(frame, "score", "variant", "step", "layer", "head", "score", "partner")
    scores, variants = list(dict.fromkeys(frame.score)), list(dict.fromkeys(frame.variant))
    across = min(len(scores), 4)
    deep = -(-len(scores) // across)
    rows = deep * len(variants)
    cells = [
        (v, i // across * len(variants) + r, i % across) for i in range(len(scores)) for r, v in enumerate(variants)
    ]
    titles = {(row, column): _title(scores[(row // len(variants)) * across + column], v) for v, row, column in cells}
    figure = make_subplots(
        rows,
        across,
        specs=[[{} if (row, column) in titles else None for column in range(across)] for row in range(rows)],
        subplot_titles=[titles[at] for at in sorted(titles)],
        shared_yaxes=True,
        shared_xaxes="all",  # type: ignore[arg-type] # documented, beside True
        horizontal_spacing=0.03,
        vertical_spacing=min(0.12, 0.3 / rows),
    )
    named: set[str] = set()
    layers = int(frame.layer.max()) + 1
    for variant, row, column in cells:
        score = scores[(row // len(variants)) * across + column]
        chosen = frame[(frame.score == score) & (frame.variant == variant)].fillna({"partner": ""})
        for name, curve in chosen.groupby(_head_names(chosen), sort=False):
            trace = _head_curve(curve.sort_values("step", kind="stable"), str(name), str(variant), layers)
            trace.showlegend = str(name) not in named
            figure.add_trace(trace, row=row + 1, col=column + 1)
            named.add(str(name))
    figure.update_yaxes(range=[0, 1.03])
    figure.update_yaxes(title_text="score (0 to 1)", col=1)
    for row, column in titles:
        if (row + 1, column) not in titles:
            figure.update_xaxes(title_text="step (updates)", showticklabels=True, row=row + 1, col=column + 1)
    figure.update_xaxes(rangemode="tozero")
    figure.update_annotations(font_size=12)
    return themed(figure, _finding(frame), _caption(frame), frame.run, height=150 + 190 * rows, of=whose)


def _title(score: str, variant: str) -> str:
    words = SCORE_WORDS.get(score, score)
    return f"{words} ({variant})" if variant else words


def _whose(frame: pd.DataFrame, of: str) -> str:
    runs = frame.run.nunique()
    told = [of] if of else []
    return "; ".join([*told, "one run a variant" if runs == frame.variant.nunique() else f"{runs} runs"])


def _caption(frame: pd.DataFrame) -> str:
    """What is averaged of the kinds of scores that are there."""
    attention = frame[~frame.score.str.contains("copying|composition")]
    parts = [f"Attention: mean over {span(attention.n)} sequences" if len(attention) else ""]
    parts += ["copying: mean over labels" if frame.score.str.contains("copying").any() else ""]
    parts += ["composition: of weights, exact" if frame.score.str.contains("composition").any() else ""]
    told = "; ".join(part for part in parts if part)
    bars = "Bars: 95 % intervals over what a score is a mean of. Colour: the layer; symbol: the head."
    return f"{sentence(told)}. {bars}"


def _head_names(frame: pd.DataFrame) -> pd.Series:
    """What each row's curve is called; a score of two heads names both."""
    rows = zip(frame.layer, frame["head"], frame.get("partner", pd.Series("", frame.index)), strict=True)
    names = [f"{p} to L{layer}H{head}" if p else f"L{layer}H{head}" for layer, head, p in rows]
    return pd.Series(names, frame.index, name="name").where(frame.layer >= 0, "model")


def _shade(layer: int, layers: int) -> str:
    """The colour of a layer: from early to late; of the whole model, that of every route together."""
    if layer < 0:
        return TEAL
    return EARLIER_TO_LATER[round(layer * (len(EARLIER_TO_LATER) - 1) / max(layers - 1, 1))]


def _head_curve(curve: pd.DataFrame, name: str, variant: str, layers: int) -> go.Scatter:
    # Neither end of an interval leaves 0 to 1.
    half = 1.96 * curve["stderr"]
    error: dict[str, Any] = {"type": "data", "thickness": 0.8, "width": 0}
    error |= {"array": half.clip(upper=1 - curve["value"]), "arrayminus": half.clip(upper=curve["value"])}
    colour, symbol = (
        _shade(int(curve.layer.iloc[0]), layers),
        _SYMBOLS[max(int(curve["head"].iloc[0]), 0) % len(_SYMBOLS)],
    )
    return go.Scatter(
        x=curve["step"],
        y=curve["value"],
        error_y=error,
        customdata=pd.DataFrame({"half": half, "n": curve["n"]}).to_numpy(),
        name=name,
        legendgroup=name,
        mode="lines+markers",
        marker={"symbol": symbol, "size": 5},
        line={"color": colour, "width": 2},
        hovertemplate="step %{x:,}: %{y:.3f} ± %{customdata[0]:.3f}, n %{customdata[1]}<extra>"
        + f"{name}, {variant}, one run</extra>".replace(", ,", ","),
    )


def _finding(frame: pd.DataFrame) -> str:
    """Which head scores highest at the end, of as many scores as fit."""
    of_heads = frame[(frame.layer >= 0) & (frame.get("partner", pd.Series("", frame.index)).fillna("") == "")]
    last = of_heads[of_heads.step == of_heads.groupby("run")["step"].transform("max")].dropna(subset=["value"])
    scores = [str(score) for score in dict.fromkeys(last.score)]
    if not scores:
        return "Scores of the whole model and of pairs of heads"
    # Scores that a task names say more than those that every task has.
    scores.sort(key=lambda score: (score not in SCORE_WORDS, "copying" in score))
    told = [_highest(last[last.score == score], score) for score in scores]
    ways = [[each[i] for each in told[:n]] for n in range(len(told), 0, -1) for i in (0, 1)]
    return fitting(*(f"At the end {'; '.join(each)}" for each in ways))


def _highest(rows: pd.DataFrame, score: str) -> tuple[str, str]:
    """The head of the highest score of every variant, at length and in short."""
    best = {str(v): leading(of) for v, of in rows.groupby("variant", sort=False)}
    words = SCORE_WORDS.get(score, score)
    names, numbers = [name for name, _ in best.values()], [value for _, value in best.values()]
    values = [f"{plain(x)} ({v})" if v else plain(x) for v, x in zip(best, numbers, strict=True)]
    if len(set(names)) == 1:
        return f"{words}: {names[0]}, {listed(values)}", f"{words}: {names[0]} ({span(numbers, '.2f')})"
    each = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
    return f"{words}: {listed(each)}", f"{words}: {listed(names)}"


def leading(rows: pd.DataFrame) -> tuple[str, float]:
    """Return the head with the highest score of some rows, and the score; all heads that have it, where it is shared.

    No head leads where every score is 0 in two digits, and more than two of one score are counted.
    """
    top = float(rows["value"].max())
    names = [f"L{row['layer']}H{row['head']}" for row in rows[rows["value"] == top].to_dict("records")]
    if not shows(top):
        return "no head", top
    return (listed(names) if len(names) <= _NAMED else f"{len(names)} of {len(rows)} heads"), top
