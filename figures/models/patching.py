"""Patch heat maps: effect by position and by layer, component and route."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import DIVERGING, themed

LINE = {"color": "#444444", "width": 1.5}
_COMPONENT_WORDS = {"state": "resid + stream", "resid_pre": "resid_pre"}


def patch_heat_map(frame: pd.DataFrame) -> go.Figure:
    """Return the effect of every patched site: a panel a variant, positions down, layer / component / route across.

    ``frame`` is :meth:`analysis.patching.patch.PatchResult.to_frame`, with columns variant and run where several
    runs are
    drawn side by side. Effects of individual heads are told apart across too.
    """
    frame = frame.assign(column=[_column(row) for row in frame.to_dict("records")])
    frame = frame if "variant" in frame else frame.assign(variant="")
    variants = list(dict.fromkeys(frame.variant))
    widths = [frame[frame.variant == v].column.nunique() for v in variants]
    figure = make_subplots(1, len(variants), subplot_titles=variants, shared_yaxes=True, column_widths=widths)
    positions = list(dict.fromkeys(frame.position))[::-1]
    for i, variant in enumerate(variants):
        part = frame[frame.variant == variant]
        columns = list(dict.fromkeys(part.sort_values("layer", kind="stable").column))
        grid = part.pivot(index="position", columns="column", values="effect").reindex(index=positions, columns=columns)
        low, high, p = (
            part.pivot(index="position", columns="column", values=v).reindex(index=positions, columns=columns)
            for v in ("low", "high", "p")
        )
        heat = go.Heatmap(
            z=grid.to_numpy(),
            x=columns,
            y=positions,
            zmin=-1,
            zmax=1,
            colorscale=DIVERGING,
            text=[[f"{value:.2f}" if abs(value) >= 0.05 else "" for value in row] for row in grid.to_numpy()],
            texttemplate="%{text}",
            textfont={"size": 11},
            customdata=[
                list(zip(*cells, strict=True))
                for cells in zip(low.to_numpy(), high.to_numpy(), p.to_numpy(), strict=True)
            ],
            hovertemplate="%{x}<br>%{y}<br>effect %{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], "
            "p = %{customdata[2]:.3g}<extra></extra>",
            colorbar={"title": "effect", "thickness": 12},
            showscale=i == len(variants) - 1,
            xgap=1,
            ygap=1,
        )
        figure.add_trace(heat, row=1, col=i + 1)
        for x, (left, right) in enumerate(pairwise(columns)):
            if left.split(" ")[0] != right.split(" ")[0]:
                figure.add_vline(x=x + 0.5, line=LINE, row=1, col=i + 1)  # type: ignore[arg-type] # numbers, whatever it says
    figure.update_xaxes(tickangle=-45)
    first = frame.iloc[0]
    sign = (
        "corrupt run with clean activations" if first.direction == "denoise" else "clean run with corrupt activations"
    )
    caption = (
        f"{sign} patched in ({first.direction}); metric {first.metric}, {first.n} pairs. "
        "1 = the patch carries the whole difference, 0 = nothing.<br>'mixed' is what attention uses, 'residual' what "
        "comes in through the stream, 'outgoing' what a layer passes on. Intervals and p on hover."
    )
    runs = frame.run if "run" in frame else ()
    title = "Patching by route"
    if "method" in frame:
        title = f"Patching by route, estimated ({first['method']})"
        caption = "Estimates, by gradients, of: " + caption
    figure = themed(figure, title, caption, runs, height=260 + 42 * len(positions), below=125)
    return figure.update_layout(margin={"l": 130})


def _column(row: dict) -> str:
    head = "" if row["head"] == "all" else f" h{row['head']}"
    components, routes = row["component"].split(" + "), row["route"].split(" + ")
    routes = routes if len(routes) == len(components) else routes * len(components)
    named = [f"{_COMPONENT_WORDS.get(name, name)}{head}" for name in components]
    parts = [name if route == "-" else f"{name} {route}" for name, route in zip(named, routes, strict=True)]
    # Sites of several layers that are patched together say their layers themselves.
    layer = "" if row["component"].startswith("L") else f"L{row['layer']} "
    return layer + " + ".join(parts)
