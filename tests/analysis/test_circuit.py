"""Circuits: found, judged, drawn, followed; on models whose circuit is known and against brute force."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from analysis import Circuit, Graph, attribute_edges, find_circuit, follow, judge
from analysis.attribution.of_edges import EdgeScores
from analysis.circuit.discovery import EmptyCircuitError
from analysis.circuit.quality import Quality
from analysis.edges.connectivity import connected
from analysis.edges.cut_runs import EdgeRuns, numbered, one_each
from analysis.edges.sent import send
from analysis.metrics import logit_difference
from circuits import HookedStreamTransformer, Stream, UnknownNameError, variants
from circuits.common.palette import ROUTES
from circuits.config.gains import ChannelGain, SigmoidGain, TokenGain
from circuits.config.streams import HeadMixing
from circuits.config.topologies import Cumulative, First
from figures.models.circuit_over_checkpoints import circuit_curves
from figures.models.edges import MOST, circuit_drawing, edge_drawing
from figures.theme import faded
from tests.analysis.test_edges import pair_for
from tests.handmade import Handmade, induction_model, stream_model
from tests.helpers import FULL, build, model_of, token_config

MAKERS: list[Callable[[], Handmade]] = [induction_model, stream_model]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("replacement", ["other run", "mean", "zero"])
def test_the_built_in_circuit_is_whole(make: Callable[[], Handmade], replacement: Any) -> None:
    made = make()
    circuit = Circuit.of(Graph(made.model), made.edges)
    assert circuit.heads == set(made.heads.values())
    for pair in made.pairs.values():
        quality = judge(made.model, pair, circuit, replacement=replacement)
        assert quality.faithfulness == pytest.approx(1, abs=1e-6)
        assert quality.incompleteness == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_every_edge_of_the_built_in_circuit_is_needed_and_no_other(make: Callable[[], Handmade]) -> None:
    made = make()
    whole = Circuit.of(Graph(made.model), made.edges)
    assert judge(made.model, made.pair, whole, replacement="zero").minimality > 0.4
    more = Circuit.of(Graph(made.model), [*made.edges, "input > L0H2.v (residual)", "L0H2 > logits (residual)"])
    quality = judge(made.model, made.pair, more, replacement="zero")
    assert quality.faithfulness == pytest.approx(1, abs=1e-6)
    idle = quality.edges[~quality.edges.edge.isin(made.edges)]
    assert idle.minimality.max() == pytest.approx(0, abs=1e-9)
    for missing in made.edges:
        part = Circuit.of(Graph(made.model), made.edges - {missing})
        assert judge(made.model, made.pair, part, replacement="zero", subsets=0).faithfulness < 0.6, missing


def test_without_its_stream_edge_the_stream_circuit_does_nothing() -> None:
    made = stream_model()
    (stream,) = [name for name in made.edges if name.endswith("(stream)")]
    quality = judge(made.model, made.pair, Circuit.of(Graph(made.model), made.edges - {stream}))
    assert quality.faithfulness == pytest.approx(0, abs=1e-6)


@cache
def exactly_scored(make: Callable[[], Handmade]) -> tuple[Handmade, dict[str, EdgeScores]]:
    """A model with the effects of its edges on every pair, each by a run of its own; the rules are of the same."""
    made = make()
    return made, {name: attribute_edges(made.model, pair, method="exact") for name, pair in made.pairs.items()}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("rule", ["top", "greedy", "threshold"])
def test_rules_find_what_carries_the_difference(make: Callable[[], Handmade], rule: Any) -> None:
    made, scores = exactly_scored(make)
    for name, pair in made.pairs.items():
        wanted = made.carries[name]
        options: Any = {"threshold": 0.5} if rule == "threshold" else {"size": len(wanted)}
        found = find_circuit(scores[name], rule, **options)
        assert set(found.names) == wanted
        assert judge(made.model, pair, found).faithfulness == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("variant", FULL)
def test_all_edges_are_faithful_and_none_are_not(variant: str) -> None:
    model = build(variant, "tokens", 2)
    pair = pair_for(model, 4)
    graph = Graph(model)
    quality = judge(model, pair, Circuit(graph, tuple(range(len(graph)))), subsets=0)
    assert quality.faithfulness == pytest.approx(1)
    assert quality.empty == pytest.approx(0, abs=1e-9)
    assert quality.low <= 1 + 1e-12
    assert quality.high >= 1 - 1e-12


def test_numbers_are_what_their_definitions_say() -> None:
    """Completeness and minimality by hand, one run at a time."""
    model = build("value", "vectors", 2)
    pair = pair_for(model, 4)
    graph = Graph(model)
    names = [e.name for e in graph.edges][::2]
    circuit = Circuit.of(graph, names)
    quality = judge(model, pair, circuit, subsets=0)
    runs = EdgeRuns(model, pair.clean, send(model, graph, pair.corrupt), graph)
    clean, corrupt = (logit_difference(model(x), pair).detach() for x in (pair.clean, pair.corrupt))

    def share(cut: torch.Tensor) -> float:
        found = logit_difference(runs.logits(cut[None])[0], pair)
        return float((found - corrupt).mean() / (clean - corrupt).mean())

    outside = ~circuit.mask
    assert quality.faithfulness == pytest.approx(share(outside))
    assert quality.incompleteness == pytest.approx(abs(share(outside) - 1))
    for i, edge in zip(circuit.edges, quality.edges.to_dict("records"), strict=True):
        cut = outside.clone()
        cut[i] = True
        assert edge["minimality"] == pytest.approx(abs(share(cut) - share(outside))), edge["edge"]


def test_edges_on_no_way_from_input_to_logits_are_left_out() -> None:
    graph = Graph(build("value", "tokens", 2))
    through_stream = ["input > L0H1.v (residual)", "L0H1.v > L1H1.v (stream)", "L1H1 > logits (residual)"]
    loose = ["L0H1.v > L0H1.v (own)", "L0H2 > MLP1 (residual)"]
    found = connected(graph, graph.find([*through_stream, *loose]))
    assert {graph.edges[i].name for i in found} == set(through_stream)
    cut = connected(graph, graph.find([through_stream[0], through_stream[2], *loose]))
    assert cut == [], "without the stream's edge nothing leads through"
    with_own = [*through_stream, loose[0], "L0H1 > logits (residual)"]
    assert len(connected(graph, graph.find(with_own))) == 5


GAINS_OF_INPUT: dict[str, tuple[Stream, ...]] = {
    "per token": (Stream("v", gain=TokenGain()),),
    "per channel, into keys": (Stream("k", source="v", topology=First(), gain=ChannelGain(3)),),
    "running sum": (Stream("v", topology=Cumulative(), gain=TokenGain()),),
    "nothing of its own": (Stream("v", topology=First(), gain=SigmoidGain(2.0, 8, own=0.0)),),
    "running sum over heads": (Stream("q", topology=Cumulative(), gain=SigmoidGain(2.0, 9), transform=HeadMixing()),),
}
"""Streams of which what a layer reads says how much comes in."""


def with_streams(variant: str) -> HookedStreamTransformer:
    """A model of a variant or of one of the streams above, with mixing parameters away from their start."""
    streams = GAINS_OF_INPUT.get(variant) or variants.streams(variant, 3)
    model = model_of(token_config("classic", 3, mlp=None, n_heads=2, d_head=6, streams=streams))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mix." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator).double())
    return model


@pytest.mark.parametrize("variant", [*FULL, *GAINS_OF_INPUT])
def test_edges_that_are_on_no_way_do_nothing(variant: str) -> None:
    """What no chosen edge leads to sends what it sends in the other run, so that nothing changes if its edges go."""
    model = with_streams(variant)
    pair, graph = pair_for(model, 3), Graph(model)
    runs = EdgeRuns(model, pair.clean, send(model, graph, pair.corrupt), graph)
    generator, pruned = torch.Generator().manual_seed(1), 0
    for density in (0.1, 0.2, 0.3, 0.5):
        chosen = torch.rand(len(graph), generator=generator) < density
        # The last readers see much of it, and no other edge leads to some of the rest.
        chosen |= torch.tensor([edge.target.name == "logits" for edge in graph.edges])
        kept = numbered(connected(graph, chosen.nonzero()[:, 0].tolist()), len(graph))
        pruned += int((chosen & ~kept).sum())
        before, after = runs.logits(torch.stack([~chosen, ~kept]))
        assert torch.allclose(before, after, atol=1e-10)
    assert pruned > 0
    each = torch.stack([~kept | one for one in one_each(kept.nonzero()[:, 0].tolist(), len(graph))])
    moved = (runs.logits(each) - after).flatten(1).abs().amax(1) > 1e-9
    assert moved.double().mean() > 0.5, "the negation: of those that are kept most do something"


@pytest.mark.parametrize("variant", ["value", *GAINS_OF_INPUT])
def test_a_gain_that_depends_on_the_input_is_a_way_of_its_own(variant: str) -> None:
    """Without the edges out of a layer's own projections, what it reads for them still says how much comes in."""
    model = with_streams(variant)
    pair, graph = pair_for(model, 3), Graph(model)
    carrier = model.config.streams[0].carrier
    own = {edge.source for edge in graph.edges if edge.source.kind == "projection" and edge.source.layer == 1}
    reads = [f"{source} > L1H1.{carrier} (residual)" for source in ("input", "L0H0", "L0H1")]
    left = [i for i, edge in enumerate(graph.edges) if edge.source not in own]
    kept = connected(graph, left)
    through = variant != "value"
    assert ({*graph.find(reads)} <= {*kept}) is through
    runs = EdgeRuns(model, pair.clean, send(model, graph, pair.corrupt), graph)
    without = numbered([i for i in kept if i not in graph.find(reads)], len(graph))
    with_all, less = runs.logits(torch.stack([~numbered(left, len(graph)), ~without]))
    assert torch.allclose(with_all, less, atol=1e-10) is not through
    scores = attribute_edges(model, pair, check=0)
    sizes = torch.ones_like(scores.values)
    sizes[graph.find(reads)] = 3.0
    sizes[[i for i in range(len(graph)) if i not in left]] = 0.0
    grown = find_circuit(dataclasses.replace(scores, values=sizes), "greedy", len(left) - 20)
    assert ({*graph.find(reads)} <= {*grown.edges}) is through


