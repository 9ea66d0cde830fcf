"""Copying scores against runs of the model in which every layer sees nothing but one embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis.heads.copying import copy_score, eigenvalue_copying
from circuits import HookedStreamTransformer, Stream
from circuits.config.parts import ReluStack
from circuits.config.streams import Gate
from circuits.config.topologies import Dense
from tests.handmade import VOCAB, Handmade, induction_model, stream_model
from tests.helpers import LINEAR, build, model_of, token_config


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def items(model: HookedStreamTransformer, n: int = 19) -> Tensor:
    """Tokens, or vectors without a position."""
    if model.config.positions == "learned":
        return torch.arange(n)
    vectors = torch.randn(n, model.config.d_model, generator=torch.Generator().manual_seed(1)).double()
    vectors[:, : model.config.n_ctx] = 0
    return vectors


def outputs(model: HookedStreamTransformer, inputs: Tensor, gate: Gate | None = None) -> list[Tensor]:
    """What every head writes (item head d_model), layer by layer, if all layers read the embedding alone.

    A single position attends to itself; with everything else that is written to the residual stream set to zero, the
    output of a head is what its attention uses, through W_O.
    """

    def zero(value: Tensor, **_: Any) -> Tensor:
        return torch.zeros_like(value)

    silenced = [n for n in model.hook_dict if n.endswith(("attn_out", "mlp_out")) or n == "hook_pos_embed"]
    hooks: list[Any] = [(name, zero) for name in silenced]

    def look() -> list[Tensor]:
        with model.hooks(fwd_hooks=hooks):
            _, cache = model.run_with_cache(inputs[:, None])
        layers = range(model.config.n_layers)
        return [torch.einsum("nhd,hdm->nhm", cache["z", layer][:, 0], model.layers[layer].attn.W_O) for layer in layers]

    if gate is None:
        return look()
    with model.gated(gate, "v"):
        return look()


def share(model: HookedStreamTransformer, written: Tensor, answers: Tensor, top_k: int) -> list[float]:
    """Of items whose answer fewer than ``top_k`` other logits reach (a ReLU stack may leave several equal)."""
    logits = model.read_out(written)
    own = logits[torch.arange(len(answers)), :, answers]
    others = torch.stack([logits[..., i] for i in range(logits.shape[-1])])
    reached = (others >= own).sum(0) - 1
    return (reached < top_k).double().mean(0).tolist()


@pytest.mark.parametrize(("variant", "kind"), list(product(LINEAR, ["vectors", "tokens"])))
def test_copy_scores_are_those_of_single_embeddings_run_through_the_model(variant: str, kind: str) -> None:
    model = build(variant, kind, 3)
    inputs = items(model)
    answers = torch.arange(19) % model.W_U.shape[1]
    scored = {route: copy_score(model, inputs, answers, route, top_k=3).to_frame() for route in ("own", "mixed")}  # type: ignore[arg-type] # literals
    whole = outputs(model, inputs)
    for layer, written in enumerate(whole):
        found = scored["mixed"][scored["mixed"].layer == layer].value.tolist()
        assert found == pytest.approx(share(model, written, answers, 3))
    if model.config.stream_into("v"):
        carried = copy_score(model, inputs, answers, "stream", top_k=3).to_frame()
        without = outputs(model, inputs, "off")
        readers = [layer for layer, block in enumerate(model.layers) if "v" in block.attn.mix]
        assert sorted(carried.layer.unique()) == readers
        for layer in readers:
            found = carried[carried.layer == layer].value.tolist()
            assert found == pytest.approx(share(model, whole[layer] - without[layer], answers, 3))
    else:
        assert scored["own"].value.equals(scored["mixed"].value)


@pytest.mark.parametrize("weights", ["own", "untied", "initial"])
@pytest.mark.parametrize("normalization", ["LN", "RMSPre"])
def test_weights_that_a_stream_has_of_its_own_read_the_normalised_embedding_too(
    weights: Any, normalization: Any
) -> None:
    streams = (Stream("v", topology=Dense(), weights=weights),)
    model = model_of(token_config("classic", 3, normalization=normalization, streams=streams))
    for block in model.layers:
        block.attn.W_V.copy_(block.attn.W_V.roll(1, 1))
    inputs, whole = items(model), outputs(model, items(model))
    without = outputs(model, inputs, "off")
    for route, parts in (("mixed", whole), ("stream", [a - b for a, b in zip(whole, without, strict=True)])):
        scored = copy_score(model, inputs, route=route, top_k=4).to_frame()  # type: ignore[arg-type] # literals
        for layer in scored.layer.unique():
            found = scored[scored.layer == layer].value.tolist()
            assert found == pytest.approx(share(model, parts[layer], inputs, 4))
    for of, same in ((model, True), (model_of(token_config("classic", 3, normalization=None, streams=streams)), False)):
        before = copy_score(of, inputs, top_k=4).to_frame()
        of.get_parameter("embed.W_E").mul_(7)
        assert copy_score(of, inputs, top_k=4).to_frame().value.equals(before.value) is same, "a norm hides the scale"


@pytest.mark.parametrize("variant", LINEAR)
def test_eigenvalue_scores_are_those_of_the_whole_matrix(variant: str) -> None:
    model = build(variant, "tokens", 2)
    frame = eigenvalue_copying(model, "own").to_frame().set_index(["layer", "head"]).value
    for (layer, head), value in frame.items():  # type: ignore[misc] # the index holds pairs
        attn = model.layers[layer].attn
        eigenvalues = torch.linalg.eigvals(model.W_E @ attn.W_V[head] @ attn.W_O[head] @ model.W_U)
        assert value == pytest.approx(float(eigenvalues.sum().real / eigenvalues.abs().sum()), abs=1e-6)


def test_the_streams_eigenvalues_are_those_of_the_source_layers_values() -> None:
    model = build("value", "tokens", 3)
    routes = {
        r: eigenvalue_copying(model, r).to_frame().set_index(["layer", "head"]).value
        for r in ("own", "stream", "mixed")
    }  # type: ignore[arg-type] # literals
    assert sorted(routes["stream"].index.unique("layer")) == [1, 2]
    for layer, head in product((1, 2), range(4)):
        before, here = model.layers[layer - 1].attn.W_V[head], model.layers[layer].attn
        for route, W_V in (("stream", before), ("mixed", before + here.W_V[head]), ("own", here.W_V[head])):
            eigenvalues = torch.linalg.eigvals(model.W_E @ W_V @ here.W_O[head] @ model.W_U)
            expected = float(eigenvalues.sum().real / eigenvalues.abs().sum())
            assert routes[route][layer, head] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gate", ["off", "gradient-only", "stop"])
def test_what_a_gate_lets_through_forward_is_what_is_copied(gate: Gate) -> None:
    model = build("cumulative", "tokens", 3)
    own, full = eigenvalue_copying(model, "own").to_frame().value, eigenvalue_copying(model).to_frame().value
    with model.gated(gate):
        mixed = eigenvalue_copying(model).to_frame().value
    assert mixed.equals(full if gate == "stop" else own)
    assert not own.equals(full)


def test_a_head_that_copies_has_score_1_and_one_that_exchanges_tokens_less() -> None:
    made = induction_model()
    layer, head = made.heads["induction"]
    W_V = made.model.layers[layer].attn.W_V
    W_V[head] = -W_V[head]
    assert eigenvalue_copying(made.model).to_frame().value.min() == pytest.approx(-1)
    W_V[head, :VOCAB] = -W_V[head, :VOCAB].roll(1, 0)  # a cycle: eigenvalues on the unit circle, with sum 0
    assert eigenvalue_copying(made.model).to_frame().value.abs().max() < 1e-9
    assert copy_score(made.model, torch.arange(VOCAB), top_k=1).to_frame().value.max() == 0


@pytest.mark.parametrize("make", [induction_model, stream_model])
def test_only_the_built_in_head_copies_and_by_its_own_route(make: Callable[[], Handmade]) -> None:
    made = make()
    streamed = bool(made.model.config.streams)
    ask = [eigenvalue_copying, partial(copy_score, inputs=torch.arange(VOCAB), top_k=1)]
    for score in ask:
        for route, copies in (("own", not streamed), ("mixed", True), ("stream", streamed)):
            if route == "stream" and not streamed:
                continue
            found = score(made.model, route=route).to_frame().set_index(["layer", "head"]).value
            assert found[made.heads["induction"]] == pytest.approx(float(copies))
            assert (found.drop(made.heads["induction"]) == 0).all()


def test_ties_count_against_a_head() -> None:
    """A head that writes nothing leaves all logits equal; it has not copied the first few tokens."""
    made = induction_model()
    frame = copy_score(made.model, torch.arange(VOCAB), top_k=VOCAB - 1).to_frame()
    assert frame.set_index(["layer", "head"]).value[made.idle].max() == 0


# --- bad input ------------------------------------------------------------------------------------------------------


def test_eigenvalues_need_tokens_and_a_linear_readout() -> None:
    with pytest.raises(ValueError, match="takes vectors or says something else; use copy_score"):
        eigenvalue_copying(build("value")).to_frame()
    with pytest.raises(ValueError, match="a final norm with learned weights stands before W_U"):
        eigenvalue_copying(build("value", "tokens", normalization="LN")).to_frame()
    with pytest.raises(ValueError, match="a ReLU stack stands before W_U"):
        eigenvalue_copying(build("value", "tokens", readout=ReluStack(19))).to_frame()


def test_routes_that_are_not_there_are_refused() -> None:
    tokens = torch.arange(19)
    with pytest.raises(ValueError, match=r"no stream feeds this model's values \(its streams feed \['k'\]\)"):
        copy_score(build("key", "tokens"), tokens, route="stream").to_frame()
    with pytest.raises(ValueError, match=r"depend on the input \(TokenGain\).*use route='own'"):
        copy_score(build("x-transformers", "tokens"), tokens).to_frame()
    assert len(copy_score(build("x-transformers", "tokens"), tokens, route="own").to_frame()) == 8


def test_items_and_answers_must_fit() -> None:
    model = build("value", "tokens")
    with pytest.raises(ValueError, match="vectors are not their own answers; pass answers="):
        copy_score(build("value"), items(build("value"))).to_frame()
    with pytest.raises(ValueError, match="needs items and one answer each: 0 items, 0 answers"):
        copy_score(model, torch.arange(0)).to_frame()
    with pytest.raises(ValueError, match="top_k must lie between 1 and 18, one less than the logits; got 19"):
        copy_score(model, torch.arange(19), top_k=19).to_frame()
    for ask in (eigenvalue_copying, partial(copy_score, inputs=torch.arange(19))):
        with pytest.raises(ValueError, match="evaluation mode"):
            ask(build("value", "tokens").train())
