"""transformer-lens' own tools on our models: one test each of what works unchanged, and of what is refused."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap  # type: ignore[attr-defined] # torch's stubs lag
from transformer_lens import ActivationCache, FactoredMatrix, SVDInterpreter, patching
from transformer_lens.head_detector import detect_head
from transformer_lens.model_protocol import TransformerLensModel
from transformer_lens.tools.analysis import direct_logit_attribution, logit_lens
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    attribution_patch,
    faithfulness,
)
from transformer_lens.tools.analysis.interchange import fit_das, reinitialized
from transformer_lens.utilities.matrix import composition_scores

from circuits import HookedStreamTransformer
from tests.helpers import build, inputs_for, token_config

VARIANTS = ["classic", "value", "resformer-learned"]


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> HookedStreamTransformer:
    return build(request.param, "tokens", 3)


@pytest.fixture
def tokens(model: HookedStreamTransformer) -> Tensor:
    return inputs_for(model.config, 4, seed=1)


@pytest.fixture
def other(model: HookedStreamTransformer) -> Tensor:
    return inputs_for(model.config, 4, seed=2)


def metric(logits: Tensor) -> Tensor:
    return (logits[:, -1, 0] - logits[:, -1, 1]).mean()


def per_example(logits: Tensor) -> Tensor:
    return logits[:, -1, 0] - logits[:, -1, 1]


def test_the_protocol_holds(model: HookedStreamTransformer) -> None:
    assert isinstance(model, TransformerLensModel)


# --- running, caching, hooking --------------------------------------------------------------------------------------


def test_run_with_cache_and_its_filters(model: HookedStreamTransformer, tokens: Tensor) -> None:
    logits, cache = model.run_with_cache(tokens)
    assert isinstance(cache, ActivationCache)
    assert torch.equal(logits, model(tokens))
    result = torch.einsum("bphd,hdm->bpm", cache["z", 1], model.layers[1].attn.W_O) + model.layers[1].attn.b_O
    assert torch.allclose(cache["attn_out", 1], result, atol=1e-12)
    name = "blocks.1.attn.hook_z"
    for names_filter in (name, [name], lambda n: n == name):
        assert list(model.run_with_cache(tokens, names_filter=names_filter)[1].keys()) == [name]


def test_remove_batch_dim(model: HookedStreamTransformer, tokens: Tensor) -> None:
    _, cache = model.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert cache["resid_pre", 0].shape == (7, 24)
    assert cache["v", 0].shape == (7, 4, 6)
    assert not cache.has_batch_dim
    with pytest.raises(AssertionError, match="Cannot remove batch dimension"):
        model.run_with_cache(tokens, remove_batch_dim=True)


def test_hooks_come_and_go(model: HookedStreamTransformer, tokens: Tensor) -> None:
    plain = model(tokens)
    name = "blocks.0.attn.hook_z"
    zeroed = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda t, hook: t * 0)])
    assert not torch.allclose(zeroed, plain)
    assert torch.equal(model(tokens), plain)
    model.add_hook(name, lambda t, hook: t * 0)
    assert list(model.list_hooks()) == [name]
    assert torch.equal(model(tokens), zeroed)
    model.reset_hooks()
    model.add_perma_hook(name, lambda tensor, *, hook: tensor * 0)
    model.reset_hooks()
    assert torch.equal(model(tokens), zeroed)
    model.reset_hooks(including_permanent=True)
    assert torch.equal(model(tokens), plain)
    by_filter = model.run_with_hooks(tokens, fwd_hooks=[(lambda n: n == name, lambda t, hook: t * 0)])
    assert torch.equal(by_filter, zeroed)


def test_caching_gradients(model: HookedStreamTransformer, tokens: Tensor) -> None:
    _, cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    residual = model.input_residual(tokens).detach().requires_grad_()
    model_loss = torch.nn.functional.cross_entropy(
        model(residual, start_at_layer=0)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    model_loss.backward()
    assert residual.grad is not None
    assert torch.allclose(cache["blocks.0.hook_resid_pre_grad"], residual.grad, atol=1e-12)


def test_stop_at_layer(model: HookedStreamTransformer, tokens: Tensor) -> None:
    assert torch.equal(model(tokens, stop_at_layer=1), model.run_with_cache(tokens)[1]["resid_pre", 1])


# --- patching -------------------------------------------------------------------------------------------------------

SINGLE = [name for name in vars(patching) if name.startswith("get_act_patch") and "direct" not in name]


@pytest.mark.parametrize("name", SINGLE)
def test_every_patching_function_runs_and_finds_something(name: str) -> None:
    model = build("value", "tokens", 2)
    tokens, other = inputs_for(model.config, 2, seed=1, length=4), inputs_for(model.config, 2, seed=2, length=4)
    _, cache = model.run_with_cache(tokens)
    with torch.no_grad():
        result = getattr(patching, name)(model, other, cache, metric)
        base = metric(model(other))
    assert torch.isfinite(result).all()
    assert (result - base).abs().max() > 1e-6


def test_per_example_results_and_their_statistics(
    model: HookedStreamTransformer, tokens: Tensor, other: Tensor
) -> None:
    _, cache = model.run_with_cache(tokens)
    with torch.no_grad():
        result = patching.get_act_patch_resid_pre(model, other, cache, per_example, reduce="none", baseline=True)
        clean = per_example(model(tokens))
    assert result.values.shape == (3, 7, 4)
    low, high = result.bootstrap_ci(n_resamples=50)
    assert (low <= result.mean()).all()
    assert (result.mean() <= high).all()
    assert result.permutation_pvalue().shape == (3, 7)
    assert torch.allclose(
        result.normalized(clean.float())[0, -1][tokens[:, :-1].eq(other[:, :-1]).all(1)], torch.ones(0)
    )


def test_direct_path_patching_is_refused_on_a_stream_and_right_on_the_classic_model(
    model: HookedStreamTransformer, tokens: Tensor, other: Tensor
) -> None:
    _, clean = model.run_with_cache(tokens)
    _, corrupt = model.run_with_cache(other)

    def direct() -> Tensor:
        with torch.no_grad():
            return patching.get_act_patch_direct_path(model, other, clean, corrupt, metric, 0, 1, "v", verbose=False)

    if model.config.streams:
        with pytest.raises(ValueError, match=r"miss the others. If you know that, call model.allow_stream_blind_tools"):
            direct()
        model.allow_stream_blind_tools()
    found = direct()
    assert found.shape == (3, 4)
    assert (found[1:] - metric(model(other)).detach()).abs().max() > 1e-6
    assert model.cfg.use_split_qkv_input is False


# --- attribution and circuits ---------------------------------------------------------------------------------------


def test_node_attribution(model: HookedStreamTransformer, tokens: Tensor, other: Tensor) -> None:
    found = attribution_patch(model, tokens, other, lambda logits: per_example(logits).sum())
    kinds = {node.kind for node in found.node_scores}
    assert {"embed", "attn_head_out", "mlp_out"} <= kinds
    assert max(abs(score) for score in found.node_scores.values()) > 1e-6


def test_edge_attribution_and_faithfulness_on_the_classic_model() -> None:
    model = build("classic", "tokens", 2)
    tokens, other = (inputs_for(model.config, 1, seed=s, length=5) for s in (1, 2))
    config = EdgeAttributionConfig(granularity="edge")
    found = attribution_patch(model, tokens, other, lambda logits: per_example(logits).sum(), config)
    everything = list(found.edge_scores)
    whole = faithfulness(model, tokens, other, lambda logits: per_example(logits).sum(), everything)
    nothing = faithfulness(model, tokens, other, lambda logits: per_example(logits).sum(), [])
    assert whole.recovered == pytest.approx(1.0)
    assert nothing.recovered == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("variant", ["classic", "value"])
def test_edge_attribution_is_refused_on_a_stream_until_acknowledged(variant: str) -> None:
    model = build(variant, "tokens", 2)
    tokens, other = (inputs_for(model.config, 1, seed=s, length=5) for s in (1, 2))
    config = EdgeAttributionConfig(granularity="edge")

    def score(logits: Tensor) -> Tensor:
        return per_example(logits).sum()

    if variant == "value":
        with pytest.raises(ValueError, match="draw every edge through the residual stream"):
            attribution_patch(model, tokens, other, score, config)
        model.allow_stream_blind_tools()
    edges = attribution_patch(model, tokens, other, score, config).edge_scores
    # Into layer 0's values, and out of layer 1: with no edge between the layers, nothing gets from input to logits ...
    into = [e for e in edges if e[0].kind == "embed" and e[1].kind == "v_input" and e[1].layer == 0]
    out = [e for e in edges if e[0].kind == "attn_head_out" and e[0].layer == 1 and e[1].kind == "logits"]
    recovered = faithfulness(model, tokens, other, score, [*into, *out]).recovered
    # ... unless there is a route that the graph does not have, which is what the refusal is about.
    assert (abs(recovered) > 1e-3) is (variant == "value")


def test_interchange_at_the_residual_stream(model: HookedStreamTransformer, tokens: Tensor, other: Tensor) -> None:
    def task_logits(inputs: Tensor) -> Tensor:
        return model(inputs)[:, -1, :2]

    positions = torch.full((4,), 6)
    targets = torch.tensor([0, 1, 0, 1])
    fitted = fit_das(
        model.float(),
        "blocks.2.hook_resid_pre",
        tokens,
        other,
        targets,
        task_logits,
        rank=2,
        base_positions=positions,
        source_positions=positions,
        epochs=3,
    )
    assert fitted.basis.shape == (24, 2)
    assert fitted.losses[-1] < fitted.losses[0]


def test_reinitialised_control(model: HookedStreamTransformer, tokens: Tensor) -> None:
    control = reinitialized(model, seed=1)
    assert {n: p.shape for n, p in control.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert not torch.allclose(control(tokens), model(tokens))  # type: ignore[operator] # a module


# --- decompositions and lenses --------------------------------------------------------------------------------------


def test_the_residual_stream_is_the_sum_of_its_parts(model: HookedStreamTransformer, tokens: Tensor) -> None:
    _, cache = model.run_with_cache(tokens)
    final = cache["resid_post", 2]
    assert torch.allclose(cache.decompose_resid(layer=3).sum(0), final, atol=1e-10)
    assert torch.equal(cache.accumulated_resid(layer=3)[-1], final)
    heads = cache.stack_head_results(incl_remainder=True)
    assert heads.shape[0] == 13
    assert torch.allclose(heads.sum(0), final, atol=1e-10)
    whole = cache.get_full_resid_decomposition(expand_neurons=False)
    assert torch.allclose(whole.sum(0), final, atol=1e-10)


def test_neuron_results(model: HookedStreamTransformer, tokens: Tensor) -> None:
    _, cache = model.run_with_cache(tokens)
    neurons = cache.get_neuron_results(1)
    assert torch.allclose(neurons.sum(-2) + model.b_out[1], cache["mlp_out", 1], atol=1e-10)


def test_logit_attribution_adds_up(model: HookedStreamTransformer, tokens: Tensor) -> None:
    logits, cache = model.run_with_cache(tokens)
    answers = torch.tensor([3, 5, 7, 9])
    parts = cache.get_full_resid_decomposition(expand_neurons=False, pos_slice=-1)
    total = cache.logit_attrs(parts, tokens=answers, pos_slice=-1).sum(0)
    assert torch.allclose(total, logits[torch.arange(4), -1, answers], atol=1e-10)
    found = direct_logit_attribution(model, tokens, answers, unit="head")
    assert torch.allclose(found.attribution.sum(0), logits[torch.arange(4), -1, answers], atol=1e-10)


def test_direct_logit_attribution_refuses_a_learned_final_norm_and_a_stack() -> None:
    """The trap: transformer-lens guards only its own bridge; with a learned norm the parts would not add up."""
    learned = build("value", "tokens", normalization="LN")
    with pytest.raises(ValueError, match="needs a linear readout, but a final norm with learned weights stands before"):
        direct_logit_attribution(learned, inputs_for(learned.config), torch.tensor([1, 2, 3]))
    toy = build("value")
    with pytest.raises(ValueError, match="a ReLU stack stands before W_U"):
        toy.tokens_to_residual_directions(torch.tensor([1]))


def test_logit_lens(model: HookedStreamTransformer, tokens: Tensor) -> None:
    found = logit_lens(model, tokens, targets=[3], positions=-1, return_type="logits")
    assert torch.allclose(found.values[-1, :, 0], model(tokens)[:, -1, 3], atol=1e-10)
    assert found.rank_trajectory(3).shape == (len(found.labels), 4)


# --- heads and weights ----------------------------------------------------------------------------------------------


def test_head_detector(model: HookedStreamTransformer) -> None:
    scores = detect_head(model.float(), torch.tensor([[1, 2, 3, 1, 2, 3]]), "previous_token_head")  # type: ignore[arg-type] # tokens pass through
    assert scores.shape == (3, 4)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_weights_under_their_names(model: HookedStreamTransformer) -> None:
    assert model.W_Q.shape == (3, 4, 24, 6)
    assert model.W_E.shape == (19, 24)
    assert model.W_U.shape == (24, 19)
    assert model.W_pos.shape == (16, 24)
    assert model.W_in.shape == (3, 24, 32)
    assert torch.allclose(
        model.OV.AB[1, 2],  # type: ignore[index] # a tensor, whatever TensorLike says
        model.W_V[1, 2] @ model.W_O[1, 2],
    )
    assert isinstance(model.layers[0].attn.OV, FactoredMatrix)
    assert model.QK.AB.shape == (3, 4, 24, 24)


def test_svd_of_circuits(model: HookedStreamTransformer) -> None:
    vectors = SVDInterpreter(model).get_singular_vectors("OV", layer_index=1, head_index=2, num_vectors=3)
    assert vectors.squeeze().shape == (19, 3)
    assert torch.isfinite(vectors).all()


def test_composition_scores(model: HookedStreamTransformer) -> None:
    left, right = model.layers[0].attn.OV, model.layers[1].attn.OV
    scores = composition_scores(left, right, broadcast_dims=True)
    assert scores.shape == (4, 4)


def test_parameters_that_an_architecture_lacks_read_as_what_they_do() -> None:
    toy = build("svformer")
    assert torch.equal(toy.layers[1].attn.W_V, torch.zeros(1, 12, 12).double())
    assert torch.equal(toy.layers[0].attn.W_O[0], torch.eye(12).double())
    assert "blocks.1.attn.W_V" not in toy.state_dict()
    assert (toy.b_O == 0).all()


def test_circuitsvis_takes_patterns(model: HookedStreamTransformer, tokens: Tensor) -> None:
    circuitsvis = pytest.importorskip("circuitsvis")
    _, cache = model.run_with_cache(tokens[:1], remove_batch_dim=True)
    html = circuitsvis.attention.attention_patterns(
        tokens=[str(t) for t in tokens[0].tolist()], attention=cache["pattern", 0]
    )
    assert "attention" in str(html).lower()


# --- training, copies, stacks ---------------------------------------------------------------------------------------


def test_transformer_lens_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    from transformer_lens.tools.training import TrainConfig, train

    model = HookedStreamTransformer(token_config("value"))
    tokens = torch.arange(16).expand(8, -1) % 19
    data: Any = [{"tokens": row} for row in tokens]
    before = model(tokens, return_type="loss").detach()
    train(model, TrainConfig(num_epochs=5, batch_size=4, lr=1e-2, device="cpu", print_every=None), data)
    assert model(tokens, return_type="loss").detach() < before


def test_loss_is_next_token_cross_entropy_in_nats() -> None:
    model = build("value", "tokens")
    with torch.no_grad():
        model.unembed.W_U.zero_()  # type: ignore[union-attr, operator] # a parameter
    tokens = inputs_for(model.config)
    logits, loss = model(tokens, return_type="both")
    assert float(loss.detach()) == pytest.approx(math.log(19))
    assert logits.shape == (3, 7, 19)


def test_weights_load_into_a_copy(model: HookedStreamTransformer, tokens: Tensor) -> None:
    other = HookedStreamTransformer(model.config, seed=9).double().eval()
    assert not torch.allclose(other(tokens), model(tokens))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens), model(tokens))


def test_many_models_in_one_call(tokens: Tensor) -> None:
    models = [HookedStreamTransformer(token_config("value"), seed=s).eval() for s in range(3)]
    parameters, buffers = stack_module_state(models)  # type: ignore[arg-type] # modules
    body = copy.deepcopy(models[0])

    def call(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return functional_call(body.train(), (p, b), (tokens,))

    stacked = vmap(call)(parameters, buffers)
    for i, model in enumerate(models):
        assert torch.allclose(stacked[i], model(tokens), atol=1e-5)


# --- vectors where a tool wants tokens -------------------------------------------------------------------------------


def test_tools_for_tokens_run_on_vectors_through_a_bank() -> None:
    model = build("value", "vectors")
    clean, corrupt = inputs_for(model.config, 3, seed=1), inputs_for(model.config, 3, seed=2)
    with model.bind_inputs(torch.cat([clean, corrupt])) as ids, torch.no_grad():
        assert torch.equal(model(ids[:3]), model(clean))
        _, cache = model.run_with_cache(ids[:3])
        found = patching.get_act_patch_resid_pre(model, ids[3:], cache, metric)
        assert found.shape == (2, 7), "positions, not input components"
    with pytest.raises(ValueError, match=r"takes \(batch, pos, 12\) vectors"):
        model(ids)


def test_a_bank_within_a_bank_keeps_both() -> None:
    model = build("value", "vectors")
    one, other = inputs_for(model.config, 3, seed=1), inputs_for(model.config, 2, seed=2)
    with model.bind_inputs(one) as outer:
        with model.bind_inputs(other) as inner:
            assert inner.shape == other.shape[:2]
            assert torch.equal(model(outer), model(one))
            assert torch.equal(model(inner), model(other))
        assert torch.equal(model(outer), model(one))
        with pytest.raises(IndexError):
            model(inner)
    with pytest.raises(ValueError, match="vectors"):
        model(outer)


def test_text_needs_a_tokenizer() -> None:
    model = build("value", "tokens")
    with pytest.raises(ValueError, match="has no tokenizer: pass a tensor of token numbers, got str"):
        model.to_tokens("hello")
    with pytest.raises(ValueError, match="has no tokenizer: pass a token number, not ' hi'"):
        model.to_single_token(" hi")
    assert model.to_tokens(torch.tensor([1, 2])).shape == (1, 2)
