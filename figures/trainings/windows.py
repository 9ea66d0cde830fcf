"""Figure of a stream that is opened or closed while a model trains."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import BLACK, BLUE, EARLIER_TO_LATER, GREY
from circuits.common.text_table import rows_of
from figures.curves import crossing, curve_of, drawn, few, seeds_caption
from figures.theme import themed
from figures.trainings.learning import SPLIT_WORDS, whose
from figures.trainings.verdicts import SAME, words_of
from figures.words import fitting

CHANGE_WORDS = {"opened": "stream opened", "closed": "stream closed", "gradient cut": "gradient through the stream cut"}
WHENS = dict(zip(("before", "within", "after"), EARLIER_TO_LATER, strict=False))
_REFERENCES = {"classic": BLACK, "value": BLUE}


def windows(
    metrics: pd.DataFrame,
    split: str = "ic",
    threshold: float = 0.95,
    of: str = "",
    ratios: pd.DataFrame | None = None,
) -> go.Figure:
    """Return accuracy of runs whose stream changes at a step: a panel a change, a curve a step, and two references.

    ``metrics`` has columns variant, seed, run, step, split, measure, value, those of :func:`analysis.over_seeds`, and
    of what changes: change (a key of ``CHANGE_WORDS``), when (before, within or after the transition) and at (the
    step); none of the references, classic and value. ``of`` says of what size and task. The title says when the curves
    come to the threshold, or what ``ratios`` (as for :func:`figures.time_ratios`) to value say of it.

    Raises:
        ValueError: if no stream changes, or a reference is missing.
    """
    chosen = metrics[(metrics.split == split) & (metrics.measure == "accuracy")]
    changes = [c for c in CHANGE_WORDS if (chosen.change == c).any()]
    if not changes:
        raise ValueError(f"no run here has its stream changed ({', '.join(CHANGE_WORDS)}); train 'windows' first")
    lacking = [name for name in _REFERENCES if not (chosen.variant == name).any()]
    if lacking:
        raise ValueError(f"windows are compared with classic and value, and there is no {' and no '.join(lacking)}")
    titles = [CHANGE_WORDS[c] for c in changes]
    figure = make_subplots(1, len(changes), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.035)
    # The title says when a reference gets there, which may be beyond what is drawn of it.
    curves = {str(v): curve_of(rows) for v, rows in chosen.groupby("variant", sort=False)}
    changed = chosen.change.notna()
    chosen = chosen[chosen.step <= 1.25 * chosen.step[changed].max()]  # the references may have gone on much further
    made: Any = chosen[chosen.change.notna()].drop_duplicates("variant").sort_values("at", kind="stable")
    rows_of = {str(v): rows for v, rows in chosen.groupby("variant", sort=False)}
    named: set[str] = set()

    def add(variant: str, colour: str, name: str, column: int, width: float) -> None:
        traces = drawn(rows_of[variant], colour, few(chosen), "solid", name, name not in named)
        traces[-1].update(line_width=width)
        named.add(name)
        figure.add_traces(traces, rows=[1] * len(traces), cols=[column] * len(traces))

    for column, change in enumerate(changes, start=1):
        for row in made[made.change == change].itertuples():
            add(row.variant, WHENS[row.when], f"changed {row.when} the transition", column, 4.5)
            line = {"color": WHENS[row.when], "width": 1.5, "dash": "longdashdot"}
            figure.add_vline(x=int(row.at), line=line, row=1, col=column)  # type: ignore[arg-type] # plotly takes numbers
        # Thinner and on top: up to its change a run goes as one of them does.
        for name, colour in _REFERENCES.items():
            add(name, colour, name, column, 1.8)
    figure.add_hline(y=threshold, line={"color": GREY, "width": 1, "dash": "longdash"})
    figure.update_xaxes(title_text="step (updates)", rangemode="tozero")
    figure.update_yaxes(title_text=f"accuracy ({SPLIT_WORDS.get(split, split)})", col=1)
    figure.update_yaxes(range=[0, 1.03])
    figure.update_annotations(font_size=13)
    caption = (
        f"{seeds_caption(chosen, few(chosen))} Upright lines: the step of the change, in the colour of its curve. "
        "Up to its change a run goes as classic does (opened) or value."
    )
    title = _by_ratio(made, ratios) if ratios is not None else _by_step(made, curves, threshold)
    return themed(figure, title, caption, chosen.run, height=470, of=whose(chosen, of, threshold, split))


def _by_ratio(made: pd.DataFrame, ratios: pd.DataFrame) -> str:
    """Every change's ratios to value, in the order of their steps; 1 is of runs that went as value's do."""
    of_value: dict[str, Any] = {row.variant: row for row in rows_of(ratios[ratios.reference == "value"])}
    there = made[made.variant.isin(list(of_value))]
    said, steps = [], []
    for change, rows in there.groupby("change", sort=False):
        found = [of_value[str(variant)] for variant in rows.variant]
        steps.append(", ".join(f"{step:,.0f}" for step in rows["at"]))
        same = [row for row in found if words_of(row).startswith(SAME.words)]
        numbers = ", ".join("1" if row.ratio != row.ratio else f"{row.ratio:.2f}" for row in found)
        words = next((words_of(row) for row in same if row.ratio == row.ratio), "the same runs")
        said.append((str(change), words if len(same) == len(found) else numbers))
    each = [f"{change} at {at}: {words}" for (change, words), at in zip(said, steps, strict=True)]
    short = [each[0], *(f"{change}: {words}" for change, words in said[1:])] if said else []
    ways = [each, short] if len(set(steps)) == 1 else [each]
    return fitting(*(f"Times value's steps: {'; '.join(way)}" for way in ways))


def _by_step(made: pd.DataFrame, curves: dict[str, pd.DataFrame], threshold: float) -> str:
    """The step at which the mean curves of every change come to the threshold; none where they do not, so far."""

    def when(variant: str) -> str:
        at = crossing(curves[variant], threshold)
        return str(at).split(" [")[0] if at.reached else "none"

    said = []
    for change, rows in made.groupby("change", sort=False):
        at = ", ".join(f"{step:,.0f}" for step in rows["at"])
        said.append(f"{change} at {at}: {', '.join(when(str(v)) for v in rows.variant)}")
    base = f"value {when('value')}, classic {when('classic')}"
    return fitting(
        f"Step of {threshold:.0%}: {base}; {'; '.join(said)}",
        f"At {threshold:.0%} at step: {base}; changed: see curves",
    )
