"""Path effects: senders by receivers, a panel a port and route; and heads' effects split by route."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.curves import whiskers
from figures.theme import BLACK, BLUE, DIVERGING, SKY, VERMILION, themed

_SHARES = {"total": BLACK, "own": BLUE, "stream": VERMILION, "interaction": SKY}


def path_heat_maps(frame: pd.DataFrame) -> go.Figure:
    """Return the effect of every path: senders down, receivers across, a panel for each port (q, k, v) and route.

    ``frame`` is :meth:`analysis.edges.direct_paths.PathResult.to_frame`.
    """
    frame = frame.assign(panel=frame.into.astype(str) + ", " + frame.route)
    panels = list(dict.fromkeys(frame.panel))
    widths = [max(1, frame[frame.panel == p].receiver.nunique()) for p in panels]
    figure = make_subplots(1, len(panels), subplot_titles=panels, column_widths=widths, horizontal_spacing=0.04)
    limit = max(1e-9, float(frame.effect.abs().max()))
    senders = sorted(frame.sender.map(_head).unique(), reverse=True)
    for column, panel in enumerate(panels, 1):
        rows = frame[frame.panel == panel].assign(head=frame.sender.map(_head), to=frame.receiver.map(_head))
        grid = rows.pivot(index="head", columns="to", values="effect").reindex(index=senders)
        heat = go.Heatmap(
            z=grid.to_numpy(),
            x=list(grid.columns),
            y=senders,
            zmin=-limit,
            zmax=limit,
            colorscale=DIVERGING,
            text=[["" if pd.isna(v) else f"{v:.2f}" for v in row] for row in grid.to_numpy()],
            texttemplate="%{text}" if grid.size <= 150 else None,
            hovertemplate="%{y} to %{x}: %{z:.3f}<extra>" + panel + "</extra>",
            colorbar={"title": "effect", "thickness": 12},
            showscale=column == len(panels),
            xgap=1,
            ygap=1,
        )
        figure.add_trace(heat, row=1, col=column)
        figure.update_yaxes(showticklabels=column == 1, row=1, col=column)
    first = frame.iloc[0]
    caption = (
        f"The receiver alone sees the sender as in the other run ({first.direction}); effect on {first.metric} as a "
        f"share of the clean-corrupt difference, {first.n} pairs.<br>'residual': what the sender writes; 'stream': "
        "what it projects, brought by the stream."
    )
    height = 300 + 34 * len(senders)
    return themed(figure, "Direct paths", caption, frame.run if "run" in frame else (), height=height, below=60)


def _head(name: str) -> str:
    return name.split(".")[0]


def share_bars(frame: pd.DataFrame) -> go.Figure:
    """Return every head's effect split into own layer's share, stream's share and interaction, with intervals.

    ``frame`` is :func:`analysis.edges.head_shares.head_shares`'s.
    """
    figure = go.Figure()
    for share, colour in _SHARES.items():
        rows = frame[frame["share"] == share]
        names = "L" + rows.layer.astype(str) + "H" + rows["head"] + "." + rows.carrier
        error = whiskers(rows.effect, rows.low, rows.high, symmetric=False, thickness=1, width=2)
        figure.add_trace(go.Bar(x=names, y=rows.effect, name=share, marker_color=colour, error_y=error))
    first = frame.iloc[0]
    caption = (
        f"Projections patched at all positions ({first.direction}); effect on {first.metric} as a share of the<br>"
        f"clean-corrupt difference, {first.n} pairs, with 95 % bootstrap intervals. own + stream + interaction = total."
    )
    figure.update_yaxes(title_text="effect")
    return themed(figure, "By its own layer, by the stream", caption, frame.run if "run" in frame else (), below=50)
