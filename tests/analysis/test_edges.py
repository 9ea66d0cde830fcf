"""The graph of both routes: cutting nothing is the run, cutting everything is the other run, one edge is one edge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    Node,
    attribution_patch,
    faithfulness,
)

from analysis import Graph, Pair, Site, attribute, attribute_edges, patch, patch_paths
from analysis.circuit.discovery import Circuit
from analysis.circuit.quality import judge
from analysis.edges.cut_runs import EdgeRuns, one_each
from analysis.edges.sent import send
from analysis.edges.steered_forward import carry
from analysis.metrics import logit_difference
from circuits import HookedStreamTransformer, UnknownNameError
from circuits.config.gains import FixedGain, SigmoidGain
from circuits.config.streams import HeadMixing, Stream
from circuits.config.topologies import Cumulative, First, Tables
from tests.helpers import ALL, FULL, STREAMED, build, inputs_for, model_of, token_config
from tests.random_streams import one_stream

KINDS = [("vectors", 2), ("tokens", 3)]


def pair_for(model: HookedStreamTransformer, n: int = 3) -> Pair:
    clean, corrupt = inputs_for(model.config, n, seed=1), inputs_for(model.config, n, seed=2)
    answers = torch.arange(n) % model.config.readout.d_vocab_out
    return Pair(clean, corrupt, answers, (answers + 1) % model.config.readout.d_vocab_out, {})


class Measured:
    """The logit difference of corrupt runs in which cut edges carry what the clean run sends."""

    def __init__(self, model: HookedStreamTransformer, pair: Pair):
        self.pair, self.graph = pair, Graph(model)
        self.runs = EdgeRuns(model, pair.corrupt, send(model, self.graph, pair.clean), self.graph)

    def values(self, cuts: Tensor) -> Tensor:
        return self.runs.each(cuts, lambda logits: logit_difference(logits, self.pair))


def runs_for(model: HookedStreamTransformer, pair: Pair) -> Measured:
    return Measured(model, pair)


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", ALL)
def test_cutting_nothing_is_the_run_and_cutting_everything_is_the_other(variant: str, kind: str, layers: int) -> None:
    model = build(variant, kind, layers)
    pair = pair_for(model)
    runs = runs_for(model, pair)
    every = torch.ones(len(runs.graph), dtype=torch.bool)
    residual = torch.tensor([edge.route == "residual" for edge in runs.graph.edges])
    found = runs.values(torch.stack([~every, every, residual]))
    with torch.no_grad():
        assert torch.allclose(found[0], logit_difference(model(pair.corrupt), pair), atol=1e-10)
        assert torch.allclose(found[1], logit_difference(model(pair.clean), pair), atol=1e-10)
    # The residual stream's edges bring every projection from the other run, so they are enough; but once the values
    # come by other edges, cutting those of the stream alone changes things, wherever something flows.
    assert torch.allclose(found[2], found[1], atol=1e-10)
    flows = bool(model.config.streams) and not variant.endswith("gradient-only")
    if flows:
        moved = runs.values(~residual[None])
        assert not torch.allclose(moved[0], found[0])


@pytest.mark.parametrize(
    ("variant", "layers"), [*((v, 4) for v in STREAMED), ("cumulative", 6), ("resformer-dense", 6), ("lime", 6)]
)
def test_what_the_stream_carries_adds_up_to_what_is_used(variant: str, layers: int) -> None:
    """Patching a projection is patching all its uses; each arrival is what the hooked model shows."""
    model = build(variant, "tokens", layers)
    graph, pair = Graph(model), pair_for(model)
    runs = runs_for(model, pair)
    for source, uses in graph.carried.items():
        name = f"blocks.{source[0]}.attn.hook_{source[1]}"
        _, clean = model.run_with_cache(pair.clean, names_filter=name)
        take: Any = (name, lambda t, hook, clean=clean: clean[hook.name])
        with torch.no_grad():
            patched = logit_difference(model.run_with_hooks(pair.corrupt, fwd_hooks=[take]), pair)
        cut = torch.zeros(len(graph), dtype=torch.bool)
        for use in uses:
            ids = graph.stream_ids[source, use]
            cut[ids[ids >= 0]] = True
        assert torch.allclose(runs.values(cut[None])[0], patched, atol=1e-10), source


def test_carrying_follows_chains_only_where_the_topology_passes_sums_on() -> None:
    for variant, reached in (("value", [0, 1]), ("cumulative", [0, 1, 2, 3]), ("classic", [0])):
        model = build(variant, "tokens", 4)
        change = torch.ones(1, 2, 4, 6).double()
        gains: Any = {(layer, "v"): (1.0, [1.0]) for layer in range(4)}
        arrived = carry(model, (0, "v"), change, gains)
        assert sorted(layer for layer, _ in arrived) == reached
        assert all(torch.equal(tensor, change) for tensor in arrived.values())


@pytest.mark.parametrize("variant", ["classic", "value", "cumulative", "lime", "x-transformers", "within-layer"])
def test_one_cut_edge_is_one_hook(variant: str) -> None:
    """Brute force for single edges: the reader's own input or use, changed by a hook on the plain forward pass."""
    model = build(variant, "tokens", 2)
    model.allow_stream_blind_tools()
    graph, pair = Graph(model), pair_for(model)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    model.set_use_attn_result(True)
    with torch.no_grad():
        _, a = model.run_with_cache(pair.corrupt)
        _, b = model.run_with_cache(pair.clean)
        cases: dict[str, tuple[str, Tensor, int | None]] = {
            "input > L1H2.q (residual)": ("blocks.1.attn.hook_q_input", _input(b) - _input(a), 2),
            "L0H1 > L1H3.k (residual)": ("blocks.1.attn.hook_k_input", _result(b, 1) - _result(a, 1), 3),
            "L0H1 > L1H0.v (residual)": ("blocks.1.attn.hook_v_input", _result(b, 1) - _result(a, 1), 0),
            "L0H3 > MLP0 (residual)": ("blocks.0.hook_mlp_in", _result(b, 3) - _result(a, 3), None),
            "MLP0 > logits (residual)": ("blocks.1.hook_resid_post", b["mlp_out", 0] - a["mlp_out", 0], None),
        }
        for name, (point, change, head) in cases.items():

            def add(t: Tensor, hook: Any, change: Tensor = change, head: int | None = head) -> Tensor:
                t = t.clone()
                t[(slice(None), slice(None), *(() if head is None else (head,)))] += change
                return t

            expected = logit_difference(model.run_with_hooks(pair.corrupt, fwd_hooks=[(point, add)]), pair)
            before = logit_difference(model(pair.corrupt), pair)
            found = runs_for(model, pair).values(one_each(graph.find([name]), len(graph)))[0] - before
            assert torch.allclose(found, expected - before, atol=1e-10), name
            assert found.abs().max() > 1e-9, name


