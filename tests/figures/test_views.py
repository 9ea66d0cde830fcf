"""The map of routes and the attention view as drawn: numbers are the frame's, and every button shows what it says."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from circuits.common.errors import UnknownNameError
from figures.images import write_images
from figures.models.attention_view import SHOWN, attention_maps
from figures.models.panel_grid import BETWEEN, LEAST, Grid
from figures.models.positions import LONGEST, label
from figures.models.route_map import PANELS, route_heat_maps

CONVENTION = {"metric": "logit_difference", "direction": "denoise", "clean": 3.0, "corrupt": -3.0, "n": 4}
TOKENS = ["<s>", " to", "to", "<b>bold</b>"]


def mapped(n_layers: int = 3, tokens: list[str] = TOKENS) -> pd.DataFrame:
    """What a map of routes says, with other numbers in every cell."""
    cells = itertools.product(range(n_layers), enumerate(tokens), PANELS)
    rows = [{"layer": layer, "position": str(p), "token": token, "route": route} for layer, (p, token), route in cells]
    effects = np.random.default_rng(0).uniform(-1, 1, len(rows))
    return pd.DataFrame(rows).assign(effect=effects, low=effects - 0.1, high=effects + 0.1, **CONVENTION)


def viewed(n_layers: int = 2, n_heads: int = 3, tokens: list[str] = TOKENS) -> pd.DataFrame:
    """What an attention view says, with other numbers in every cell; the stream brings most in layer 1."""
    places = itertools.product(range(n_layers), range(n_heads), enumerate(tokens), enumerate(tokens))
    rows = [
        {"layer": layer, "head": head, "query": q, "query_token": query, "key": k, "key_token": key}
        for layer, head, (q, query), (k, key) in places
        if k <= q
    ]
    frame, numbers = pd.DataFrame(rows), np.random.default_rng(0)
    columns = {name: numbers.uniform(0, 1 if name == "pattern" else 5, len(frame)) for name in SHOWN}
    shares = {"own_share": 0.25, "incoming_share": 0.75, "head_incoming": np.where(frame.layer == 1, 0.6, 0.1)}
    return frame.assign(**columns, **shares)


def buttons(figure: go.Figure, menu: int = 0) -> dict[str, list[Any]]:
    layout: Any = figure.layout
    return {button.label: button.args for button in layout.updatemenus[menu].buttons}


# --- the map of routes ------------------------------------------------------------------------------------------------


def test_a_map_has_a_panel_a_route_whose_cells_are_the_frames() -> None:
    frame = mapped()
    figure: Any = route_heat_maps(frame)
    assert len(figure.data) == 4
    for trace, route in zip(figure.data, PANELS, strict=True):
        rows = frame[frame.route == route]
        grid = rows.pivot(index="position", columns="layer", values="effect").sort_index(ascending=False)
        assert np.array_equal(trace.z, grid.to_numpy())
        assert list(trace.x) == ["0", "1", "2"]
        low = rows[(rows.layer == 2) & (rows.position == "0")].low.iloc[0]
        assert trace.customdata[-1][2].startswith(f" [{low:.3f}, ")
        assert (trace.zmin, trace.zmax) == (-1, 1), "one scale for all routes"
    assert "residual stream + stream + interaction = both" in figure.layout.meta["caption"]
    bare: Any = route_heat_maps(frame.assign(low=np.nan, high=np.nan))
    assert bare.data[0].customdata[0][0] == ", no interval", "of one prompt"


def test_a_button_shows_one_route_in_the_room_of_all() -> None:
    figure: Any = route_heat_maps(mapped())
    pressed = buttons(figure)
    assert list(pressed) == ["all four", *PANELS]
    for i, route in enumerate(PANELS):
        traces, axes = pressed[route]
        assert traces["visible"] == traces["showscale"] == [j == i for j in range(4)]
        name = f"xaxis{i + 1}" if i else "xaxis"
        assert axes[f"{name}.domain"] == [0, 1]
        assert sum(axes[key] for key in axes if key.endswith("visible")) == 1
    traces, axes = pressed["all four"]
    assert traces["visible"] == [True] * 4
    layout = [figure.layout[f"xaxis{i + 1}" if i else "xaxis"].domain for i in range(4)]
    assert [tuple(axes[f"xaxis{i + 1}.domain" if i else "xaxis.domain"]) for i in range(4)] == layout
    assert all(left[1] < right[0] for left, right in itertools.pairwise(layout))


@pytest.mark.parametrize(("n_layers", "together", "alone"), [(2, True, True), (12, False, True), (48, False, False)])
def test_numbers_stand_only_in_cells_that_are_wide_enough(n_layers: int, together: bool, alone: bool) -> None:
    figure: Any = route_heat_maps(mapped(n_layers))
    pressed = buttons(figure)
    assert {bool(trace.texttemplate) for trace in figure.data} == {together}
    assert bool(pressed["all four"][0]["texttemplate"]) == together
    assert bool(pressed["stream"][0]["texttemplate"]) == alone
    assert {trace.textfont.size for trace in figure.data} == {None}, "fitted to the cells"
    assert all(cell for trace in figure.data for row in trace.text for cell in row), "plotly fits those of all cells"
    assert len(figure.layout.xaxis.tickvals) <= 13


def test_a_token_is_text_and_every_position_has_a_label_of_its_own() -> None:
    figure: Any = route_heat_maps(mapped())
    assert list(figure.data[0].y) == ["3: &lt;b&gt;bold&lt;/b&gt;", "2: to", "1: to", "0: &lt;s&gt;"]
    assert label(0, " ") == "0: ' '"
    assert label(7, "\n") == "7: '\\n'"
    assert label("END", "") == "END"
    assert label(1, "a" * 100) == "1: " + "a" * (LONGEST - 1) + "…"


# --- the attention view -----------------------------------------------------------------------------------------------


def square(frame: pd.DataFrame, layer: int, head: int, name: str) -> np.ndarray:
    rows = frame[(frame.layer == layer) & (frame["head"] == head)]
    return rows.pivot(index="query", columns="key", values=name).to_numpy()


def same(z: Any, expected: np.ndarray) -> bool:
    return np.allclose(np.array(z, dtype=float), expected, atol=1e-5, equal_nan=True)


def test_heads_are_side_by_side_and_the_menus_show_layers_and_what_is_moved() -> None:
    frame = viewed()
    figure: Any = attention_maps(frame)
    heads = list(itertools.product(range(2), range(3)))
    assert [trace.visible for trace in figure.data] == [layer == 1 for layer, _ in heads], "where a stream brings most"
    for trace, head in zip(figure.data, heads, strict=True):
        assert same(trace.z, square(frame, *head, "pattern"))
        for i, name in enumerate((*SHOWN, "incoming_share")):
            assert same(np.array(trace.customdata)[..., i], square(frame, *head, name)), "on hover"
    layers, shown = buttons(figure, 0), buttons(figure, 1)
    for layer in range(2):
        traces, changed = layers[f"layer {layer}"]
        assert traces["visible"] == [at == layer for at, _ in heads]
        assert changed["annotations[2].text"] == f"<b>L{layer}H2</b>, {60 if layer else 10}% by the stream"
    for name, (traces,) in zip(SHOWN, shown.values(), strict=True):
        assert all(same(z, square(frame, *head, name)) for z, head in zip(traces["z"], heads, strict=True))
        tops = [
            1 if name == "pattern" else frame[frame.layer == at][["own", "incoming", "mixed"]].max().max()
            for at, _ in heads
        ]
        assert traces["zmax"] == pytest.approx(tops), "routes of a layer are compared with each other"
    assert len({traces["colorscale"][0][1][1] for (traces,) in shown.values()}) == 4


def test_it_starts_with_what_is_asked_for() -> None:
    frame = viewed()
    figure: Any = attention_maps(frame, 0, "incoming")
    assert figure.data[1].visible
    assert same(figure.data[1].z, square(frame, 0, 1, "incoming"))
    assert [menu.active for menu in figure.layout.updatemenus] == [0, 2]
    still = attention_maps(frame.assign(head_incoming=0.0)).to_dict()["layout"]["updatemenus"][0]["active"]
    assert still == 1, "the last, where a stream brings nothing"
    with pytest.raises(UnknownNameError, match="unknown what to show 'incomin': did you mean 'incoming'"):
        attention_maps(frame, shown="incomin")
    with pytest.raises(ValueError, match=r"there is no layer 2 in this view; it has \[0, 1\]"):
        attention_maps(frame, 2)


def test_of_one_head_a_layer_all_four_are_shown_at_once() -> None:
    frame = viewed(n_heads=1)
    figure: Any = attention_maps(frame)
    assert len(figure.layout.updatemenus) == 1, "there is nothing to choose but the layer"
    seen = [trace for trace in figure.data if trace.visible]
    assert len(seen) == 4
    assert all(same(trace.z, square(frame, 1, 0, name)) for trace, name in zip(seen, SHOWN, strict=True))
    assert [trace.zmax for trace in seen[1:]] == [frame[frame.layer == 1][["own", "incoming", "mixed"]].max().max()] * 3
    titles = [note.text for note in figure.layout.annotations[:4]]
    assert titles[0] == "<b>L1H0</b> attention, 0 to 1"
    assert titles[3] == "<b>L1H0</b> mixed moved, 60% by the stream"


def test_a_layer_with_fewer_heads_hides_the_places_of_the_others() -> None:
    frame = viewed(n_heads=4)
    frame = frame[(frame.layer == 1) | (frame["head"] == 3)]
    changed = buttons(attention_maps(frame))["layer 0"][1]
    assert [changed["xaxis.visible"], changed["xaxis2.visible"], changed["yaxis4.visible"]] == [True, False, False]
    assert [changed[f"annotations[{i}].text"][:10] for i in range(4)] == ["<b>L0H3</b", "", "", ""]


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("length", [2, 17, 40])
def test_panels_do_not_overlap_and_labels_can_be_read(heads: int, length: int) -> None:
    grid = Grid(heads, [f"{i} token" for i in range(length)])
    assert grid.cell >= LEAST
    assert grid.font >= LEAST
    boxes = [grid.domains(i) for i in range(heads)]
    assert all(0 <= low < high <= 1 for box in boxes for low, high in box)
    for (x, y), (u, v) in itertools.combinations(boxes, 2):
        beside = x[1] + 0.9 * BETWEEN / grid.room <= u[0] or u[1] <= x[0]
        below = v[1] + grid.labelled / grid.height <= y[0] + 1e-9
        assert beside or below
    rows = -(-heads // grid.columns)
    assert heads > (rows - 1) * grid.columns, "no row is empty"
    left = [grid.axes(heads)[name]["showticklabels"] for name in grid.axes(heads) if name.startswith("y")]
    assert sum(left) == rows


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_an_image_has_no_buttons(tmp_path: Path) -> None:
    figure = route_heat_maps(mapped())
    plain = go.Figure(figure).update_layout(updatemenus=[])
    one, other = write_images({"buttons": figure, "none": plain}, tmp_path, ("png",))
    assert one.read_bytes() == other.read_bytes()
    assert len(figure.to_dict()["layout"]["updatemenus"]) == 1, "the figure keeps them"
