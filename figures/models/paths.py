"""Path effects: senders by receivers, a panel a port and route; and heads' effects split by route."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import BLACK, ROUTES, TEAL
from figures.curves import whiskers
from figures.findings import DIRECTIONS, LEAST, joined, largest, number, over, shows, spelt, whom
from figures.models.cells import crosses, fitted, printed, with_ends
from figures.models.several_runs import alike, once
from figures.theme import DIVERGING, themed
from figures.words import fitting, in_order

_BY = {"residual": "by the residual stream", "stream": "by the stream"}
_SHARES = {
    "total": ("in all", "white", BLACK),
    "own": ("by its own layer", ROUTES["own"], ROUTES["own"]),
    "stream": ("by the stream", ROUTES["stream"], ROUTES["stream"]),
    "interaction": ("only by both together", TEAL, TEAL),
}
"""The words, the fill and the edge of every share."""


def path_heat_maps(frame: pd.DataFrame) -> go.Figure:
    """Return the effect of every path: senders down, receivers across, a panel for each port (q, k, v) and route.

    ``frame`` is :meth:`analysis.edges.direct_paths.PathResult.to_frame`.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example, or
            what is drawn is of several metrics or directions.
    """
    frame = frame.assign(
        panel=[f"into {into},<br>{_BY.get(way, way)}" for into, way in zip(frame.into, frame.route, strict=True)]
    )
    once(frame, "path", "panel", "sender", "receiver")
    panels = list(dict.fromkeys(frame.panel))
    widths = [max(1, frame[frame.panel == p].receiver.nunique()) for p in panels]
    figure = make_subplots(1, len(panels), subplot_titles=panels, column_widths=widths, horizontal_spacing=0.025)
    limit = max(1e-9, float(frame.effect.abs().max()))
    senders = in_order(frame.sender.map(_head).unique())[::-1]
    for column, panel in enumerate(panels, 1):
        heat, absent = _paths(frame[frame.panel == panel], senders, limit, column == len(panels))
        figure.add_traces([heat, absent], rows=[1, 1], cols=[column, column])
        across, up = fitted(len(heat.x), len(senders))  # type: ignore[attr-defined] # a heat map has them
        figure.update_xaxes(range=across, row=1, col=column)
        figure.update_yaxes(range=up, showticklabels=column == 1, row=1, col=column)
    figure.update_xaxes(title_text="receiver", type="category", showgrid=False)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=senders, showgrid=False)
    figure.update_yaxes(title_text="sender", col=1)
    figure.update_annotations(font_size=13)
    direction = alike(frame, "direction")["direction"]
    caption = (
        "The receiver alone sees the sender as in the other run: by the residual stream what the sender writes, by "
        f"the stream what it projects ({direction}: {DIRECTIONS[direction]}). A cross: "
        "there is no such path."
    )
    size: dict[str, Any] = {"height": 220 + 34 * len(senders), "below": 60, "left": 84, "above": 18}
    runs = frame.run if "run" in frame else ()
    return themed(figure, _largest(frame), caption, runs, of=_of(frame), **size)


def _paths(rows: pd.DataFrame, senders: list[str], limit: float, scale: bool) -> tuple[go.Heatmap, go.Scatter]:
    named = rows.assign(head=rows.sender.map(_head), to=rows.receiver.map(_head))
    receivers = in_order(named.to.unique())
    grids = {
        name: named.pivot(index="head", columns="to", values=name).reindex(index=senders, columns=receivers)
        for name in ("effect", "low", "high")
        if name in named
    }
    grid = grids["effect"].to_numpy(float)
    beside, ends = (None, "") if len(grids) < 3 else with_ends(*(part.to_numpy(float) for part in grids.values()))
    heat = go.Heatmap(
        z=grid,
        x=receivers,
        y=senders,
        zmin=-limit,
        zmax=limit,
        colorscale=DIVERGING,
        text=printed(grid),
        texttemplate="%{text}" if grid.size <= 150 else None,
        customdata=beside,
        hovertemplate=f"%{{y}} to %{{x}}: %{{z:.3f}}{ends}, {over(rows, 'pair')}<extra>{rows.panel.iloc[0]}</extra>",
        hoverongaps=False,
        colorbar={"title": "effect", "thickness": 12, "nticks": 3},
        showscale=scale and len(senders) > 3,
        xgap=1,
        ygap=1,
    )
    return heat, crosses(grid, receivers, senders, "there is no such path")


def _head(name: str) -> str:
    return name.split(".")[0]


def _largest(frame: pd.DataFrame) -> str:
    """The largest path, and where that is no stream's, the largest by the stream beside it."""
    top = largest(frame)
    if not shows(top.effect):
        return f"No direct path has an effect of {LEAST} or more"
    streams = frame[frame.route == "stream"]

    def said(row: pd.Series, ends: bool) -> str:
        found = number(row.to_dict()) if ends else f"{row.effect:.2f}"
        return f"{_head(row.sender)} to {row.receiver} {_BY.get(row.route, row.route)}, {found}"

    if streams.empty or top.route == "stream":
        return f"The largest direct path is {said(top, True)}"
    best = largest(streams)
    return fitting(
        *(f"The largest direct paths are {said(top, ends)}, and {said(best, ends)}" for ends in (True, False))
    )


