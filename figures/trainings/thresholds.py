"""Figure of ratios of steps at several thresholds: does what is found depend on the line at which it is read?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import GREY
from circuits.common.text_table import rows_of
from figures.curves import whiskers
from figures.theme import colours, themed
from figures.trainings.verdicts import OTHER, explain, verdict_of, words_of
from figures.words import fitting, gates, listed, span

_RULES = {"interpolated": ("between evaluations", 1.0), "sustained": ("every later evaluation above", 0.45)}
"""When a run is at a threshold, in words, and how dark it is drawn."""


def sensitivity(
    table: pd.DataFrame, runs: Sequence[str] = (), of: str = "", words: Mapping[str, str] | None = None
) -> go.Figure:
    """Return the ratio of times at several thresholds and rules of crossing: a row an experiment, a panel a comparison.

    ``table`` has columns experiment, variant, reference, threshold, rule, pairs, ratio, low, high, p_adjusted,
    p_equivalent and margin; ``words`` are the experiments' names. The symbol is the verdict, as of
    :func:`figures.time_ratios`.
    """
    shown = table[table.ratio.notna()]
    shown = shown.assign(compared=shown.variant + " / " + shown.reference)
    by_row = {str(name): list(dict.fromkeys(part.compared)) for name, part in shown.groupby("experiment", sort=False)}
    columns = max(len(compared) for compared in by_row.values())
    specs = [[{} if i < len(compared) else None for i in range(columns)] for compared in by_row.values()]
    figure = make_subplots(
        len(by_row),
        columns,
        specs=specs,
        subplot_titles=[what for compared in by_row.values() for what in compared],
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.24,
    )
    figure.update_annotations(font_size=13)
    thresholds = [f"{threshold:.0%}" for threshold in sorted(shown.threshold.unique())]
    palette = colours(shown.variant.unique())
    for row, (name, compared) in enumerate(by_row.items(), start=1):
        for column, what in enumerate(compared, start=1):
            rows = shown[(shown.experiment == name) & (shown.compared == what)].sort_values("threshold", kind="stable")
            for shift, (rule, (_, opacity)) in enumerate(_RULES.items()):
                part = rows[rows.rule == rule]
                if len(part):
                    hue = palette[str(part.variant.iloc[0])]
                    trace = _at_thresholds(part, hue, opacity, thresholds, 0.24 * (shift - 0.5))
                    figure.add_trace(trace, row=row, col=column)
            lacking = [t for t in thresholds if t not in {f"{x:.0%}" for x in rows.threshold}]
            for threshold in lacking:
                note = {"text": "runs<br>ended", "font": {"size": 10, "color": OTHER}, "showarrow": False}
                figure.add_annotation(
                    x=thresholds.index(threshold), y=1.02, yanchor="bottom", **note, row=row, col=column
                )
            line = {"color": GREY, "width": 1, "dash": "dash"}
            figure.add_hline(y=1.0, line=line, row=row, col=column)  # type: ignore[arg-type] # plotly takes numbers
        title = f"{(words or {}).get(name, name)}:<br>times the reference's steps"
        figure.update_yaxes(title={"text": title, "font": {"size": 13}}, row=row, col=1)
    explain(figure, shown)
    figure.update_xaxes(
        tickvals=list(range(len(thresholds))),
        ticktext=thresholds,
        tickangle=0,
        tickfont_size=11,
        range=[-0.5, len(thresholds) - 0.5],
        zeroline=False,
        title={"text": "threshold (accuracy)", "font": {"size": 11}, "standoff": 3},
    )
    caption = (
        "A title names variant / reference. Two readings: where the line between evaluations crosses the threshold, "
        "or (paler) the first evaluation after which every one is above. 95 % intervals and p: paired over seeds, "
        "Bonferroni-adjusted over an experiment's comparisons at one threshold. "
        "Runs ended: they were not followed to that threshold." + gates(shown.variant)
    )
    whose = "; ".join(part for part in (of, f"{span(shown.pairs)} pairs of runs of one seed") if part)
    return themed(figure, _finding(shown), caption, runs, height=270 * len(by_row) + 150, of=whose)


def _at_thresholds(rows: pd.DataFrame, hue: str, opacity: float, thresholds: list[str], aside: float) -> go.Scatter:
    x = [thresholds.index(f"{threshold:.0%}") + aside for threshold in rows.threshold]
    return go.Scatter(
        x=x,
        y=rows.ratio,
        error_y=whiskers(rows.ratio, rows.low, rows.high, width=2, thickness=1.3, color=hue),
        mode="lines+markers",
        marker={"color": hue, "size": 7, "symbol": [verdict_of(row).symbol for row in rows_of(rows)]},
        line={"color": hue, "width": 1},
        opacity=opacity,
        showlegend=False,
        hovertext=[_told(row) for row in rows_of(rows)],
        hoverinfo="text",
    )


def _told(row: Any) -> str:
    return (
        f"{row.variant} / {row.reference} at {row.threshold:.0%} ({_RULES[row.rule][0]}): {row.ratio:.3f} "
        f"[{row.low:.3f}, {row.high:.3f}], p = {row.p_adjusted:.2g} (adjusted), {row.pairs:.0f} pairs: {words_of(row)}"
    )


def _finding(shown: pd.DataFrame) -> str:
    """Of which comparisons the verdict is the same at every threshold, and of which it is not."""
    read = shown[shown.rule == "interpolated"] if (shown.rule == "interpolated").any() else shown
    hold, change = [], []
    for (_, compared), rows in read.groupby(["experiment", "compared"], sort=False):
        ways = {words_of(row) for row in rows_of(rows)}
        (hold if len(ways) == 1 else change).append(str(compared))
    total = len(hold) + len(change)
    if not change:
        return f"No verdict depends on the threshold: all {total} are the same from {_ends(shown)}"
    if not hold:
        return f"Every verdict of {total} depends on the threshold, from {_ends(shown)}"
    said = f"{len(hold)} of {total} verdicts hold {_ends(shown).replace(' to ', '-')}"
    return fitting(f"{said}, not {listed(dict.fromkeys(change))}", f"{said}; {len(change)} depend on the threshold")


def _ends(shown: pd.DataFrame) -> str:
    return f"{shown.threshold.min():.0%} to {shown.threshold.max():.0%}"