WITHOUT_OWN: dict[str, tuple[Stream, ...]] = {
    "first values": (Stream("v", topology=First(), gain=SigmoidGain(2.0, 7, own=0.0)),),
    "keys summed over heads": (
        Stream("k", topology=Cumulative(), gain=SigmoidGain(1.5, 9, own=0.0), transform=HeadMixing()),
    ),
    "queries of x0": (Stream("q", topology=Tables(((1, 1), (2, 0)), of="x0"), gain=SigmoidGain(2.5, 24, own=0.0)),),
}
"""Streams that stand in the place of a layer's own projections, and of which its input says how much comes in."""


def without_own(name: str, **fields: Any) -> HookedStreamTransformer:
    model = model_of(token_config("classic", 3, streams=WITHOUT_OWN[name], **fields))
    with torch.no_grad():
        for block in model.layers:
            for _, mix in block.attn.mixes():
                mix.get_parameter("W_gain").mul_(60)
    return model


@pytest.mark.parametrize("variant", [*FULL, *WITHOUT_OWN])
@pytest.mark.parametrize("shared", [None, 2])
def test_all_that_a_writer_writes_goes_along_its_edges(variant: str, shared: int | None) -> None:
    """If all edges out of it carry the other run's, its output is the other run's, as a patch of it."""
    try:
        model = (
            without_own(variant, n_key_value_heads=shared)
            if variant in WITHOUT_OWN
            else model_of(token_config(variant, 3, n_key_value_heads=shared))
        )
    except ValueError:
        return  # streams between carriers of as many heads alone
    pair, runs = pair_for(model), runs_for(model, pair_for(model))
    writers = [writer for writer in runs.graph.writers if writer.kind != "input"]
    cuts = torch.tensor([[edge.source == writer for edge in runs.graph.edges] for writer in writers])
    sites = [Site(w.layer or 0, "mlp_out" if w.head is None else "z", head=w.head) for w in writers]
    patched = patch(model, pair, sites).values
    assert torch.allclose(runs.values(cuts), patched, atol=1e-10)
    if variant in WITHOUT_OWN:
        carrier = model.config.streams[0].carrier
        reads = torch.tensor([edge.target.name.endswith(f".{carrier}") for edge in runs.graph.edges])
        late = torch.tensor([(edge.target.layer or 0) > 0 for edge in runs.graph.edges])
        assert not torch.allclose(runs.values(cuts & ~(reads & late)), patched, atol=1e-4), "the negation"


