"""EAP and EAP-IG with stream edges: their sums, what they equal where everything is linear, and what they estimate."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis import Pair, Site, attribute, attribute_edges
from circuits import HookedStreamTransformer, Stream
from circuits.config.gains import SigmoidGain
from circuits.config.topologies import First
from tests.analysis.test_edges import pair_for
from tests.handmade import Handmade, induction_model, stream_model
from tests.helpers import ALL, OF_X0, build, made, model_of, token_config, twin, vector_config

KINDS = [("vectors", 2), ("tokens", 3)]


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", ALL)
def test_outgoing_edges_add_up_to_the_node(variant: str, kind: str, layers: int) -> None:
    model = build(variant, kind, layers)
    found = attribute_edges(model, pair_for(model), check=0)
    assert found.sum_error < 1e-10
    assert found.scores.abs().max() > 1e-9


def test_the_integrated_gradient_is_complete_and_the_plain_one_is_not() -> None:
    model = build("value", "tokens", 3)
    pair = pair_for(model)
    errors = [abs(attribute_edges(model, pair, method="EAP-IG", steps=s, check=0).total - 1) for s in (2, 8, 64)]
    assert errors[2] < 0.01
    assert errors[2] < errors[1] < errors[0]
    assert abs(attribute_edges(model, pair, check=0).total - 1) > 0.1


def nearly_linear(variant: str) -> tuple[HookedStreamTransformer, Pair]:
    """No norm, no MLP, a linear readout, and attention that hardly depends on what it reads."""
    config = token_config(variant, 3, mlp=None, normalization=None)
    model = model_of(config)
    with torch.no_grad():
        for block in model.layers:
            for name in ("W_Q", "W_K", "b_Q", "b_K"):
                getattr(block.attn, name).mul_(1e-5)
    return model, pair_for(model)


@pytest.mark.parametrize("variant", ["classic", "value", "cumulative", "svformer", "resformer-dense", "lime"])
def test_on_a_linear_model_an_estimate_is_the_exact_patch(variant: str) -> None:
    model, pair = nearly_linear(variant)
    found = attribute_edges(model, pair, check=10_000)
    assert found.agreement.checked == len(found.graph)
    assert found.agreement.worst_error < 1e-6
    assert found.total == pytest.approx(1, abs=1e-6)
    stream = [e for e, s in zip(found.graph.edges, found.scores, strict=True) if e.route == "stream" and abs(s) > 1e-6]
    assert bool(stream) is (variant != "classic")


WITH_TABLES = ["nanochat", "bank-of-values", OF_X0]


@pytest.mark.parametrize("make", ["llama", "nanochat"])
@pytest.mark.parametrize("variant", ["value", "x-transformers", *WITH_TABLES])
def test_the_whole_input_is_what_is_embedded_and_every_row_of_a_table(make: str, variant: str) -> None:
    """The sum over edges out of it is the gradient's word on the change of the inputs, which sites tell as well."""
    model = made(make, variant)
    pair = pair_for(model)
    found = attribute_edges(model, pair, check=0)
    of_sites = attribute(model, pair, [Site(0, "state")], check=0)
    assert found.total == pytest.approx(of_sites.total, abs=1e-9)
    embedded_alone = found.node_scores()["input"] / float(found.gap.mean())
    assert (embedded_alone == pytest.approx(of_sites.total, abs=1e-6)) is (variant not in WITH_TABLES)


def test_on_another_model_it_is_not_and_the_result_says_so() -> None:
    model = build("value", "tokens", 3)
    found = attribute_edges(model, pair_for(model), check=64)
    assert found.agreement.checked == 64
    assert found.agreement.worst_error > 0.01
    assert 0.5 < found.agreement.rank_correlation < 1


def small_step(pair: Pair, size: float) -> Pair:
    return Pair(pair.clean, pair.clean + size * (pair.corrupt - pair.clean), pair.answers, pair.wrong, {})


@pytest.mark.parametrize("variant", ["value", "value-stop", "value-gradient-only", "key", "query", "x-transformers"])
def test_to_first_order_every_edge_is_right_whatever_the_gate_hides_from_training(variant: str) -> None:
    model = build(variant, "vectors", 3)
    found = attribute_edges(model, small_step(pair_for(model), 1e-5), check=10_000)
    assert found.agreement.worst_error < 1e-2
    stream = torch.tensor([edge.route == "stream" for edge in found.graph.edges])
    assert bool((found.scores[stream].abs() > 1e-12).any()) is (variant != "value-gradient-only")
    assert {s.gate for s in model.config.streams} == {
        {"value-stop": "stop", "value-gradient-only": "gradient-only"}.get(variant, "full")
    }, "the gates are as they were"