def test_growth_is_connected_at_every_size() -> None:
    model = build("cumulative", "tokens", 3)
    scores = attribute_edges(model, pair_for(model), check=0)
    for size in (1, 5, 20):
        grown = find_circuit(scores, "greedy", size) if size > 1 else None
        top = find_circuit(scores, "top", 60)
        assert len(top) <= 60
        if grown is not None:
            assert len(grown) <= size
    whole = find_circuit(scores, "greedy", len(scores.graph))
    assert len(whole) == len(scores.graph)


def found_by(scores: EdgeScores) -> Circuit:
    return find_circuit(scores, "threshold", threshold=0.1)


def test_following_over_models() -> None:
    made = stream_model()
    circuit = Circuit.of(Graph(made.model), made.carries["copied"])
    broken = stream_model().model
    broken.set_gate("off")
    frame = follow([(0, broken), (10, made.model)], made.pair, circuit, found_by).to_frame()
    assert frame.step.tolist() == [0, 10]
    assert frame.gap.iloc[0] == pytest.approx(0, abs=1e-9)
    assert frame.iloc[0][["faithfulness", "overlap"]].isna().all(), "where nothing is told apart, nothing is faithful"
    assert frame.faithfulness.iloc[1] == pytest.approx(1, abs=1e-6)
    assert frame.overlap.iloc[1] == 1
    assert len(traces(circuit_curves(frame.assign(run="r", variant="value", seed=0)))) == 4


