"""Heat maps of a layer's heads in one prompt, queries down and keys across: attention, and what it moves by route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuits.common.errors import known, require
from circuits.common.palette import BLACK, ROUTES, TEAL
from figures.findings import joined, largest, whom
from figures.models.panel_grid import BESIDE, WIDTH, Grid, axis, trace_axes
from figures.models.positions import label
from figures.theme import themed
from figures.words import counted

SHOWN = {"pattern": BLACK, "own": ROUTES["own"], "incoming": ROUTES["stream"], "mixed": TEAL}
"""What may be shown, with its darkest colour."""
_TITLES = {"pattern": "attention", "own": "own moved", "incoming": "incoming moved", "mixed": "mixed moved"}
_NUMBERS = (*SHOWN, "incoming_share")
_SIDE_BY_SIDE = 2
"""Of so many heads a layer, all that may be shown stands side by side."""
_HOVER = (
    "query %{y}<br>key %{x}<br>attention %{customdata[0]:.3f}<br>moved: own %{customdata[1]:.3f}, incoming "
    "%{customdata[2]:.3f}, mixed %{customdata[3]:.3f}<br>incoming makes %{customdata[4]:.0%} of the mixed"
)
_CAPTION = (
    "Queries down, keys across; grey: keys that a query does not see. 'Moved' is the attention times the norm of the "
    "values past W_O: own are of the layer itself, incoming of the stream, mixed is their sum. 'By the stream': how "
    "much the stream makes of all that a head writes here."
)
_ABOVE = 36
"""Pixels above all panels for the menus."""
_BAR = {"thickness": 12, "len": 260, "lenmode": "pixels", "y": 1, "yanchor": "top"}


@dataclass(frozen=True)
class _Panel:
    """A head in a place of the grid, and what it shows there always; ``None``: what the menu says."""

    layer: int
    head: int
    place: int
    cells: dict[str, np.ndarray]
    """Its numbers by name, as squares (query key)."""
    incoming: float
    most: float
    """The largest number that any head of the layer moves by any route."""
    always: str | None

    def title(self) -> str:
        share = "" if np.isnan(self.incoming) else f", {self.incoming:.0%} by the stream"
        if self.always is None:
            return f"<b>L{self.layer}H{self.head}</b>{share}"
        end = f", 0 to {self.top(self.always):.3g}"
        return f"<b>L{self.layer}H{self.head}</b> {_TITLES[self.always]}{share if self.always == 'mixed' else end}"

    def top(self, shown: str) -> float:
        return 1.0 if shown == "pattern" else self.most

    def z(self, shown: str) -> list[list[float | None]]:
        square = self.cells[self.always or shown]
        return [[None if np.isnan(value) else round(float(value), 5) for value in row] for row in square]


def attention_maps(frame: pd.DataFrame, layer: int | None = None, shown: str = "pattern") -> go.Figure:
    """Return a layer's heads side by side, with menus for the layer and for what is shown.

    ``frame`` is :meth:`analysis.heads.attention_view.AttentionView.to_frame`. They start with ``layer``, by default the
    one where a stream brings most, and with "pattern", or what is moved by a route: "own", "incoming" or "mixed". Of
    one or two heads a layer all four are shown at once.

    Raises:
        UnknownNameError: for something else to show (nearest suggested).
        ValueError: for a layer that is not in the frame.
    """
    known("what to show", shown, SHOWN)
    layers = sorted(frame.layer.unique().tolist())
    require(layer is None or layer in layers, f"there is no layer {layer} in this view; it has {layers}")
    first = _most_incoming(frame) if layer is None else layer
    tokens = frame.drop_duplicates("query").sort_values("query", kind="stable")
    labels = [label(q, token) for q, token in zip(tokens["query"], tokens.query_token, strict=True)]
    panels = _panels(frame, len(labels))
    grid = Grid(1 + max(panel.place for panel in panels), labels)
    menus = [_menu(0.0, [_layer_button(panels, grid.n, one) for one in layers], layers.index(first))]
    if panels[0].always is None:
        menus.append(_menu(0.2, [_shown_button(panels, one) for one in SHOWN], list(SHOWN).index(shown)))
    figure = go.Figure([_heat(panel, labels, shown, panel.layer == first) for panel in panels])
    for place in range(grid.n):
        figure.add_annotation(_title(grid, place, _text(panels, first, place)))
    figure.update_layout(grid.axes(_count(panels, first)), plot_bgcolor="#EFEFEF", updatemenus=menus)
    figure.update_layout(width=WIDTH)
    # So high that a panel is square: what is above and below the plots comes to it.
    size: dict[str, Any] = {"height": round(grid.height) + 132 + grid.labelled, "below": grid.labelled}
    size |= {"left": grid.labelled, "above": _ABOVE}
    runs = frame.run if "run" in frame else ()
    themed(figure, _finding(frame), _CAPTION, runs, of=_of(frame), **size)
    return figure.update_layout(margin_r=BESIDE)


def _finding(frame: pd.DataFrame) -> str:
    """Which head writes most of the stream; where none does, that it is so."""
    heads = frame.drop_duplicates(["layer", "head"])
    if not (heads.head_incoming > 0).any():
        return "Nothing comes into these heads' values through a stream: all that they move is of their own layer"
    most = largest(heads, "head_incoming")
    rest = f", the most of {counted(len(heads), 'head')}" if len(heads) > 1 else ""
    head = f"L{most.layer}H{most['head']}"
    return f"Of all that {head} writes in this prompt {most.head_incoming:.0%} is of the stream{rest}"


def _of(frame: pd.DataFrame) -> str:
    layers, heads = frame.layer.nunique(), len(frame.drop_duplicates(["layer", "head"]))
    shape = f"{counted(heads, 'head')} in {counted(layers, 'layer')}"
    return joined(whom(frame), f"one prompt of {counted(frame['query'].nunique(), 'position')}", shape)


def _most_incoming(frame: pd.DataFrame) -> int:
    """The layer in which the stream makes most of what a head writes; the last where it makes nothing."""
    heads = frame.drop_duplicates(["layer", "head"])
    shares = heads.head_incoming.fillna(0.0).to_numpy()
    layers = heads.layer.to_numpy()
    return int(layers[shares.argmax()] if shares.max() > 0 else layers.max())


def _panels(frame: pd.DataFrame, n: int) -> list[_Panel]:
    found = list[_Panel]()
    per_layer = frame.groupby("layer")["head"].nunique().max()
    slots: Sequence[str | None] = list(SHOWN) if per_layer <= _SIDE_BY_SIDE else [None]
    for layer in sorted(frame.layer.unique().tolist()):
        of_layer = frame[frame.layer == layer]
        most = max(1e-9, float(of_layer[["own", "incoming", "mixed"]].to_numpy().max()))
        for i, head in enumerate(sorted(of_layer["head"].unique().tolist())):
            rows = of_layer[of_layer["head"] == head]
            cells = {name: _square(rows, name, n) for name in _NUMBERS}
            incoming = float(rows.head_incoming.iloc[0])
            places = [(i * len(slots) + j, slot) for j, slot in enumerate(slots)]
            found += [_Panel(layer, head, place, cells, incoming, most, slot) for place, slot in places]
    return found


def _square(rows: pd.DataFrame, name: str, n: int) -> np.ndarray:
    square = np.full((n, n), np.nan)
    square[rows["query"], rows["key"]] = rows[name]
    return square


def _heat(panel: _Panel, labels: list[str], shown: str, visible: bool) -> go.Heatmap:
    shown = panel.always or shown
    return go.Heatmap(
        z=panel.z(shown),
        x=labels,
        y=labels,
        **trace_axes(panel.place),
        zmin=0,
        zmax=panel.top(shown),
        colorscale=_colours(shown),
        showscale=panel.always is None and panel.place == 0,
        colorbar=_BAR | {"title": {"text": _TITLES[shown], "side": "right"}},
        visible=visible,
        hoverongaps=False,
        customdata=np.round(np.stack([panel.cells[name] for name in _NUMBERS], -1), 5).astype(np.float32),
        hovertemplate=f"L{panel.layer}H{panel.head}<br>{_HOVER}<extra></extra>",
    )


def _colours(shown: str) -> list[list[Any]]:
    return [[0, "#FFFFFF"], [1, SHOWN[shown]]]


def _count(panels: Sequence[_Panel], layer: int) -> int:
    return sum(panel.layer == layer for panel in panels)


def _text(panels: Sequence[_Panel], layer: int, place: int) -> str:
    return next((panel.title() for panel in panels if (panel.layer, panel.place) == (layer, place)), "")


def _title(grid: Grid, place: int, text: str) -> dict[str, Any]:
    x, y = grid.domains(place)
    at = {"x": x[0], "y": y[1], "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return at | {"text": text, "showarrow": False, "font": {"size": 12}}


def _menu(x: float, buttons: list[dict[str, Any]], active: int) -> dict[str, Any]:
    look = {"type": "dropdown", "x": x, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 4}}
    return look | {"buttons": buttons, "active": active, "font": {"size": 12}}


def _layer_button(panels: Sequence[_Panel], places: int, layer: int) -> dict[str, Any]:
    changed = dict[str, Any]()
    for place in range(places):
        changed[f"annotations[{place}].text"] = _text(panels, layer, place)
        changed |= {f"{axis(letter, place)}.visible": place < _count(panels, layer) for letter in "xy"}
    traces = {"visible": [panel.layer == layer for panel in panels]}
    return {"label": f"layer {layer}", "method": "update", "args": [traces, changed]}


def _shown_button(panels: Sequence[_Panel], shown: str) -> dict[str, Any]:
    traces = {
        "z": [panel.z(shown) for panel in panels],
        "zmax": [panel.top(shown) for panel in panels],
        "colorscale": [_colours(shown) for _ in panels],
        "colorbar.title.text": _TITLES[shown],
    }
    return {"label": _TITLES[shown], "method": "restyle", "args": [traces]}
