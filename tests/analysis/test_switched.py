"""Edges changed one by one: what a gate does to all connections is what it does to every edge of the stream."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch.nn import functional as F

from analysis import Pair, ablate_edges, attribute_edges
from analysis.edges.cut_runs import Change
from analysis.edges.graph import Graph
from analysis.edges.switched import EdgeSwitch
from circuits.config.streams import Gate
from tests.helpers import FULL, build, random_pair

STREAMED = [variant for variant in FULL if variant != "classic"]
GATES: dict[Change, Gate] = {"stop": "stop", "gradient-only": "gradient-only", "cut": "off"}


def gradient(model: Any, pair: Pair) -> torch.Tensor:
    loss = F.cross_entropy(model(pair.clean)[:, -1].double(), pair.answers)
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten().double() for part in parts])


@pytest.mark.parametrize("variant", STREAMED)
def test_every_stream_edge_changed_is_the_gate(variant: str) -> None:
    model = build(variant, "tokens", 3)
    pair = random_pair(model)
    switch = EdgeSwitch(model, pair, replacement="zero")
    streams = [edge.name for edge in switch.graph.edges if edge.route == "stream"]
    whole = gradient(model, pair)
    for change, gate in GATES.items():
        with model.regated({"full": gate}):
            alone = gradient(model, pair)
            loss = F.cross_entropy(model(pair.clean)[:, -1].double(), pair.answers)
        found = switch.changed(dict.fromkeys(streams, change))
        assert found.loss == pytest.approx(float(loss.detach()), abs=1e-9)
        assert found.gradient_cosine == pytest.approx(float(F.cosine_similarity(alone, whole, dim=0)), abs=1e-9)
        assert found.gradient_norm == pytest.approx(float(alone.norm() / whole.norm()), abs=1e-9)


def test_nothing_changed_is_the_model_and_one_edge_is_not_all() -> None:
    model = build("value", "tokens", 3)
    switch = EdgeSwitch(model, random_pair(model))
    same = switch.changed({})
    assert (same.effect, same.gradient_cosine, same.gradient_norm) == pytest.approx((0, 1, 1), abs=1e-9)
    streams = [edge.name for edge in switch.graph.edges if edge.route == "stream"]
    one, every = (switch.changed(dict.fromkeys(names, "cut")) for names in (streams[:1], streams))
    assert abs(one.metric - every.metric) > 1e-6 < abs(one.metric - same.metric)


def test_what_a_stop_keeps_is_the_value_and_what_gradient_only_loses() -> None:
    model = build("cumulative", "tokens", 3)
    switch = EdgeSwitch(model, random_pair(model))
    for edge in ("L0H1.v > L2H1.v (stream)", "L0H0 > L1H2.k (residual)", "L0H1.v > L0H1.v (own)"):
        same, cut = switch.changed({}), switch.changed({edge: "cut"})
        stop, only = switch.changed({edge: "stop"}), switch.changed({edge: "gradient-only"})
        assert stop.metric == pytest.approx(same.metric, abs=1e-12)
        assert stop.gradient_cosine < 1 - 1e-9
        assert only.metric == pytest.approx(cut.metric, abs=1e-12)
        assert only.metric != pytest.approx(same.metric, abs=1e-9)
        assert only.gradient_cosine != pytest.approx(cut.gradient_cosine, abs=1e-9)


@pytest.mark.parametrize("variant", ["value", "lime", "nanochat", "modded-nanogpt"])
def test_a_cut_edge_is_what_patching_and_ablating_it_give(variant: str) -> None:
    model = build(variant, "tokens", 3)
    pair = random_pair(model)
    exact = attribute_edges(model, pair, method="exact", direction="noise")
    names = [edge.name for edge in Graph(model).edges][::7]
    ablated = ablate_edges(model, pair, names, "other run", metric="logit_difference").to_frame().set_index("part")
    switch = EdgeSwitch(model, pair)
    for name in names:
        found = switch.changed({name: "cut"})
        assert found.effect == pytest.approx(float(exact.effects[exact.graph.numbers[name]]), abs=1e-9)
        assert found.metric == pytest.approx(ablated.metric_ablated[name], abs=1e-9)
        assert found.loss == pytest.approx(ablated.loss_ablated[name], abs=1e-9)
        assert found.accuracy == pytest.approx(ablated.accuracy_ablated[name])
    assert len(set(ablated.metric_ablated.round(9))) > 2, "edges differ"


def test_what_cannot_be_changed_is_said() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    switch = EdgeSwitch(model, pair)
    with pytest.raises(ValueError, match=r"unknown edge 'L0H0 > L1H9.v \(residual\)'"):
        switch.changed({"L0H0 > L1H9.v (residual)": "cut"})
    with pytest.raises(ValueError, match="unknown change 'stopp': did you mean 'stop'"):
        switch.changed({"L0H0 > L1H1.v (residual)": "stopp"})
    with torch.no_grad(), pytest.raises(ValueError, match=r"leave torch.no_grad\(\)"):
        EdgeSwitch(model, pair)
    with pytest.raises(ValueError, match="has a gradient, which is compared"):
        EdgeSwitch(build("value", "tokens", 2).requires_grad_(False), pair)
    with pytest.raises(ValueError, match="clean and corrupt inputs are the same everywhere"):
        ablate_edges(model, Pair.one_sided(pair.clean, pair.answers), method="other run")
    assert set(get_args(Change)) == set(GATES)
