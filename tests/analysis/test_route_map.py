"""The map of routes: each cell is the patch of that part by hand, and in every row the routes add up to both."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis import Pair, find_sites, patch, route_map
from analysis.metrics import logit_difference
from analysis.patching.route_map import MAP_ROUTES, RouteMap
from circuits import HookedStreamTransformer
from circuits.model import State
from tests.analysis.test_attribution import nearly_linear
from tests.analysis.test_patching import pair_for
from tests.analysis.test_text_pairs import LONG, SHORT, flipped, text_model
from tests.analysis.test_text_pairs import made as text_pair
from tests.helpers import MAKES, build, made, random_pair


def parts(found: RouteMap) -> dict[str, Tensor]:
    """The values of every route, (cell example)."""
    return {route: found.values[i::4] for i, route in enumerate(MAP_ROUTES)}


def by_hand(model: HookedStreamTransformer, pair: Pair, layer: int, position: int, *taken: str) -> Tensor:
    """The metric of the corrupt run from a layer on, with a position of some parts of the clean run's state."""
    corrupt, clean = model.state(pair.corrupt, layer), model.state(pair.clean, layer)

    def put(into: Tensor, source: Tensor, part: str) -> Tensor:
        into = into.clone()
        if part in taken:
            into[:, position] = source[:, position]
        return into

    outgoing = {key: put(tensor, clean.outgoing[key], "stream") for key, tensor in corrupt.outgoing.items()}
    state = State(layer, put(corrupt.residual, clean.residual, "residual"), outgoing)
    return logit_difference(model.run_state(state), pair)


@pytest.mark.parametrize(
    "variant", ["classic", "value", "cumulative", "key", "lime", "within-layer", "resformer-dense"]
)
def test_every_cell_is_the_patch_by_hand_and_routes_add_up(variant: str) -> None:
    check_cells(build(variant, "tokens", 3))


@pytest.mark.parametrize("make", MAKES)
def test_so_it_is_with_tables_scalars_and_a_backout(make: str) -> None:
    model = made(make, "nanochat")
    check_cells(model)
    first = route_map(model, random_pair(model, 3)).to_frame().query("layer == 0 and route == 'stream'")
    assert first.effect.abs().max() > 1e-6, "the input itself has two routes"


@torch.no_grad()
def check_cells(model: HookedStreamTransformer) -> None:
    pair = random_pair(model, 3)
    found = route_map(model, pair)
    cells = [(layer, position) for layer in range(3) for position in range(pair.n_pos)]
    index = found.index_df[found.index_df.route == "both"]
    assert list(zip(index.layer, index.position.astype(int), strict=True)) == cells
    values = parts(found)
    for i, cell in enumerate(cells):
        assert torch.allclose(values["residual"][i], by_hand(model, pair, *cell, "residual"), atol=1e-10)
        assert torch.allclose(values["stream"][i], by_hand(model, pair, *cell, "stream"), atol=1e-10)
        assert torch.allclose(values["both"][i], by_hand(model, pair, *cell, "residual", "stream"), atol=1e-10)
    assert found.baseline is not None
    change = {route: value - found.baseline for route, value in values.items()}
    assert torch.allclose(change["residual"] + change["stream"] + change["interaction"], change["both"], atol=1e-12)
    wide = found.to_frame().pivot(index=["layer", "position"], columns="route", values="effect")
    assert np.allclose(wide.residual + wide.stream + wide.interaction, wide.both, atol=1e-12)
    assert change["both"].abs().max() > 1e-3


def test_in_single_precision_they_add_up_as_exactly() -> None:
    model = build("value", "tokens", 3).float()
    found = route_map(model, random_pair(model, 5))
    wide = found.to_frame().pivot(index=["layer", "position"], columns="route", values="effect")
    assert np.allclose(wide.residual + wide.stream + wide.interaction, wide.both, atol=1e-12)
    assert wide.interaction.abs().max() > 1e-4, "neither route alone does this, and the sum without it is wrong"


def test_on_a_linear_model_there_is_no_interaction() -> None:
    model, _ = nearly_linear("value")
    wide = route_map(model, pair_for(model, 3), positions=[1, "two"]).to_frame()
    assert wide[wide.route == "interaction"].effect.abs().max() < 1e-6
    assert wide[wide.route == "stream"].effect.abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["classic", "within-layer", "value"])
def test_without_a_stream_between_layers_the_residual_stream_is_both(variant: str) -> None:
    model = build(variant, "vectors", 2)
    found = route_map(model, pair_for(model))
    values, none = parts(found), variant != "value"
    assert torch.equal(values["residual"], values["both"]) == none
    said = "nothing that differs is passed on beside the residual stream: both routes are the residual stream"
    assert (said in found.notes()) == none
    assert bool((found.to_frame().query("route in ('stream', 'interaction')").effect == 0).all()) == none


