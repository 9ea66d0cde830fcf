"""Heat maps of where a difference is, by route: positions down, layers across, a panel a route."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from figures.findings import DIRECTIONS, joined, number, over, spelt, whom
from figures.models.cells import intervals, printed
from figures.models.patch_findings import as_both_routes
from figures.models.positions import label
from figures.models.several_runs import alike, once
from figures.theme import DIVERGING, WIDTH, themed
from figures.words import fitting

PANELS = {
    "residual": "residual stream alone",
    "stream": "stream alone",
    "both": "both together",
    "interaction": "interaction",
}
_GAP = 0.02
_ROW, _NUMBER = 22, 30
"""Pixels of a row, and of a number across."""
_ABOVE = 86
"""Pixels over the plots for the names of the routes, and the buttons."""
_LEAST = 0.05
"""Smaller effects are not printed, and are nothing that a route carries."""


def route_heat_maps(frame: pd.DataFrame) -> go.Figure:
    """Return the effect of each route at every position before every layer; a button shows one route by itself.

    ``frame`` is :meth:`analysis.patching.route_map.RouteMap.to_frame`.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs for example, or what is drawn is of
            several metrics, directions or pairs.
    """
    once(frame, "effect", "position", "layer", "route")
    frame = frame.assign(place=[label(p, t) for p, t in zip(frame.position, frame.token, strict=True)])
    places = list(dict.fromkeys(frame.place))[::-1]
    layers = [str(layer) for layer in sorted(frame.layer.unique())]
    figure = go.Figure()
    for i, route in enumerate(PANELS):
        figure.add_trace(_heat(frame[frame.route == route], places, layers, i))
    figure.update_layout(
        {_axis(i): _x_axis(i, name, layers) for i, name in enumerate(PANELS.values())},
        yaxis={"anchor": "free", "position": 0, "type": "category", "showgrid": False},
        yaxis_ticklabelstandoff=4,
        updatemenus=[_buttons(len(layers))],
    )
    left = 24 + round(6.8 * max(len(place) for place in places))
    size: dict[str, Any] = {"height": 164 + _ROW * len(places), "below": 14, "left": left, "above": _ABOVE}
    runs = frame.run if "run" in frame else ()
    return themed(figure, _finding(frame), _caption(frame), runs, of=_of(frame), **size)


def _finding(frame: pd.DataFrame) -> str:
    """Where the stream carries most and what the residual stream carries there, or that it carries nothing."""
    rows = {route: part.set_index(["place", "layer"]) for route, part in frame.groupby("route", sort=False)}
    streams = rows["stream"]
    at: Any = streams.effect.abs().idxmax()
    if abs(streams.effect[at]) < _LEAST:
        at = rows["residual"].effect.abs().idxmax()
        return as_both_routes(rows["residual"].loc[at], str(at[0]), str(at[1]))
    stream, residual = (rows[route].loc[at].to_dict() for route in ("stream", "residual"))
    return fitting(
        *(
            f"Before layer {at[1]} the stream carries {of(stream)} at {at[0]}, the residual stream {of(residual)}"
            for of in (number, lambda row: f"{row['effect']:.2f}")
        )
    )


def _of(frame: pd.DataFrame) -> str:
    asked = alike(frame, "metric", "clean", "corrupt")
    ends = f"{spelt(asked['metric'])} {asked['clean']:.3g} clean and {asked['corrupt']:.3g} corrupt"
    return joined(whom(frame), over(frame, "pair"), f"shares of the difference between them: {ends}")


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
        colorbar={"title": {"text": "effect"}, "thickness": 12, "nticks": 3},
        showscale=i == 0,
        xgap=1,
        ygap=1,
        # A number a cell, blank where it is small: the size of all of them is fitted to the distances of their places.
        text=printed(effect, _LEAST, " "),
        texttemplate=_numbers(len(layers), len(PANELS)),
        customdata=intervals(low, high),
        hovertemplate=f"{PANELS[rows.route.iloc[0]]}<br>%{{y}}, before layer %{{x}}<br>effect %{{z:.3f}}"
        f"%{{customdata}}, {over(rows, 'pair')}<extra></extra>",
    )


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


def _caption(frame: pd.DataFrame) -> str:
    direction = alike(frame, "direction")["direction"]
    return (
        f"{DIRECTIONS[direction].capitalize()} ({direction}): 1 is all of the difference. 'stream' is "
        "what earlier layers pass on beside the residual stream. In every cell residual stream + stream + interaction "
        f"= both; numbers below {_LEAST} are not printed, intervals stand on hover."
    )