def traces(figure: go.Figure) -> list[Any]:
    return list(figure.data)


def test_drawings_tell_the_routes_apart() -> None:
    made = stream_model()
    quality: Quality = judge(made.model, made.pair, Circuit.of(Graph(made.model), made.edges))
    scores = attribute_edges(made.model, made.pair)
    frame = scores.to_frame().merge(quality.edges[["edge", "minimality"]], on="edge", how="left")
    frame = frame.assign(kept=frame.edge.isin(made.edges), faithfulness=1.0, low=1.0, high=1.0, replacement="zero")
    figure: Any = circuit_drawing(frame)
    lines = [trace for trace in traces(figure) if trace.mode == "lines+markers"]
    assert len(lines) == len(made.edges)
    assert {trace.legendgroup for trace in lines} == {"residual", "stream", "own"}
    for line in lines:
        assert line.line.color.startswith(faded(ROUTES[line.legendgroup], 1.0)[:-4]), "a route has its colour"
        effect = frame.effect[frame.edge == line.name].item()
        assert line.marker.symbol[-1] == ("arrow" if effect >= 0 else "line-ew"), "an edge has a direction"
        assert f"{line.name}: {effect:+.3f}" in line.hovertemplate
    streams = int((frame[frame.kept].route == "stream").sum())
    said = f"{len(made.edges)} of {len(frame)} edges keep"
    assert figure.layout.meta["title"].startswith(f"{len(made.edges)} edges keep 1.00")
    assert f"; {streams} go" in figure.layout.meta["title"]
    assert quality.figure().layout.meta["title"].startswith(said)
    none: Any = circuit_drawing(frame.assign(kept=frame.kept & (frame.route != "stream")))
    assert none.layout.meta["title"].endswith("of the difference; none goes through a stream")
    own = [trace for trace in traces(quality.figure()) if trace.mode == "lines+markers"]
    assert len(own) == len(made.edges), "a quality draws itself"
    both = pd.concat([frame.assign(variant=v, run=v, kept=True) for v in ("a", "b")])
    assert len([t for t in traces(edge_drawing(both)) if t.mode == "lines+markers"]) == 2 * min(MOST, len(frame))


def test_mistakes_are_explained() -> None:
    model, other = build("value", "tokens", 2), build("classic", "tokens", 2)
    pair = pair_for(model)
    scores = attribute_edges(model, pair, check=0)
    blind: Any = lambda logits, pair: logits[:, -1, 0] * 0  # noqa: E731 # as short as a metric can be
    circuit = find_circuit(scores, "greedy", 20)
    cases: list[tuple[Any, str]] = [
        (lambda: find_circuit(scores, "greedy"), "size must be a whole number of at least 1, got None"),
        (lambda: find_circuit(scores, "top", 10**6), "size = 1000000: from 1 to the graph's"),
        (lambda: find_circuit(scores, "threshold"), "threshold must be a number above 0, got None"),
        (lambda: judge(other, pair, circuit), "the circuit is of a graph with .* edges, this model's has"),
        (lambda: judge(model, pair, circuit, blind), "clean and corrupt <lambda> are equal on average"),
        (lambda: judge(model, pair, Circuit(Graph(model), ())), "the circuit has no edges"),
        (lambda: judge(model.train(), pair, circuit), "evaluation mode"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(EmptyCircuitError, match="none is on a way from the input to the logits; take more"):
        find_circuit(scores, "threshold", threshold=1e6)
    with pytest.raises(UnknownNameError, match="unknown edge"):
        Circuit.of(Graph(model), ["L0H0"])