def test_values_that_leave_the_residual_stream_alone_go_on_by_the_stream() -> None:
    """The known trap, told by the map: before layer 1 the values of layer 0 are where the residual stream is not."""
    model = build("value", "tokens", 2)
    with torch.no_grad():
        model.layers[0].attn.W_O.zero_()
    pair = pair_for(model)
    wide = route_map(model, pair, positions=["two"]).to_frame().set_index(["layer", "route"]).effect
    values = patch(model, pair, find_sites(model, ["v"], ["own"], layers=[0], positions=["two"])).to_frame().effect[0]
    assert wide[1, "stream"] == pytest.approx(values)
    assert abs(wide[1, "stream"]) > 1e-3
    assert wide[1, "residual"] != pytest.approx(wide[1, "both"], abs=1e-3)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_metric_direction_and_memory_are_those_of_a_patch(direction: Any) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    found = route_map(model, pair, "probability", direction)
    same = patch(model, pair, find_sites(model, ["state"], positions=range(pair.n_pos)), "probability", direction)
    rows = found.to_frame().query("route == 'both'").reset_index(drop=True)
    for column in ("effect", "low", "high", "p", "patched", "clean", "corrupt", "accuracy", "n", "metric", "direction"):
        assert rows[column].tolist() == pytest.approx(same.to_frame()[column].tolist(), nan_ok=True), column
    with pytest.raises(ValueError, match="is less than one copy of the pair needs, about") as error:
        route_map(model, pair, max_memory=10)
    one = int(str(error.value).split("about ")[1].split(";")[0].replace(",", ""))
    assert torch.allclose(route_map(model, pair, "probability", direction, one).values, found.values, atol=1e-12)


# --- which positions, and what stands there ---------------------------------------------------------------------------


def test_one_prompt_is_mapped_token_by_token_without_its_padding() -> None:
    model = text_model()
    pair = text_pair(model)
    short = route_map(model, pair[1])
    tokens = short.index_df.drop_duplicates("position").token.tolist()
    assert tokens[:4] == ["<story>", "Mary / John (IO)", "saw", "John / Mary (S1)"]
    assert tokens[-1] == "to (END)"
    assert len(tokens) == len(model.to_tokens(SHORT)[0]) < pair.n_pos
    assert short.to_frame().low.isna().all(), "one prompt has no interval"


def test_prompts_of_different_lengths_are_mapped_by_role() -> None:
    model = text_model()
    pair = text_pair(model)
    found = route_map(model, pair)
    assert found.axes["position"] == ["END", "IO", "S1", "S2"]
    with pytest.raises(ValueError, match=r"prompts differ in length, .*roles=.*, or ask one prompt \(pair\[0\]\)"):
        route_map(model, dataclasses.replace(pair, positions={}))
    with pytest.raises(ValueError, match="position 14 is padding in 1 of 2 examples"):
        route_map(model, pair, positions=[14])


def test_prompts_of_one_form_are_mapped_everywhere_and_named_where_all_have_one_token() -> None:
    model = text_model()
    other = LONG.replace("store", "park")
    changes = {"clean": [LONG, other], "corrupt": [flipped(LONG), flipped(other)]}
    found = route_map(model, text_pair(model, **changes))
    tokens = found.index_df.drop_duplicates("position").token.tolist()
    assert tokens[7:10] == ["the", "", ","]
    assert found.axes["position"] == [str(position) for position in range(15)]


def test_positions_where_roles_move_are_no_places() -> None:
    model = build("value", "vectors", 2)
    pair = pair_for(model)
    assert route_map(model, pair).axes["position"] == ["two", "mixed"]
    one = route_map(model, pair[1]).index_df.drop_duplicates("position")
    assert one.token.tolist()[:4] == ["two", "mixed", "two", ""]
    assert len(one) == pair.n_pos


# --- what it shows ----------------------------------------------------------------------------------------------------


def test_it_says_where_each_route_carries_most() -> None:
    model = text_model()
    found = route_map(model, text_pair(model)[0])
    frame = found.to_frame()
    said = repr(found)
    assert said.startswith("RouteMap: 15 positions before 4 layers, denoise; largest: residual ")
    stream = frame[frame.route == "stream"]
    top = stream.iloc[int(stream.effect.abs().argmax())]
    assert f"stream {top.effect:.2f} (L{top.layer} at {top.position} {top.token})" in said
    largest = found.largest(8)
    assert largest.route.tolist() == [*MAP_ROUTES] * 2
    best = frame.assign(size=frame.effect.abs()).groupby("route")["size"].max()
    assert largest.head(4).set_index("route").effect.abs().to_dict() == best.to_dict()
    page = found._repr_html_()
    assert "&lt;story&gt;" in page or "&lt;story&gt;" not in said
    assert "<story>" not in page