@pytest.mark.parametrize("variant", WITHOUT_OWN)
def test_what_a_gain_alone_reads_is_read_along_edges(variant: str) -> None:
    model = without_own(variant)
    pair, graph = pair_for(model), Graph(model)
    carrier = model.config.streams[0].carrier
    names = [f"L0H1 > L2H3.{carrier} (residual)", f"MLP1 > L2H0.{carrier} (residual)"]
    exact = runs_for(model, pair).values(one_each(graph.find(names), len(graph)))
    with torch.no_grad():
        base = logit_difference(model(pair.corrupt), pair)
    assert (exact - base).abs().amax(1).min() > 1e-5
    paths = [graph.edges[i] for i in graph.find(names[:1])]
    assert torch.allclose(patch_paths(model, pair, paths).values, exact[:1], atol=1e-10)
    found = attribute_edges(model, pair, check=0)
    assert found.sum_error < 1e-10
    assert found.scores[graph.find(names)].abs().min() > 1e-6
    assert found.total == pytest.approx(attribute(model, pair, [Site(0, "state")], check=0).total, abs=1e-9)
    fixed = model_of(token_config("classic", 3, streams=(Stream("v", topology=First(), gain=FixedGain(0.0)),)))
    targets = {edge.target.name for edge in Graph(fixed).edges if edge.route == "residual"}
    assert not any(name.endswith(".v") for name in targets if not name.startswith("L0")), "numbers read nothing"


def _input(cache: Any) -> Tensor:
    return cache["resid_pre", 0]


def _result(cache: Any, head: int) -> Tensor:
    return cache["result", 0][:, :, head]


def test_equal_to_transformer_lens_on_the_classic_model() -> None:
    """Every edge score, summed over positions, and the faithfulness of a part of the graph."""
    model = build("classic", "tokens", 2)
    clean, corrupt = (inputs_for(model.config, 2, seed=s, length=5) for s in (1, 2))
    pair = Pair(clean, corrupt, torch.tensor([1, 2]), torch.tensor([2, 3]), {})
    one = pair[:1]

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 1].sum()

    def ours(logits: Tensor, pair: Pair) -> Tensor:
        return logits[:, -1, 1]

    theirs = attribution_patch(
        model, pair.clean, pair.corrupt, metric, EdgeAttributionConfig(granularity="edge")
    ).edge_scores
    found = attribute_edges(model, pair, ours)
    summed: dict[str, float] = {}
    for (writer, reader), score in theirs.items():
        name = f"{_name(writer)} > {_name(reader)} (residual)"
        summed[name] = summed.get(name, 0.0) + score
    scores = dict(zip(found.graph.numbers, found.scores.tolist(), strict=True))
    assert set(scores) == set(summed)
    assert max(abs(scores[name] - summed[name]) for name in summed) < 1e-5
    assert max(abs(score) for score in scores.values()) > 1e-3
    kept = sorted(scores, key=lambda name: -abs(scores[name]))[:40]
    edges = [edge for edge in theirs if f"{_name(edge[0])} > {_name(edge[1])} (residual)" in kept]
    expected = faithfulness(model, one.clean, one.corrupt, metric, edges).recovered
    assert judge(model, one, Circuit.of(Graph(model), kept), ours, subsets=0).faithfulness == pytest.approx(
        expected, abs=1e-5
    )