def test_to_first_order_what_a_gain_alone_reads_is_right() -> None:
    streams = (Stream("v", topology=First(), gain=SigmoidGain(2.0, 12, own=0.0)),)
    model = model_of(vector_config("classic", 3, n_heads=2, d_head=6, streams=streams))
    with torch.no_grad():
        for block in model.layers[1:]:
            block.attn.mix["v"].get_parameter("W_gain").mul_(60)
    found = attribute_edges(model, small_step(pair_for(model), 1e-5), check=10_000)
    assert found.agreement.worst_error < 1e-2
    read = [i for i, edge in enumerate(found.graph.edges) if edge.target.name in ("L1H0.v", "L2H1.v")]
    assert found.effects[[i for i in read if found.graph.edges[i].route == "residual"]].abs().max() > 1e-3


def test_what_training_multiplies_gradients_by_changes_no_estimate() -> None:
    model = build("value", "vectors", 3)
    (stream,) = model.config.streams
    scaled = twin(model, streams=(dataclasses.replace(stream, gradient=0.3),))
    one, other = (attribute_edges(m, pair_for(model)).scores for m in (model, scaled))
    assert torch.equal(one, other)
    assert scaled.config.streams[0].gradient == 0.3, "it is as it was"


@pytest.mark.parametrize("make", [induction_model, stream_model])
@pytest.mark.parametrize("method", ["EAP-IG", "exact"])
def test_hand_weighted_circuits_are_found_and_nothing_else(make: Any, method: Any) -> None:
    made: Handmade = make()
    for name, pair in made.pairs.items():
        frame = attribute_edges(made.model, pair, method=method, steps=50, check=0).to_frame()
        assert set(frame[frame.effect.abs() > 0.05].edge) == made.carries[name], name
        assert frame[~frame.edge.isin(made.carries[name])].effect.abs().max() < 1e-3, name
        assert frame[frame.edge.isin(made.carries[name])].effect.to_numpy() == pytest.approx(1, abs=1e-3), name


def test_frames_say_by_which_convention() -> None:
    model = build("value", "vectors", 2)
    found = attribute_edges(model, pair_for(model, 4), direction="noise", check=4)
    frame = found.to_frame()
    assert {"edge", "source", "target", "route", "score", "effect", "stderr"} <= set(frame.columns)
    assert set(frame.direction) == {"noise"}
    assert set(frame.method) == {"EAP"}
    assert set(frame.checked) == {4}
    assert frame.effect.to_numpy() == pytest.approx(frame.score.to_numpy() / float(found.gap.mean()))
    nodes = found.node_scores()
    assert nodes["input"] == pytest.approx(frame[frame.source == "input"].score.sum())
    assert len(found.figure().data) > 1


def test_a_memory_bound_changes_nothing() -> None:
    model = build("value", "tokens", 3)
    pair = pair_for(model, 5)
    whole = attribute_edges(model, pair, check=0)
    with pytest.raises(ValueError, match="is less than one copy of the pair needs") as refused:
        attribute_edges(model, pair, check=0, max_memory=1)
    one = int(str(refused.value).split("about ")[1].split(";")[0].replace(",", ""))
    tight = attribute_edges(model, pair, check=0, max_memory=2 * one)
    assert torch.allclose(tight.values, whole.values, atol=1e-12)


def test_mistakes_are_explained() -> None:
    model = build("value")
    pair = pair_for(model)

    def nan(logits: Tensor, pair: Pair) -> Tensor:
        return logits[:, -1, 0] * float("nan")

    cases: list[tuple[Any, str]] = [
        (lambda: attribute_edges(model, pair, "accuracy"), "metric 'accuracy' has no gradient"),
        (lambda: attribute_edges(model, pair, "logit_diff"), "did you mean 'logit_difference'"),
        (lambda: attribute_edges(model, pair, nan), "returned NaN or infinity for 3 example"),
        (lambda: attribute_edges(model, pair, lambda logits, pair: logits.sum()), "must return one number an example"),
        (lambda: attribute_edges(model, pair, method="EAP-IG", steps=0), "EAP-IG needs at least one input"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="evaluation mode"):
        attribute_edges(model.train(), pair)
