"""Variants against a reference: estimates with their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuits.common.palette import GREY
from figures.axes import log_axis
from figures.curves import whiskers
from figures.findings import number
from figures.models.several_runs import alike
from figures.theme import colours, themed
from figures.words import fitting, listed, sentence, span

SYMBOLS = {"told apart": "circle", "the same": "diamond", "not told apart": "circle-open"}
"""What is said of an estimate, by what is drawn of it."""
NONE = "neither got there"
"""What is said where there is no estimate, as no run of the variant or of the reference reached the threshold."""


def comparison_dots(frame: pd.DataFrame) -> go.Figure:
    """Return every variant's estimate with its interval, and a line where it would equal the reference.

    ``frame`` is :meth:`analysis.statistics.comparison.Comparison.to_frame`. The symbol is the verdict: filled where
    told apart from the reference, a diamond where equivalent, open where neither; a variant without an estimate says
    why.

    Raises:
        ValueError: if what is drawn is of several comparisons, which differ in what they were asked.
    """
    asked = alike(frame, "reference", "contrast", "confidence", "interval", "correction", "horizon")
    palette, level, ratio = colours(frame.variant), 1 - float(asked["confidence"]), asked["contrast"] == "ratio"
    verdicts = [_verdict(row, level) for row in frame.to_dict("records")]
    figure = go.Figure()
    for verdict, symbol in SYMBOLS.items():
        if verdict in verdicts:
            key = {"symbol": symbol, "size": 10, "color": "#555555"}
            figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=_named(verdict, level), marker=key))
    for row, verdict in zip(frame.to_dict("records"), verdicts, strict=True):
        if verdict == NONE:
            where = {"x": [1 if ratio else 0], "y": [row["variant"]], "textposition": "middle right"}
            figure.add_trace(go.Scatter(mode="text", text=[f" {NONE}"], showlegend=False, hoverinfo="skip", **where))
            continue
        ends, colour = pd.DataFrame([row]), palette[row["variant"]]
        dot = {"size": 10, "color": colour, "symbol": SYMBOLS[verdict], "line": {"color": colour, "width": 1.6}}
        figure.add_trace(
            go.Scatter(
                x=[row["estimate"]],
                y=[row["variant"]],
                mode="markers",
                marker=dot,
                error_x=whiskers(ends.estimate, ends.low, ends.high, symmetric=False, thickness=1.5, width=5),
                hovertext=f"{row['variant']}: {number(row, 'estimate', '.4g')}, p = {row['p_adjusted']:.3g} "
                f"(adjusted), {row['pairs']} pairs of seeds: {verdict}",
                hoverinfo="text",
                showlegend=False,
            )
        )
    figure.add_vline(x=1 if ratio else 0, line={"color": GREY, "width": 1, "dash": "longdash"})
    measured = f"restricted mean of steps up to {asked['horizon']:g}" if "horizon" in asked else "mean"
    against = f"times {asked['reference']}'s" if ratio else f"minus {asked['reference']}'s"
    known = frame[frame.estimate.notna()]
    if ratio and bool((known.low > 0).all()):
        figure.update_xaxes(log_axis(pd.concat([known.low, known.high, pd.Series([1.0])])))
    figure.update_xaxes(title_text=f"{measured}, {against}")
    names = list(dict.fromkeys(frame.variant))
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names, range=[len(names) - 0.4, -0.6])
    shown = known.smallest.dropna()
    caption = (
        f"{asked['confidence']:.0%} intervals ({asked['interval']}) and p adjusted alike ({asked['correction']})."
        + (f" With 80 % power so many seeds show {span(shown, '.3g')}." if len(shown) else "")
    )
    of = f"{span(frame.pairs)} pairs of seeds a comparison"
    size: dict[str, Any] = {"height": 190 + 44 * len(frame), "left": 30 + round(7.2 * max(map(len, names)))}
    return themed(figure, _finding(frame, verdicts, against), caption, of=of, **size)


def _verdict(row: dict[Any, Any], level: float) -> str:
    if np.isnan(row["estimate"]):
        return NONE
    if row["p_adjusted"] < level:
        return "told apart"
    return "the same" if row.get("p_equivalent", 1.0) < level else "not told apart"


def _named(verdict: str, level: float) -> str:
    return {"told apart": f"told apart (p < {level:.2g}, adjusted)", "the same": "the same within the margin"}.get(
        verdict, verdict
    )


def _finding(frame: pd.DataFrame, verdicts: list[str], against: str) -> str:
    """The estimates of those told apart, and what is said of the rest; of many, how many they are."""
    rows = list(zip(frame.to_dict("records"), verdicts, strict=True))
    told = [row for row, verdict in rows if verdict == "told apart"]
    rest = [
        f"{listed(row['variant'] for row, verdict in rows if verdict == said)} {said}"
        for said in ("the same", "not told apart", NONE)
        if said in verdicts
    ]
    reference = frame.reference.iloc[0]
    if not told:
        return fitting(
            f"{'; '.join(rest)} compared with {reference}", f"None of {len(rows)} told apart from {reference}"
        )

    def said(interval: bool) -> str:
        ends = (number(row, "estimate", ".3g") if interval else f"{row['estimate']:.3g}" for row in told)
        named = listed(f"{row['variant']} {end}" for row, end in zip(told, ends, strict=True))
        return "; ".join([f"{sentence(against)}: {named}", *rest])

    return fitting(said(True), said(False), f"{len(told)} of {len(rows)} told apart from {reference}")
