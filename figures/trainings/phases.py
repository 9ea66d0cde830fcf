"""Figures of the mechanism: what breaks and what restores, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import EARLIER_TO_LATER, GREY, ROUTES, TEAL
from circuits.common.text_table import rows_of
from figures.curves import FEW, whiskers
from figures.theme import faded, themed
from figures.words import counted, fitting

_COLOURS = ROUTES | {"every route": TEAL, "head": EARLIER_TO_LATER[1]}
PHASES = ("before", "within", "after", "end")
"""Of the transition, and the end of training."""
_MEASURES = {"accuracy": "accuracy on novel classes", "restored": "share of the logit<br>difference restored"}


def phases(frame: pd.DataFrame, runs: Sequence[str], of: str = "", words: Mapping[str, str] | None = None) -> go.Figure:
    """Return accuracy under ablations (above) and effects of patching (below) over the phases of training.

    ``frame`` has columns preset, variant, run, phase, measure (accuracy or restored), what (is broken or put back, as
    one says it), route (residual, stream, every route, or head: its colour), value, mean, low, high and n (over runs).
    A column is a preset and a variant; ``words`` are the presets' names, ``of`` is of what task.
    """
    columns = list(dict.fromkeys(zip(frame.preset, frame.variant, strict=True)))
    told = {preset: (words or {}).get(preset, str(preset)) for preset in frame.preset.unique()}
    measures = [m for m in _MEASURES if (frame.measure == m).any()]
    titles = [f"{told[preset]}: {variant}" for _ in measures for preset, variant in columns]
    figure = make_subplots(
        len(measures),
        len(columns),
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.025,
        vertical_spacing=0.17,
    )
    named: set[str] = set()
    for i, measure in enumerate(measures):
        for j, (preset, variant) in enumerate(columns):
            chosen = frame[(frame.measure == measure) & (frame.preset == preset) & (frame.variant == variant)]
            for what, rows in chosen.groupby("what", sort=False):
                traces = _lines(rows, str(what), f"{told[preset]}, {variant}")
                traces[-1].showlegend = str(what) not in named
                named.add(str(what))
                figure.add_traces(traces, rows=[i + 1] * len(traces), cols=[j + 1] * len(traces))
        figure.update_yaxes(title_text=_MEASURES[measure], row=i + 1, col=1)
        if measure == "restored":
            figure.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "longdash"}, row=i + 1, col="all")  # type: ignore[arg-type] # plotly takes numbers
        seen = [p for p in PHASES if (frame[frame.measure == measure].phase == p).any()]
        figure.update_xaxes(categoryarray=seen, range=[-0.2, len(seen) - 0.8], row=i + 1)
    figure.update_xaxes(categoryorder="array")
    figure.update_xaxes(title_text="phase: of the transition, and the end", title_font_size=11, row=len(measures))
    if "accuracy" in measures:
        figure.update_yaxes(range=[-0.03, 1.03], row=1)
    if "restored" in measures:
        ends = frame.loc[frame.measure == "restored", "value"]
        margin = 0.12 * (max(ends.max(), 1) - min(ends.min(), 0))
        figure.update_yaxes(range=[min(ends.min(), 0) - margin, max(ends.max(), 1) + margin], row=len(measures))
    figure.update_annotations(font_size=13)
    caption = (
        "Thick: means over runs, with 95 % t intervals of three runs or more; thin: each run. Above: whole, or with a "
        "part replaced by its mean, or cut. Below: what comes back with one thing put back before layer 1 at the right "
        "labels; 1 is all of it. Before the transition there is next to no difference to restore."
    )
    n = frame.groupby(["preset", "variant"], sort=False)["run"].nunique()
    by_preset = [f"{counted(int(n[p].max()), 'run')} a variant ({words})" for p, words in told.items()]
    whose = "; ".join([*([of] if of else []), *by_preset])
    return themed(figure, _finding(frame, told), caption, runs, height=200 + 290 * len(measures), of=whose)


def _lines(rows: pd.DataFrame, what: str, whose: str) -> list[go.Scatter]:
    """A thin line a run, and the mean with its intervals."""
    colour, traces = _COLOURS[str(rows.route.iloc[0])], []
    order = rows.assign(at=rows.phase.map({phase: i for i, phase in enumerate(PHASES)})).sort_values(
        "at", kind="stable"
    )
    if 1 < order.run.nunique() <= FEW:
        for run, own in order.groupby("run", sort=False):
            hover = "%{x}: %{y:.2f}<extra>" + f"{what}; {whose}; {run}</extra>"
            thin = {"color": faded(colour, 0.4), "width": 0.8}
            each = go.Scatter(x=own.phase, y=own["value"], mode="lines", line=thin, hovertemplate=hover)
            traces.append(each.update(showlegend=False, legendgroup=what, name=what))
    mean = order.drop_duplicates("phase")
    many = mean.where(mean.n > 2)
    ends = [
        f"{x:.2f}" + (f" [{low:.2f}, {high:.2f}]" if n > 2 else "") + f", {'mean of ' * (n > 1)}{n} run{'s' * (n > 1)}"
        for x, low, high, n in zip(mean["mean"], mean.low, mean.high, mean.n, strict=True)
    ]
    line = go.Scatter(
        x=mean.phase,
        y=mean["mean"],
        error_y=whiskers(many["mean"], many.low, many.high, width=3, thickness=1.2),
        mode="lines+markers",
        line={"color": colour, "width": 2.4},
        marker={"size": 6},
        name=what,
        legendgroup=what,
        hovertext=[f"{phase}: {end}" for phase, end in zip(mean.phase, ends, strict=True)],
        hovertemplate="%{hovertext}<extra>" + f"{what}; {whose}</extra>",
    )
    return [*traces, line]


def _finding(frame: pd.DataFrame, told: Mapping[str, str]) -> str:
    """What the stream alone restores; where there is none, what accuracy falls most without."""
    means = frame.drop_duplicates(["preset", "variant", "phase", "what"])
    alone = means[(means.measure == "restored") & (means.route == "stream")]
    for variant, rows in alone.groupby("variant", sort=False):
        by = {(row.preset, row.phase): row.mean_ for row in rows_of(rows.rename(columns={"mean": "mean_"}))}
        when = {"after": "after the transition", "end": "at the end"}
        each = {p: {words: by[p, phase] for phase, words in when.items() if (p, phase) in by} for p in told}
        # A preset may not have the variant, or not these phases of it.
        each = {p: found for p, found in each.items() if found}
        if not each:
            continue
        said = {p: ", ".join(f"{x:.2f} {words}" for words, x in found.items()) for p, found in each.items()}
        first = next(iter(each))
        alike = [p for p in list(each)[1:] if list(each[p]) == list(each[first])]
        short = said | {p: ", ".join(f"{x:.2f}" for x in each[p].values()) for p in alike}
        whose = f"{variant}'s stream alone restores"
        ways = ("; ".join(f"{x} ({told[p]})" for p, x in way.items()) for way in (said, short, {first: said[first]}))
        return fitting(*(f"{whose} {way}" for way in ways))
    broken = means[(means.measure == "accuracy") & (means.phase == "end") & (means.route != "every route")]
    if broken.empty:
        return "What is whole, by phase"
    least = broken.sort_values("mean", kind="stable").iloc[0]
    return f"Accuracy at the end falls most with this: {least['what']}, to {least['mean']:.2f} ({least['variant']})"
