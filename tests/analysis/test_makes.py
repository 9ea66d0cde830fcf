"""Every question of both routes, asked of models of other makes: scalars, tables, shared heads, rotary positions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from analysis import Graph, Pair, attribute, attribute_edges, find_paths, find_sites, patch, patch_paths, split_gradient
from analysis.ablation import Ablation, ablate, standard_ablations
from analysis.circuit.discovery import Circuit, find_circuit
from analysis.edges.connectivity import connected
from analysis.edges.cut_runs import EdgeRuns, one_each
from analysis.edges.graph import carried
from analysis.edges.recorded_activations import record
from analysis.edges.sent import send
from analysis.edges.steered_forward import carry
from analysis.heads.composition import head_composition
from analysis.heads.copying import copy_score, eigenvalue_copying
from analysis.metrics import logit_difference
from analysis.patching.replay import Edit, Replay
from circuits import FixedGain, HookedStreamTransformer, ModelConfig, Site, Stream
from circuits.config.topologies import First, Tables
from tests.helpers import MAKES, OF_TOKENS, OF_X0, gradients, inputs_for, made, model_of, random_pair
from tests.random_streams import configs

STREAMS = ["classic", "value", "cumulative", "rwkv7-rule", "gemma-sharing", "lime", *OF_TOKENS, OF_X0]
FEW = [
    *(("llama", variant) for variant in ("gemma-sharing", "bank-of-values-frozen")),
    *(("qwen", variant) for variant in (OF_X0, "lime", "nanochat")),
    *(("gemma", variant) for variant in ("cumulative", "modded-nanogpt-embeddings", "rwkv7-rule")),
    *(("nanochat", variant) for variant in (OF_X0, "nanochat", "value", "lime")),
]
"""Every make and every kind of stream; all of each with all of the other are slow."""
REST = [(make, variant) for make in MAKES for variant in STREAMS if (make, variant) not in FEW]
every_case = pytest.mark.parametrize(
    ("make", "variant"), [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)


def one_token_apart(model: HookedStreamTransformer) -> Pair:
    pair = random_pair(model, 3)
    corrupt = pair.clean.clone()
    corrupt[:, 2] = (corrupt[:, 2] + 1) % 19
    return dataclasses.replace(pair, corrupt=corrupt)


@every_case
def test_cutting_nothing_is_the_run_and_cutting_everything_is_the_other(make: str, variant: str) -> None:
    model = made(make, variant)
    pair, graph = random_pair(model, 3), Graph(model)
    runs = EdgeRuns(model, pair.corrupt, send(model, graph, pair.clean), graph)
    nothing, everything = torch.zeros(1, len(graph), dtype=torch.bool), torch.ones(1, len(graph), dtype=torch.bool)
    assert torch.allclose(runs.logits(nothing)[0], model(pair.corrupt), atol=1e-10)
    assert torch.allclose(runs.logits(everything)[0], model(pair.clean), atol=1e-10)
    last = torch.tensor([edge.target.name == "logits" for edge in graph.edges])
    assert not torch.allclose(runs.logits(everything & ~last)[0], model(pair.clean)), "the logits read edges, too"


@every_case
def test_what_comes_in_adds_up_at_every_reader(make: str, variant: str) -> None:
    """A graph that missed a route, or a factor on one, could not pass."""
    model = made(make, variant)
    graph, x = Graph(model), inputs_for(model.config)
    at, sent = record(model, model.embedded(x)), send(model, graph, x)
    factors = graph.coefficients(model)
    for row, reader in enumerate(graph.readers):
        there = (graph.residual_ids[row] >= 0).to(sent.writers.dtype)
        weights = there if factors is None else there * factors[row]
        written = (sent.writers * weights[:, None]).sum(2) + _biases(model, reader, factors, row)
        if reader.kind == "logits":
            assert torch.allclose(written, model(x, stop_at_layer=3), atol=1e-10)
        else:
            name = "hook_resid_pre" if reader.kind == "projection" else "hook_resid_mid"
            assert torch.allclose(written, at.at[f"blocks.{reader.layer}.{name}"], atol=1e-10)
    arriving: dict[Any, Tensor] = {}
    for source, tensor in sent.own.items():
        for place, tensor_there in carry(model, source, tensor, at.gains).items():
            assert place in carried(model)[source]
            arriving[place] = arriving.get(place, 0) + tensor_there
    for (layer, carrier), total in arriving.items():
        alone = (layer, carrier) not in sent.own and carrier in model.layers[layer].attn.own
        own = at.own(layer)[carrier] if alone else 0.0
        gain = at.gains[layer, carrier][0] if (layer, carrier) in at.gains else 1.0
        assert torch.allclose(total + (gain * own if alone else 0.0), at.used(layer, carrier), atol=1e-10)


def _biases(model: HookedStreamTransformer, reader: Any, factors: Tensor | None, row: int) -> Tensor:
    """What is written by nobody: attention's biases, with the factor of the layer's heads."""
    graph, total = Graph(model), torch.zeros(model.config.d_model, dtype=torch.float64)
    for number, writer in enumerate(graph.writers):
        if writer.kind == "head" and writer.head == 0 and graph.residual_ids[row, number] >= 0:
            factor = 1.0 if factors is None else factors[row, number]
            total = total + factor * model.layers[writer.layer or 0].attn.b_O
    return total.detach()


@every_case
def test_outgoing_edges_add_up_to_the_node(make: str, variant: str) -> None:
    model = made(make, variant)
    scores = attribute_edges(model, random_pair(model), method="EAP")
    assert scores.sum_error < 1e-10
    assert float(scores.values.abs().max()) > 0


@pytest.mark.parametrize("make", MAKES)
def test_the_edges_of_the_input_and_of_tables_are_complete(make: str) -> None:
    model = made(make, "nanochat")
    whole = attribute_edges(model, one_token_apart(model), method="EAP-IG", steps=100)
    first = torch.tensor([edge.source.kind in ("table", "input") for edge in whole.graph.edges])
    assert torch.allclose(whole.values[first].sum(0), whole.gap, atol=2e-3 * float(whole.gap.abs().max()))
    alone = torch.tensor([edge.source.kind == "input" for edge in whole.graph.edges])
    assert not torch.allclose(whole.values[alone].sum(0), whole.gap, atol=2e-2 * float(whole.gap.abs().max()))


@settings(max_examples=40, derandomize=True)
@given(configs())
def test_the_graph_of_any_architecture_is_complete(config: ModelConfig) -> None:
    model = model_of(config)
    split = split_gradient(model, lambda logits: logits.log_softmax(-1)[..., 0].mean(), inputs_for(config))
    assert split.error < 1e-10
    pair = random_pair(model, 3)
    if any(stream.weights != "own" and stream.reads != "token" for stream in config.streams):
        with pytest.raises(ValueError, match="carries what no head computes"):
            Graph(model)
        return
    graph = Graph(model)
    runs = EdgeRuns(model, pair.corrupt, send(model, graph, pair.clean), graph)
    everything = torch.ones(1, len(graph), dtype=torch.bool)
    assert torch.allclose(runs.logits(~everything)[0], model(pair.corrupt), atol=1e-9)
    assert torch.allclose(runs.logits(everything)[0], model(pair.clean), atol=1e-9)
    assert attribute_edges(model, pair, method="EAP").sum_error < 1e-9


@pytest.mark.parametrize("make", MAKES)
def test_one_cut_edge_is_one_exact_path(make: str) -> None:
    """Two ways to change one edge: a run with the edge cut, and one receiver patched by itself."""
    model = made(make, "value")
    pair, graph = random_pair(model, 3), Graph(model)
    paths = [path for path in find_paths(model) if path.source.layer == 0]
    found = patch_paths(model, pair, paths, direction="denoise")
    runs = EdgeRuns(model, pair.corrupt, send(model, graph, pair.clean), graph)
    cut = one_each(graph.find([path.name for path in paths]), len(graph))
    exact = runs.each(cut, lambda logits: logit_difference(logits, pair))
    own = [i for i, path in enumerate(paths) if path.route == "stream" or path.target.layer in (None, 2)]
    assert torch.allclose(found.values[own].double(), exact[own], atol=1e-6)
    assert len({path.target.head for path in paths if path.target.carrier == "v"}) == model.config.heads_of("v")


@every_case
def test_the_whole_state_patched_is_the_other_run_and_its_estimate_has_all_of_it(make: str, variant: str) -> None:
    model = made(make, variant)
    pair = random_pair(model, 3)
    states = [Site(layer, "state") for layer in range(3)]
    found = patch(model, pair, states)
    wanted = logit_difference(model(pair.clean), pair).float()
    assert all(torch.allclose(row, wanted, atol=1e-5) for row in found.values.float())


@every_case
def test_the_state_is_the_residual_stream_and_what_is_read_beside_it(make: str, variant: str) -> None:
    model = made(make, variant)
    pair = random_pair(model, 3)
    layers = [layer for layer in range(3) if Site(layer, "stream").exists(model)]
    assert layers == [layer for layer in range(3) if model.reads_from(layer)]
    if not layers:
        return
    parts = [tuple(Site(layer, c, position=p) for c in ("resid_pre", "stream")) for layer in layers for p in (0, 3)]
    both = patch(model, pair, parts).values
    whole = patch(model, pair, [Site(one.layer, "state", position=one.position) for one, _ in parts]).values
    assert torch.allclose(both, whole, atol=1e-12)
    alone = patch(model, pair, [one for one, _ in parts]).values
    assert not torch.allclose(alone, whole, atol=1e-6), "the residual stream alone is not the state"


@pytest.mark.parametrize("make", MAKES)
def test_an_estimate_of_the_whole_state_has_all_of_it(make: str) -> None:
    model = made(make, "nanochat")
    found = attribute(
        model, one_token_apart(model), [Site(layer, "state") for layer in range(3)], method="IG", steps=100
    )
    gap = found.gap.expand(3, -1)
    assert torch.allclose(found.values[0], gap[0], atol=2e-3 * float(gap.abs().max()))


@settings(max_examples=25, derandomize=True)
@given(st.data())
def test_edits_are_those_that_hooks_make(data: st.DataObject) -> None:
    make, variant = data.draw(st.sampled_from([*MAKES])), data.draw(st.sampled_from(STREAMS))
    model = made(make, variant)
    clean, corrupt = inputs_for(model.config, seed=1), inputs_for(model.config, seed=2)
    names = [name for name in model.hook_dict if name.startswith("blocks.") and model.can_fire(name)]
    names = [name for name in names if not any(part in name for part in (".ln", "scale", "scalars", "rot_"))]
    name = data.draw(st.sampled_from(names))
    position = data.draw(st.sampled_from([None, 0, 3, 6]))
    _, cache = model.run_with_cache(clean)
    where = torch.zeros(3, 7, dtype=torch.bool)
    where[:, slice(None) if position is None else position] = True
    _, layer, *point = name.split(".")
    edit = Edit(int(layer), ".".join(point), cache[name], where=where)

    def exchange(tensor: Tensor, hook: Any) -> Tensor:
        at = where[:, None, :, None] if name.endswith(("pattern", "attn_scores")) else where
        at = at if at.ndim == tensor.ndim else at.view(3, 7, *[1] * (tensor.ndim - 2))
        return torch.where(at, cache[name], tensor)

    wanted = model.run_with_hooks(corrupt, fwd_hooks=[(name, exchange)])
    read_at = torch.tensor([6, 6, 4])
    assert torch.allclose(Replay(model, corrupt).run([[edit]]), wanted, atol=1e-10)
    at_one = Replay(model, corrupt, read_at).run([[edit]])
    assert torch.allclose(at_one, wanted[torch.arange(3), read_at], atol=1e-10)


@every_case
def test_shares_of_a_gradient_add_up(make: str, variant: str) -> None:
    model = made(make, variant)
    split = split_gradient(
        model, lambda logits: logits.log_softmax(-1)[..., 0].mean(), inputs_for(model.config), by="pair"
    )
    assert split.error < 1e-10
    for name, whole in split.whole.items():
        if "value_embeds" in name:
            assert torch.allclose(split.stream[name], whole), "a table is trained through the stream alone"
    crossed = sum(float(part.norm()) for shares in split.crossings.values() for part in shares.values())
    assert (crossed > 0) is any(stream.weights == "own" for stream in model.config.streams)


def test_sites_have_as_many_heads_as_there_are() -> None:
    model = made("llama", "value")
    heads = {
        component: {site.head for site in find_sites(model, [component], heads="each")}
        for component in ("q", "k", "v", "z", "pattern")
    }
    assert heads == {"q": {0, 1, 2, 3}, "k": {0, 1}, "v": {0, 1}, "z": {0, 1, 2, 3}, "pattern": {0, 1, 2, 3}}
    with pytest.raises(ValueError, match="3 layers of 2 heads there"):
        patch(model, random_pair(model), [Site(0, "v", head=2)])


def test_tables_are_named_in_the_graph() -> None:
    model = made("nanochat", "nanochat")
    names = [edge.name for edge in Graph(model).edges if edge.source.kind == "table"]
    assert names == [f"VE{n} > L{n}H{head}.v (stream)" for n in (0, 2) for head in (0, 1)]


def test_a_circuit_may_begin_at_a_table_and_shared_heads_are_those_that_use_them() -> None:
    model = made("nanochat", "bank-of-values")
    graph = Graph(model)
    table = "VE2 > L2H1.v (stream)"
    whole = Circuit.of(graph, [table, "L2H3 > logits (residual)"])
    assert connected(graph, whole.edges) == list(whole.edges)
    assert connected(graph, Circuit.of(graph, [table, "L2H1 > logits (residual)"]).edges) == [], "heads 2 and 3 use it"
    assert whole.heads == {(2, 2), (2, 3)}
    scores = attribute_edges(model, random_pair(model))
    found = find_circuit(scores, "greedy", size=60)
    assert any(name.startswith("VE2") for name in found.names)
    drawn = scores.figure().to_json()
    assert "VE2" in drawn


def test_of_shared_heads_only_halves_are_ablated() -> None:
    model = made("llama", "value")
    with pytest.raises(ValueError, match="other heads use the v of head 1 of layer 0, too"):
        Ablation.head(model, 0, 1)
    assert Ablation.head(model, 2, 3).interventions, "the last layer passes nothing on"
    assert [i.site for i in Ablation.outgoing(model, 0, 1).interventions] == [Site(0, "v", "outgoing", head=1)]
    with pytest.raises(ValueError, match="takes nothing away"):
        Ablation.outgoing(model, 0, 3)
    parts = [(one.part, one.describe()["layer"], one.describe()["head"]) for one in standard_ablations(model, ["zero"])]
    assert {head for part, layer, head in parts if (part, layer) == ("head", "0")} == set()
    assert {head for part, layer, head in parts if (part, layer) == ("outgoing", "0")} == {"0", "1"}
    assert len(parts) == len(set(parts))


def test_values_that_heads_share_are_copied_by_each_of_them() -> None:
    model = made("llama", "modded-nanogpt-embeddings", normalization="RMSPre")
    wide = HookedStreamTransformer(dataclasses.replace(model.config, n_key_value_heads=None)).double().eval()
    own = wide.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "W_VE" in name:
                tensor = tensor.unflatten(1, (2, -1)).repeat_interleave(2, 1).flatten(1)
            shared = name.endswith((".W_K", ".W_V"))
            own[name].copy_(tensor.repeat_interleave(2, 0) if shared else tensor)
    assert torch.allclose(wide(inputs_for(model.config)), model(inputs_for(model.config)))
    for route in ("own", "mixed", "stream"):
        one, other = (eigenvalue_copying(m, route).to_frame().value for m in (model, wide))
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-6)
        one, other = (copy_score(m, torch.arange(19), route=route).to_frame().value for m in (model, wide))
        assert one.tolist() == other.tolist()
    assert head_composition(model).to_frame().score.to_numpy() == pytest.approx(
        head_composition(wide).to_frame().score.to_numpy(), abs=1e-6
    )


def test_of_a_table_the_value_is_cut_and_no_gradient() -> None:
    model = made("nanochat", "nanochat")
    pair = random_pair(model)
    kinds = standard_ablations(model, ["zero"])
    assert "gradient cut" not in {one.part for one in kinds}
    found = {one.part: ablate(model, pair, [one]).to_frame() for one in kinds if one.part in ("forward cut", "stream")}
    assert found["forward cut"].loss_ablated.tolist() == pytest.approx(found["stream"].loss_ablated.tolist())
    assert found["forward cut"].loss_ablated.tolist() != pytest.approx(found["forward cut"].loss.tolist(), abs=1e-9)
    with pytest.raises(ValueError, match="an open gate to cut"):
        Ablation.gradient_cut(model)
    assert {stream.gate for stream in model.config.streams} == {"full"}, "they are as they were"


@pytest.mark.parametrize("make", ["llama", "nanochat"])
@pytest.mark.parametrize("more", [(), (Stream("k", topology=First()),)])
def test_of_projections_of_x0_the_gradient_is_cut_as_well(make: str, more: tuple[Stream, ...]) -> None:
    """What is left is the share of the gradient that came by no stream, as another way of taking it apart has it."""
    x0 = Stream("v", topology=Tables(((1, 1), (2, 0)), of="x0"), gain=FixedGain(0.6, 1.1))
    model = made(make, "classic", streams=(x0, *more))
    pair = random_pair(model)

    def loss(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits[:, -1], pair.answers)

    split, cut = split_gradient(model, loss, pair.clean), Ablation.gradient_cut(model)
    assert "gradient cut" in {one.part for one in standard_ablations(model, ["zero"])}
    with model.regated(dict(cut.gates)):
        left = gradients(model, loss(model(pair.clean)))
    assert all(torch.allclose(left[name], direct, atol=1e-12) for name, direct in split.direct.items())
    assert split.stream["embed.W_E"].norm() > 0.01 * split.whole["embed.W_E"].norm(), "there was something to cut"
    wanted = [cut, Ablation.forward_cut(model), Ablation.stream(model), cut + Ablation.forward_cut(model)]
    row, forward, silent, both = ablate(model, pair, wanted).to_frame().to_dict("records")
    assert row["loss_ablated"] == row["loss"]
    assert row["gradient_cosine"] < 1 - 1e-6
    assert forward["loss_ablated"] == pytest.approx(silent["loss_ablated"], abs=1e-10)
    assert both["gradient_cosine"] == pytest.approx(silent["gradient_cosine"], abs=1e-10)
    assert abs(forward["gradient_cosine"] - both["gradient_cosine"]) > 1e-6, "a forward cut leaves the gradient"
    assert {stream.gate for stream in model.config.streams} == {"full"}, "they are as they were"
