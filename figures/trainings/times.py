"""Figures of many runs: learning curves by split, ratios of times with their intervals, survival, windows, shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.curves import band, curve_of, seeds_caption, span, whiskers
from figures.theme import BLACK, BLUE, GREEN, ORANGE, PINK, VERMILION, colours, dash, faded, themed
from figures.trainings.learning import SPLIT_WORDS

GREY = "#777777"
TICKS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 4)
FEW_TICKS = (0.2, 0.5, 1, 2, 4)
SHOWN = (0.15, 4.5)
"""Ratios that an axis shows at most; intervals may leave it."""
SPLITS = ("test", "ic", "ic2", "iw")


def all_curves(metrics: pd.DataFrame, title: str = "All evaluation sets") -> go.Figure:
    """Return accuracy (above) and loss (below) on every evaluation set against steps, a curve a variant.

    ``metrics`` has columns variant, seed, run, step, split, measure, and those of :func:`analysis.over_seeds`.
    """
    titles = [SPLIT_WORDS[split].replace(": ", ":<br>").replace(", target", ",<br>target") for split in SPLITS]
    figure = make_subplots(
        2, 4, subplot_titles=titles, shared_xaxes=True, horizontal_spacing=0.045, vertical_spacing=0.07
    )
    palette = colours(metrics.variant.unique())
    for row, measure in enumerate(("accuracy", "loss"), start=1):
        for column, split in enumerate(SPLITS, start=1):
            chosen = metrics[(metrics.split == split) & (metrics.measure == measure)]
            for variant, rows in chosen.groupby("variant", sort=False):
                shown = {"showlegend": row == column == 1}
                traces = band(curve_of(rows), str(variant), palette[str(variant)], dash(str(variant)), **shown)
                figure.add_traces(traces, rows=[row] * len(traces), cols=[column] * len(traces))
    figure.update_yaxes(range=[0, 1.03], row=1)
    figure.update_yaxes(range=[0, 1.15 * metrics.loc[metrics.measure == "loss", "mean"].max()], row=2)
    figure.update_yaxes(title_text="accuracy", row=1, col=1)
    figure.update_yaxes(title_text="loss (nats)", row=2, col=1)
    figure.update_xaxes(title_text="step", row=2)
    figure.update_annotations(font_size=12)
    return themed(figure, title, seeds_caption(metrics), metrics.run, height=640)


def time_ratios(
    table: pd.DataFrame, runs: Sequence[str] = (), title: str = "Steps to 95 %, against classic"
) -> go.Figure:
    """Return the ratio of every variant's steps to its reference's, a dot with its interval, a panel a condition.

    ``table`` has columns condition, variant, reference, ratio, low, high, p_adjusted, p_equivalent (to 1, within
    ``margin``), pairs; rows without a ratio are left out. Blue: told apart from 1; green: equivalent; grey: neither.
    """
    shown = table[table.ratio.notna()]
    several = shown.reference.nunique() > 1
    shown = shown.assign(variant=shown.variant + " / " + shown.reference if several else shown.variant)
    conditions = list(dict.fromkeys(shown.condition))
    names = list(dict.fromkeys(shown.variant))[::-1]
    columns = min(len(conditions), 4)
    rows = -(-len(conditions) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=conditions if len(conditions) > 1 else None,
        shared_yaxes=True,
        shared_xaxes="all",  # type: ignore[arg-type] # documented, beside True
        horizontal_spacing=0.02,
        vertical_spacing=0.28 / rows if rows > 1 else 0,
    )
    for i, condition in enumerate(conditions):
        place: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        for trace in _ratio_dots(shown[shown.condition == condition]):
            trace.showlegend = trace.name not in {other.name for other in figure.data}  # type: ignore[attr-defined] # traces
            figure.add_trace(trace, **place)
        figure.add_vline(x=1.0, line={"color": "#AAAAAA", "width": 1, "dash": "dash"}, **place)
    figure.update_yaxes(categoryorder="array", categoryarray=names, range=[-0.6, len(names) - 0.4])
    low, high = max(SHOWN[0], shown.low.min() * 0.93), min(SHOWN[1], max(shown.high.max(), 1) * 1.07)
    ticks = TICKS if high / low < 4 else FEW_TICKS
    figure.update_xaxes(type="log", tickvals=ticks, tickangle=0, range=[math.log10(low), math.log10(high)])
    for i in range(len(conditions)):
        if i + columns >= len(conditions):  # nothing below it
            lowest: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
            figure.update_xaxes(title_text="times the reference's steps", showticklabels=True, **lowest)
    figure.update_annotations(font_size=12)
    cut = " (some leave the frame)" if shown.low.min() < low or shown.high.max() > high else ""
    caption = (
        f"Ratio of restricted mean steps to the threshold, paired over {span(shown.pairs)} seeds, log axis; 95 % "
        f"intervals{cut} of paired t tests,<br>Bonferroni-adjusted over all that is compared here: one "
        "excludes 1 exactly where p < 0.05."
    )
    height = rows * max(130, 21 * len(names) + 40) + 190
    left = 10 + 7 * max(len(name) for name in names)
    return themed(figure, title, caption, runs, height=height, left=left)


def _ratio_dots(rows: pd.DataFrame) -> list[go.Scatter]:
    clear, alike = rows.p_adjusted < 0.05, rows.p_equivalent < 0.05
    within = f"the same within {rows.margin.max() - 1:.0%}"
    groups = {"p < 0.05": (clear, BLUE), within: (alike & ~clear, GREEN), "not told apart": (~clear & ~alike, GREY)}
    traces = []
    for name, (chosen, colour) in groups.items():
        part = rows[chosen]
        if part.empty:
            continue
        text = [
            f"{r.variant}: {r.ratio:.2f} [{r.low:.2f}, {r.high:.2f}], p = {r.p_adjusted:.2g}, {r.pairs} pairs"
            for r in part.itertuples()
        ]
        error = whiskers(part.ratio, part.low, part.high, width=3)
        traces.append(
            go.Scatter(
                x=part.ratio,
                y=part.variant,
                error_x=error,
                mode="markers",
                marker={"color": colour, "size": 8},
                name=name,
                legendgroup=name,
                hovertext=text,
                hoverinfo="text",
            )
        )
    return traces


def survival(curves: pd.DataFrame, runs: Sequence[str] = (), title: str = "Runs below 95 %") -> go.Figure:
    """Return the share of runs that have not reached the threshold yet, against steps, with pointwise 95 % bands.

    ``curves`` has columns variant, step, survival, low, high, at_risk (see :func:`analysis.survival_curves`).
    """
    figure = go.Figure()
    palette = colours(curves.variant.unique())
    for variant, rows in curves.groupby("variant", sort=False):
        name, colour = str(variant), palette[str(variant)]
        steps: dict[str, Any] = {"x": rows.step, "legendgroup": name, "line_shape": "hv", "mode": "lines"}
        figure.add_trace(go.Scatter(y=rows.low, line={"width": 0}, showlegend=False, hoverinfo="skip", **steps))
        fill = {"fill": "tonexty", "fillcolor": faded(colour, 0.12), "line": {"width": 0}}
        figure.add_trace(go.Scatter(y=rows.high, showlegend=False, hoverinfo="skip", **fill, **steps))
        line = {"color": colour, "dash": dash(name), "width": 2.2}
        figure.add_trace(go.Scatter(y=rows.survival, name=name, line=line, **steps))
    figure.update_xaxes(title_text="step (updates)", rangemode="tozero")
    figure.update_yaxes(title_text="share of runs still below", range=[0, 1.03])
    counts = curves.groupby("variant", sort=False)["at_risk"].max()
    caption = f"Kaplan-Meier, {span(counts)} runs a variant; bands are pointwise 95 % intervals (log-log)."
    return themed(figure, title, caption, runs)


def gradient_share_curves(shares: pd.DataFrame, title: str = "Gradient that came through the stream") -> go.Figure:
    """Return the stream's share of a weight's gradient over training, a curve a variant with its band over seeds.

    ``shares`` has columns variant, seed, run, step, and those of :func:`analysis.over_seeds`: |stream| / (|direct| +
    |stream|).
    """
    figure = go.Figure()
    palette = colours(shares.variant.unique())
    for variant, rows in shares.groupby("variant", sort=False):
        curve = curve_of(rows)
        figure.add_traces(band(curve, str(variant), palette[str(variant)], dash(str(variant))))
    figure.update_xaxes(title_text="step (updates)", rangemode="tozero")
    figure.update_yaxes(title_text="|stream| / (|direct| + |stream|)", rangemode="tozero")
    caption = seeds_caption(shares) + " Norms of the two shares of the gradient of layer 0's W_V; they add up to it."
    return themed(figure, title, caption, shares.run)


CHANGE_WORDS = {"opened": "stream opened", "closed": "stream closed", "gradient cut": "gradient through the stream cut"}
WHENS = {"before": VERMILION, "within": ORANGE, "after": GREEN}


def windows(
    metrics: pd.DataFrame, split: str = "ic", title: str = "The stream opened and closed while training"
) -> go.Figure:
    """Return accuracy of runs whose stream changes at a step: a panel a change, a curve a step, and two references.

    ``metrics`` has columns variant, seed, run, step, split, measure, value, and of what changes: change (a key of
    ``CHANGE_WORDS``), when (before, within or after the transition) and at (the step); none of the references.
    """
    chosen = metrics[(metrics.split == split) & (metrics.measure == "accuracy")]
    changes = [c for c in CHANGE_WORDS if (chosen.change == c).any()]
    if not changes:
        raise ValueError(f"no run here has its stream changed ({', '.join(CHANGE_WORDS)}); train 'windows' first")
    titles = [CHANGE_WORDS[c] for c in changes]
    figure = make_subplots(1, len(changes), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.035)
    changed = chosen.change.notna()
    chosen = chosen[chosen.step <= 1.25 * chosen.step[changed].max()]  # the references may have gone on much further
    made: Any = chosen[chosen.change.notna()].drop_duplicates("variant")
    curves = {str(v): curve_of(rows) for v, rows in chosen.groupby("variant", sort=False)}
    for column, change in enumerate(changes, start=1):
        first = {"showlegend": column == 1}
        for name, colour, style in (("classic", BLACK, "solid"), ("value", BLUE, "solid")):
            for trace in band(curves[name], name, colour, style, **first):
                figure.add_trace(trace, row=1, col=column)
        for row in made[made.change == change].itertuples():
            name, colour = f"changed {row.when} the transition", WHENS[row.when]
            for trace in band(curves[row.variant], name, colour, "dash", **first):
                figure.add_trace(trace, row=1, col=column)
            figure.add_vline(x=int(row.at), line={"color": colour, "width": 1, "dash": "dot"}, row=1, col=column)  # type: ignore[arg-type] # plotly takes numbers
    figure.update_xaxes(title_text="step (updates)")
    figure.update_yaxes(title_text=f"accuracy ({SPLIT_WORDS[split]})", range=[0, 1.03], col=1)
    caption = seeds_caption(chosen) + " Dotted lines: the step of the change."
    return themed(figure, title, caption, chosen.run, height=470)


def sensitivity(table: pd.DataFrame, runs: Sequence[str] = ()) -> go.Figure:
    """Return the ratio of times at several thresholds and rules of crossing: a row an experiment, a panel a comparison.

    ``table`` has columns experiment, variant, reference, threshold, rule, ratio, low, high.
    """
    shown = table[table.ratio.notna()]
    shown = shown.assign(compared=shown.variant + " / " + shown.reference)
    by_row = {name: list(dict.fromkeys(part.compared)) for name, part in shown.groupby("experiment", sort=False)}
    columns = max(len(compared) for compared in by_row.values())
    titles = [name for compared in by_row.values() for name in [*compared, *[""] * (columns - len(compared))]]
    specs = [[{} if i < len(compared) else None for i in range(columns)] for compared in by_row.values()]
    figure = make_subplots(
        len(by_row),
        columns,
        specs=specs,
        subplot_titles=[t for t in titles if t],
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.16,
    )
    thresholds = [f"{threshold:.0%}" for threshold in sorted(shown.threshold.unique())]
    for row, (name, compared) in enumerate(by_row.items(), start=1):
        for column, what in enumerate(compared, start=1):
            rows = shown[(shown.experiment == name) & (shown.compared == what)].sort_values("threshold")
            for shift, (rule, colour) in enumerate({"interpolated": BLUE, "sustained": PINK}.items()):
                part = rows[rows.rule == rule]
                trace = _at_thresholds(part, rule, colour, thresholds, 0.2 * (shift - 0.5))
                figure.add_trace(trace.update(showlegend=row == column == 1), row=row, col=column)
            figure.add_hline(y=1.0, line={"color": "#AAAAAA", "width": 1, "dash": "dash"}, row=row, col=column)  # type: ignore[arg-type] # plotly takes numbers
        figure.update_yaxes(
            title={"text": f"{name}:<br>times the reference's steps", "font": {"size": 13}}, row=row, col=1
        )
    ends = [-0.5, len(thresholds) - 0.5]
    figure.update_xaxes(
        tickvals=list(range(len(thresholds))), ticktext=thresholds, tickangle=0, tickfont_size=10, range=ends
    )
    figure.update_annotations(font_size=12)
    caption = (
        "Steps to an accuracy on novel classes: interpolated between evaluations, or the first after which every "
        "evaluation is above.<br>95 % intervals, paired over seeds, adjusted over an experiment's comparisons at one "
        "threshold."
    )
    return themed(figure, "Does it depend on the threshold?", caption, runs, height=290 * len(by_row) + 130)


def _at_thresholds(rows: pd.DataFrame, rule: str, colour: str, thresholds: list[str], aside: float) -> go.Scatter:
    x = [thresholds.index(f"{threshold:.0%}") + aside for threshold in rows.threshold]
    error = whiskers(rows.ratio, rows.low, rows.high, width=2)
    dots = {"mode": "lines+markers", "marker": {"color": colour, "size": 6}, "line": {"color": colour, "width": 1}}
    return go.Scatter(x=x, y=rows.ratio, error_y=error, name=rule, legendgroup=rule, **dots)