def test_the_sums_of_a_graph_without_the_stream_do_not_show_what_is_missing() -> None:
    """The trap: transformer-lens' edges out of a head add up to its score on a stream model too, and none of them is
    the stream's; ours has one that carries something, and what it carries is booked on the head's own port there."""
    model = build("value", "tokens", 2)
    model.allow_stream_blind_tools()
    pair = pair_for(model, 1)

    def score(granularity: Any) -> dict[Node, float]:
        config = EdgeAttributionConfig(granularity=granularity)
        return attribution_patch(model, pair.clean, pair.corrupt, lambda x: x[:, -1, 1].sum(), config).node_scores

    summed, direct = score("edge"), score("node")
    assert max(abs(summed[node] - direct[node]) for node in summed) < 1e-5, "nothing seems to be missing"

    def first(logits: Tensor, pair: Pair) -> Tensor:
        return logits[:, -1, 1]

    found = attribute_edges(model, pair, first, check=0)
    stream = torch.tensor([edge.route == "stream" for edge in found.graph.edges])
    assert found.scores[stream].abs().max() > 1e-3
    assert found.sum_error < 1e-10


def _name(node: Node) -> str:
    words = {"embed": "input", "mlp_out": f"MLP{node.layer}", "mlp_in": f"MLP{node.layer}", "logits": "logits"}
    port = {"q_input": ".q", "k_input": ".k", "v_input": ".v"}.get(node.kind, "")
    return words.get(node.kind, f"L{node.layer}H{node.head}{port}")


@settings(max_examples=20, derandomize=True)
@given(parts=st.lists(one_stream, min_size=0, max_size=2), layers=st.integers(2, 4), seed=st.integers(0, 99))
def test_many_sets_in_one_forward_are_one_at_a_time(parts: Any, layers: int, seed: int) -> None:
    try:
        config = token_config("classic", layers, streams=tuple(Stream(**part) for part in parts), n_heads=2)
    except ValueError:
        return  # contradictory; other tests see to the message
    model = model_of(config, seed)
    runs = runs_for(model, pair_for(model, 2))
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.rand(4, len(runs.graph), generator=generator) < 0.3
    together = runs.values(cuts)
    alone = torch.cat([runs.values(cut[None]) for cut in cuts])
    assert torch.allclose(together, alone, atol=1e-10)


@pytest.mark.parametrize("variant", FULL)
def test_replacing_by_zero_and_by_the_mean(variant: str) -> None:
    """Cutting every edge leaves nothing of the inputs: all examples give the same."""
    model = build(variant, "tokens", 2)
    pair = pair_for(model, 4)
    graph = Graph(model)
    for kind in ("zero", "mean"):
        sent = send(model, graph, pair.clean).replaced(kind)  # type: ignore[arg-type] # literals
        runs = EdgeRuns(model, pair.corrupt, sent, graph)
        cuts = torch.stack([torch.ones(len(graph)).bool(), torch.zeros(len(graph)).bool()])
        found = runs.logits(cuts)[:, :, -1, 0]
        assert torch.allclose(found[0], found[0, :1].expand(4), atol=1e-10)
        assert not torch.allclose(found[1], found[1, :1].expand(4))


def test_mistakes_are_explained() -> None:
    model = build("value", "tokens", 2)
    graph, pair = Graph(model), pair_for(model)
    with pytest.raises(UnknownNameError, match=r"unknown edge 'L0H0.v > L1H1.v \(stream\)': did you mean"):
        graph.find(["L0H0.v > L1H1.v (stream)"])
    with pytest.raises(ValueError, match="max_memory = 10 bytes is less than one copy of the pair needs"):
        EdgeRuns(model, pair.corrupt, send(model, graph, pair.clean), graph, 10)
    assert one_each([2], 4).tolist() == [[False, False, True, False]]
