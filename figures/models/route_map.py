"""Heat maps of where a difference is, by route: positions down, layers across, a panel a route."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from figures.models.positions import label
from figures.theme import DIVERGING, WIDTH, themed

PANELS = {
    "residual": "residual stream alone",
    "stream": "stream alone",
    "both": "both together",
    "interaction": "interaction",
}
_GAP = 0.02
_ROW, _NUMBER = 22, 30
"""Pixels of a row, and of a number across."""


def route_heat_maps(frame: pd.DataFrame) -> go.Figure:
    """Return the effect of each route at every position before every layer; a button shows one route by itself.

    ``frame`` is :meth:`analysis.patching.route_map.RouteMap.to_frame`.
    """
    frame = frame.assign(place=[label(p, t) for p, t in zip(frame.position, frame.token, strict=True)])
    places = list(dict.fromkeys(frame.place))[::-1]
    layers = [str(layer) for layer in sorted(frame.layer.unique())]
    figure = go.Figure()
    for i, route in enumerate(PANELS):
        figure.add_trace(_heat(frame[frame.route == route], places, layers, i))
    figure.update_layout(
        {_axis(i): _x_axis(i, name, layers) for i, name in enumerate(PANELS.values())},
        yaxis={"anchor": "free", "position": 0, "automargin": True, "type": "category", "showgrid": False},
        yaxis_ticklabelstandoff=4,
        updatemenus=[_buttons(len(layers))],
    )
    first = frame.iloc[0]
    runs = frame.run if "run" in frame else ()
    figure = themed(
        figure, "Which route carries the difference", _caption(first), runs, height=280 + _ROW * len(places), below=14
    )
    figure.update_layout(margin={"t": 150})
    return figure


def _heat(rows: pd.DataFrame, places: list[str], layers: list[str], i: int) -> go.Heatmap:
    rows = rows.assign(layer=rows.layer.astype(str))
    effect, low, high = (
        rows.pivot(index="place", columns="layer", values=name).reindex(index=places, columns=layers).to_numpy(float)
        for name in ("effect", "low", "high")
    )
    return go.Heatmap(
        z=effect,
        x=layers,
        y=places,
        xaxis="x" if i == 0 else f"x{i + 1}",
        zmin=-1,
        zmax=1,
        colorscale=DIVERGING,
        colorbar={"title": {"text": "effect"}, "thickness": 12},
        showscale=i == 0,
        xgap=1,
        ygap=1,
        # A number a cell, blank where it is small: the size of all of them is fitted to the distances of their places.
        text=[[f"{value:.2f}" if abs(value) >= 0.05 else " " for value in row] for row in effect],
        texttemplate=_numbers(len(layers), len(PANELS)),
        customdata=_intervals(low, high),
        hovertemplate=f"{PANELS[rows.route.iloc[0]]}<br>%{{y}}, before layer %{{x}}<br>effect %{{z:.3f}}"
        "%{customdata}<extra></extra>",
    )


def _intervals(low: np.ndarray, high: np.ndarray) -> list[list[str]]:
    return [
        ["" if np.isnan(a) else f" [{a:.3f}, {b:.3f}]" for a, b in zip(*ends, strict=True)]
        for ends in zip(low, high, strict=True)
    ]


def _numbers(n_layers: int, panels: int) -> str:
    """The template of a cell's number, none where it would not fit."""
    return "%{text}" if WIDTH / panels / n_layers >= _NUMBER else ""


def _axis(i: int) -> str:
    return f"xaxis{i + 1}" if i else "xaxis"


def _x_axis(i: int, name: str, layers: list[str]) -> dict[str, Any]:
    return {
        "domain": _domain(i),
        "anchor": "y",
        "side": "top",
        "type": "category",
        "title": {"text": f"<b>{name}</b><br>before layer", "standoff": 6, "font": {"size": 13}},
        "tickvals": layers[:: 1 + len(layers) // 13],
        "tickangle": 0,
        "showgrid": False,
    }


def _domain(i: int) -> list[float]:
    width = (1 - _GAP * (len(PANELS) - 1)) / len(PANELS)
    return [i * (width + _GAP), min(1.0, i * (width + _GAP) + width)]


def _buttons(n_layers: int) -> dict[str, Any]:
    """A button for all panels, and one for each by itself in the room of all."""
    every = list(range(len(PANELS)))
    alone = [_button(name, [i], n_layers) for i, name in enumerate(PANELS)]
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": [_button("all four", every, n_layers), *alone],
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 64},
        "font": {"size": 12},
    }


def _button(name: str, shown: list[int], n_layers: int) -> dict[str, Any]:
    axes: dict[str, Any] = {}
    for i in range(len(PANELS)):
        domain = [0, 1] if shown == [i] else _domain(i)
        axes |= {f"{_axis(i)}.visible": i in shown, f"{_axis(i)}.domain": domain}
    traces = {
        "visible": [i in shown for i in range(len(PANELS))],
        "showscale": [i == shown[0] for i in range(len(PANELS))],
        "texttemplate": _numbers(n_layers, len(shown)),
    }
    return {"label": name, "method": "update", "args": [traces, axes]}


def _caption(first: pd.Series) -> str:
    sign = (
        "corrupt run with clean activations" if first.direction == "denoise" else "clean run with corrupt activations"
    )
    return (
        f"{sign} patched in ({first.direction}); metric {first.metric}, n = {first.n}; clean {first.clean:.3g}, "
        f"corrupt {first.corrupt:.3g}.<br>1 = all of the difference. 'stream' is what earlier layers pass on beside "
        "the residual stream.<br>In every cell residual stream + stream + interaction = both. Intervals on hover."
    )
