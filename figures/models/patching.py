"""Patch heat maps: effect by position and by layer, component and route."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.findings import DIRECTIONS, joined, over, spelt, whom
from figures.models.cells import crosses, fitted, printed, with_ends
from figures.models.patch_findings import finding
from figures.models.several_runs import alike, by_run, once
from figures.theme import DIVERGING, themed

SITES = (
    "'resid_pre' is the residual stream before a layer, 'resid + stream' both routes there; 'own' are a layer's own "
    "projections, 'residual' is what comes in through the stream, 'mixed' what attention uses, 'outgoing' what a layer "
    "passes on."
)
"""What sites are called, in words."""
NO_SITE = "the model has no such site"
_LINE = {"color": "#444444", "width": 1.5}
_LEAST = 0.05
"""Smaller effects are not printed."""
_COMPONENT_WORDS = {"state": "resid + stream"}


def patch_heat_map(frame: pd.DataFrame) -> go.Figure:
    """Return the effect of every patched site: a panel a variant, or a run where several are of
    one, positions down, layer / component / route across.

    ``frame`` is :meth:`analysis.patching.patch.PatchResult.to_frame`, with columns variant and run where several runs
    are drawn side by side. Effects of individual heads are told apart across too.

    Raises:
        ValueError: if several of what is drawn have one place, at several steps for example, or what is drawn is of
            several metrics, directions or methods.
    """
    frame = frame.assign(column=[_column(row) for row in frame.to_dict("records")])
    frame = by_run(frame) if "variant" in frame else frame.assign(variant="")
    once(frame, "effect", "variant", "position", "column")
    variants = list(dict.fromkeys(frame.variant))
    widths = [frame[frame.variant == v].column.nunique() for v in variants]
    figure = make_subplots(
        1, len(variants), subplot_titles=variants, shared_yaxes=True, column_widths=widths, horizontal_spacing=0.03
    )
    positions = list(dict.fromkeys(frame.position))[::-1]
    for i, variant in enumerate(variants):
        part = frame[frame.variant == variant]
        columns = list(dict.fromkeys(part.sort_values("layer", kind="stable").column))
        heat, absent = _panel(part, columns, positions, i == len(variants) - 1)
        figure.add_traces([heat, absent], rows=[1, 1], cols=[i + 1, i + 1])
        across, up = fitted(len(columns), len(positions))
        figure.update_xaxes(range=across, row=1, col=i + 1)
        figure.update_yaxes(range=up, row=1, col=i + 1)
        for x, (left, right) in enumerate(pairwise(columns)):
            if left.split(" ")[0] != right.split(" ")[0]:
                figure.add_vline(x=x + 0.5, line=_LINE, row=1, col=i + 1)  # type: ignore[arg-type] # numbers
    figure.update_xaxes(tickangle=-45, showgrid=False)
    figure.update_yaxes(showgrid=False)
    figure.update_yaxes(title_text="position", col=1)
    figure.update_annotations(font_size=14)
    asked = alike(frame, "metric", "direction", "method")
    direction, estimated = asked["direction"], f"estimated ({asked['method']})" if "method" in asked else ""
    caption = (
        f"{DIRECTIONS[direction].capitalize()} ({direction}): 1 is the whole difference, 0 nothing; "
        f"effects below {_LEAST} are not printed, intervals and p stand on hover. {SITES}"
    )
    if estimated:
        caption = f"Estimates, by gradients, of: {caption[0].lower()}{caption[1:]}"
    share = f"share of the {spelt(asked['metric'])} between clean and corrupt"
    of = joined(whom(frame), estimated, over(frame, "pair"), share)
    longest = 14 + round(5.2 * max(len(column) for column in frame.column))
    left = 34 + round(7.2 * max(len(str(position)) for position in positions))
    size: dict[str, Any] = {"height": 240 + 38 * len(positions), "below": longest, "left": left}
    return themed(figure, finding(frame), caption, frame.run if "run" in frame else (), of=of, **size)


def _panel(part: pd.DataFrame, columns: list[str], positions: list[Any], scale: bool) -> tuple[go.Heatmap, go.Scatter]:
    """The effects of one variant, and crosses where it has no site."""
    effect, low, high, p = (
        part.pivot(index="position", columns="column", values=name)
        .reindex(index=positions, columns=columns)
        .to_numpy(float)
        for name in ("effect", "low", "high", "p")
    )
    beside, ends = with_ends(effect, low, high, p)
    heat = go.Heatmap(
        z=effect,
        x=columns,
        y=positions,
        zmin=-1,
        zmax=1,
        colorscale=DIVERGING,
        text=printed(effect, _LEAST),
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=beside,
        hovertemplate=f"%{{x}}<br>%{{y}}<br>effect %{{z:.3f}}{ends}, {over(part, 'pair')}"
        f"<extra>{joined(whom(part))}</extra>",
        hoverongaps=False,
        colorbar={"title": "effect", "thickness": 12, "nticks": 3},
        showscale=scale,
        xgap=1,
        ygap=1,
    )
    return heat, crosses(effect, columns, positions, NO_SITE)


def _column(row: dict) -> str:
    head = "" if row["head"] == "all" else f" h{row['head']}"
    components, routes = row["component"].split(" + "), row["route"].split(" + ")
    routes = routes if len(routes) == len(components) else routes * len(components)
    named = [f"{_COMPONENT_WORDS.get(name, name)}{head}" for name in components]
    parts = [name if route == "-" else f"{name} {route}" for name, route in zip(named, routes, strict=True)]
    # Sites of several layers that are patched together say their layers themselves.
    layer = "" if row["component"].startswith("L") else f"L{row['layer']} "
    return layer + " + ".join(parts)