def _of(frame: pd.DataFrame) -> str:
    share = f"shares of the {spelt(alike(frame, 'metric')['metric'])} between clean and corrupt"
    return joined(whom(frame), over(frame, "pair"), share)


def share_bars(frame: pd.DataFrame) -> go.Figure:
    """Return every head's effect split into own layer's share, stream's share and interaction, with intervals.

    ``frame`` is :func:`analysis.edges.head_shares.head_shares`'s.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example, or
            what is drawn is of several metrics or directions.
    """
    figure = go.Figure()
    frame = frame.assign(name="L" + frame.layer.astype(str) + "H" + frame["head"].astype(str) + "." + frame.carrier)
    once(frame, "share", "name", "share")
    for share, (words, fill, edge) in _SHARES.items():
        rows = frame[frame["share"] == share]
        error = whiskers(rows.effect, rows.low, rows.high, symmetric=False, thickness=1.2, width=3, color="#555555")
        text = [
            f"{row['name']}, {words}: {number(row, form='.3f')}, {row['n']} pairs" for row in rows.to_dict("records")
        ]
        marker = {"color": fill, "line": {"color": edge, "width": 1.5}}
        bar = go.Bar(
            x=rows.name, y=rows.effect, name=words, marker=marker, error_y=error, hovertext=text, hoverinfo="text"
        )
        figure.add_trace(bar)
    asked = alike(frame, "metric", "direction")
    direction = asked["direction"]
    caption = (
        f"A head's projection patched at all positions ({direction}: {DIRECTIONS[direction]}), whiskers: 95 % "
        "bootstrap intervals. By its own layer + by the stream + only by both together = in all."
    )
    figure.update_yaxes(title_text=f"effect on the {spelt(asked['metric'])}")
    size: dict[str, Any] = {"height": 420, "below": 34}
    return themed(figure, _split(frame), caption, frame.run if "run" in frame else (), of=_of(frame), **size)


def _split(frame: pd.DataFrame) -> str:
    """What of the head with the largest effect by the stream goes that way; else the largest effect."""
    by = frame[frame["share"] == "stream"]
    totals = frame[frame["share"] == "total"].set_index("name")
    top = largest(by) if len(by) else None
    if top is None or abs(top.effect) < 0.005:
        first = largest(frame)
        if not shows(first.effect):
            return f"No head's projection has an effect of {LEAST} or more"
        most = f"{first['name']}, {number(first.to_dict())}"
        return f"No head has an effect by the stream; the largest effect is that of {most}"
    whole = number(totals.loc[top["name"]].to_dict())
    return f"{top['name']} has an effect of {whole} in all, and of {number(top.to_dict())} by the stream"
