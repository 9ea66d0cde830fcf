"""The model against independent arithmetic, its sizes, its seeds, its names, and its errors."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits import HookedStreamTransformer, ModelConfig, Stream, UnknownNameError, icl_config, variants
from circuits.config.gains import FixedGain, LearnedGain
from circuits.config.layers import MLP
from circuits.config.parts import NormalInit, ReluStack, TokenInputs, ToyInit, Unembedding, VectorInputs
from circuits.config.streams import CARRIERS, HeadMixing
from tests.helpers import (
    ALL,
    FULL,
    OF_TOKENS,
    STREAMED,
    build,
    gradients,
    inputs_for,
    model_of,
    token_config,
    vector_config,
)
from tests.random_streams import one_stream


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(weights: dict[str, np.ndarray], x: np.ndarray, variant: str) -> np.ndarray:
    """The two-layer classifier in numpy, written from its definition: one example at a time, nothing shared."""
    n = len(x)
    causal = np.where(np.tril(np.ones((n, n))) == 1, 0.0, -np.inf)
    q1, k1, v1 = (x @ weights[f"blocks.0.attn.W_{c}"][0] for c in "QKV")
    h = x + softmax(q1 @ k1.T + causal) @ v1
    q2, k2, v2 = (h @ weights[f"blocks.1.attn.W_{c}"][0] for c in "QKV")
    q2 = q2 + q1 if variant == "query" else q2
    k2 = k2 + k1 if variant == "key" else k2
    v2 = v2 + v1 if variant == "value" else v2
    z = h + softmax(q2 @ k2.T + causal) @ v2
    for i in range(3):
        z = np.maximum(z @ weights[f"readout.{i}.W"] + weights[f"readout.{i}.b"], 0)
    return z @ weights["unembed.W_U"]


@pytest.mark.parametrize("variant", ["classic", "value", "key", "query"])
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_forward_equals_independent_arithmetic(variant: str, preset: str) -> None:
    model = model_of(icl_config(variant, preset), seed=3)
    x = inputs_for(model.config, batch=4, length=17)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    expected = np.stack([by_hand(weights, one.numpy(), variant) for one in x])
    assert np.abs(model(x).detach().numpy() - expected).max() < 1e-10
    other = "value" if variant != "value" else "classic"
    assert np.abs(np.stack([by_hand(weights, one.numpy(), other) for one in x]) - expected).max() > 1e-3


def test_parameter_count_at_paper_size() -> None:
    for variant in ("classic", "value", "key", "query"):
        model = HookedStreamTransformer(icl_config(variant))
        assert sum(p.numel() for p in model.parameters()) == 207_303


def test_initial_scales_are_the_papers() -> None:
    weights = dict(HookedStreamTransformer(icl_config("value"), seed=1).named_parameters())
    expected = {"blocks.0.attn.W_Q": 85**-0.5, "readout.0.W": (2 / 150) ** 0.5, "unembed.W_U": 150**-0.5}
    for name, std in expected.items():
        assert float(weights[name].detach().std()) == pytest.approx(std, rel=0.03)
    biases = [
        float(HookedStreamTransformer(icl_config("classic"), seed=s).relu_layers[i].b.detach())
        for s in range(60)
        for i in range(3)
    ]
    assert np.std(biases) == pytest.approx(150**-0.5, rel=0.2)


@pytest.mark.parametrize("variant", STREAMED)
def test_variants_of_a_seed_start_with_the_same_weights(variant: str) -> None:
    classic = dict(HookedStreamTransformer(icl_config("classic"), seed=5).named_parameters())
    other = dict(HookedStreamTransformer(icl_config(variant), seed=5).named_parameters())
    shared = set(classic) & set(other)
    config = icl_config(variant)
    lacking = sum(not config.has_own(layer, carrier) for layer in range(2) for carrier in CARRIERS)
    assert len(shared) == len(classic) - lacking
    assert all(torch.equal(classic[name], other[name]) for name in shared)
    seed6 = dict(HookedStreamTransformer(icl_config(variant), seed=6).named_parameters())
    assert not any(torch.equal(other[name], seed6[name]) for name in shared)


def test_state_dict_has_hooked_transformers_names_and_shapes() -> None:
    model = HookedStreamTransformer(token_config("value", 2, normalization="LN", readout=Unembedding(19, bias=True)))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    block = {
        **{f"attn.W_{c}": (4, 24, 6) for c in "QKV"},
        **{f"attn.b_{c}": (4, 6) for c in "QKV"},
        "attn.W_O": (4, 6, 24),
        "attn.b_O": (24,),
        "mlp.W_in": (24, 32),
        "mlp.b_in": (32,),
        "mlp.W_out": (32, 24),
        "mlp.b_out": (24,),
        **{f"{ln}.{p}": (24,) for ln in ("ln1", "ln2") for p in "wb"},
    }
    expected = {f"blocks.{layer}.{name}": shape for layer in range(2) for name, shape in block.items()}
    expected |= {"embed.W_E": (19, 24), "pos_embed.W_pos": (16, 24), "ln_final.w": (24,), "ln_final.b": (24,)}
    expected |= {"unembed.W_U": (24, 19), "unembed.b_U": (19,)}
    assert shapes == expected


def test_hook_points_exist_only_where_they_can_fire() -> None:
    def points(variant: str, n_layers: int) -> set[str]:
        hooks = build(variant, "vectors", n_layers).hook_dict
        return {name.removeprefix("blocks.") for name in hooks if "_residual" in name or "_stream" in name}

    assert points("classic", 3) == set()
    assert points("value", 3) == {
        "0.attn.hook_v_stream",
        "1.attn.hook_v_residual",
        "1.attn.hook_v_stream",
        "2.attn.hook_v_residual",
    }
    assert points("resformer-constant", 3) == {
        "0.attn.hook_v_stream",
        "1.attn.hook_v_residual",
        "2.attn.hook_v_residual",
    }
    assert points("cross-carrier", 2) == {"0.attn.hook_k_stream", "1.attn.hook_v_residual"}
    assert points("within-layer", 2) == {f"{i}.attn.hook_{n}" for i in (0, 1) for n in ("k_stream", "v_residual")}
    assert "blocks.1.attn.hook_v" not in build("svformer").hook_dict


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_every_listed_hook_point_fires(variant: str, kind: str) -> None:
    model = build(variant, kind, 3)
    model.allow_stream_blind_tools()
    model.set_use_attn_result(True)
    x = inputs_for(model.config)
    fired: set[str] = set()
    for flag in ("split", "shared"):
        model.set_use_split_qkv_input(flag == "split")
        model.set_use_attn_in(flag == "shared")
        model.set_use_hook_mlp_in(True)
        fired |= set(model.run_with_cache(x)[1].keys())
    assert fired == set(model.hook_dict)


@pytest.mark.parametrize(
    ("variant", "kind"),
    [(v, kind) for kind in ("vectors", "tokens") for v in FULL] + [(v, "tokens") for v in OF_TOKENS],
)
def test_mixed_is_own_gain_times_own_plus_what_comes_in(variant: str, kind: str) -> None:
    model = build(variant, kind, 3)
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x)
    for layer, block in enumerate(model.layers):
        for carrier, mix in block.attn.mixes():
            normalised = cache["resid_pre", layer] if kind == "vectors" else block.ln1(cache["resid_pre", layer])
            gain = mix.gains(normalised)[0]
            own = gain * cache[carrier, layer] if model.config.has_own(layer, carrier) else 0.0
            total = own + cache[f"{carrier}_residual", layer]
            assert torch.allclose(cache[f"{carrier}_mixed", layer], total, atol=1e-12)
        z = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", layer], _used(model, cache, "v", layer))
        assert torch.allclose(cache["z", layer], z, atol=1e-12)


def _used(model: HookedStreamTransformer, cache: Any, carrier: str, layer: int) -> torch.Tensor:
    streamed = model.config.stream_into(carrier) is not None  # type: ignore[arg-type] # literals
    return cache[f"{carrier}_mixed" if streamed else carrier, layer]


def test_split_inputs_and_attn_in_give_the_same_logits() -> None:
    for variant in ("value", "x-transformers", "classic"):
        model = build(variant, "tokens", 3)
        model.allow_stream_blind_tools()
        x = inputs_for(model.config)
        plain = model(x)
        for setter in (model.set_use_split_qkv_input, model.set_use_attn_in, model.set_use_attn_result):
            setter(True)
            assert torch.allclose(model(x), plain, atol=1e-12)
            setter(False)


def test_one_hot_embedding_is_split_exactly() -> None:
    model = build("value")
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x)
    assert torch.equal(cache["hook_embed"] + cache["hook_pos_embed"], x)
    n = model.config.n_ctx
    assert (cache["hook_embed"][..., :n] == 0).all()
    assert (cache["hook_pos_embed"][..., n:] == 0).all()
    assert torch.equal(cache["resid_pre", 0], x)


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_vectors_may_be_projected_and_have_other_positions(positions: Any) -> None:
    config = vector_config("classic", n_layers=1, inputs=VectorInputs(9, project=True), positions=positions)
    model = model_of(config)
    x = inputs_for(config)
    assert model(x).shape == (3, 7, 5)
    assert ("pos_embed.W_pos" in model.state_dict()) is (positions == "learned")
    swapped = torch.cat([x[:, 1:2], x[:, :1], x[:, 2:]], 1)
    assert torch.allclose(model(x)[:, -1], model(swapped)[:, -1], atol=1e-9) is (positions == "none")


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_a_state_is_enough_to_go_on_from_and_the_residual_stream_is_not(variant: str, kind: str) -> None:
    model = build(variant, kind, 3)
    x = inputs_for(model.config)
    whole = model(x)
    for layer in range(4):
        state = model.state(x, layer)
        assert torch.equal(model.run_state(state), whole)
        if model.reads_from(layer):
            with pytest.raises(ValueError, match="through the stream, which the residual stream does not hold"):
                model(state.residual, start_at_layer=layer)
        else:
            assert torch.equal(model(state.residual, start_at_layer=layer), whole)


def test_stop_at_layer_returns_the_residual_stream() -> None:
    model = build("value", "tokens", 3)
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x)
    assert torch.equal(model(x, stop_at_layer=2), cache["resid_pre", 2])


def test_describe_and_print_show_what_flows_where() -> None:
    model = build("resformer-learned", "vectors", 3)
    table = model.describe().set_index(["layer", "carrier"])
    assert list(table.columns) == ["own", "sources", "gain", "transform", "gate", "hooks"]
    assert table.loc[(2, "v"), "sources"] == "v0"
    assert table.loc[(2, "v"), "hooks"] == "hook_v hook_v_residual hook_v_mixed"
    assert table.loc[(1, "q"), "sources"] == "-"
    assert "learned per layer pair" in str(table.loc[(1, "v"), "gain"])
    own = {"free": "0.3", "own-fixed": "0.3", "convex": "(1 - what comes in)"}
    for tie in ("free", "own-fixed", "convex"):
        says = LearnedGain(0.3, 0.5, tie=tie).says
        assert says == f"learned per layer pair, {tie}, from {own[tie]} own + 0.5 in"
    model.set_gate("stop")
    assert model.describe().set_index(["layer", "carrier"]).loc[(1, "v"), "gate"] == "stop"
    text = str(model)
    assert text.startswith("HookedStreamTransformer 'resformer-learned': 3 layers, 1 head of 12")
    assert "stop" in text
    assert "no residual attention stream" in str(build("classic"))


def test_copies_are_whole_and_apart() -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        with torch.no_grad():
            other.layers[0].attn.W_V.zero_()
        assert not torch.equal(other(x), model(x))


# --- every parameter learns -------------------------------------------------------------------------------------------

INPUTS: dict[str, dict[str, Any]] = {
    "one-hot": {"inputs": VectorInputs(12), "positions": "one-hot"},
    "vectors": {"inputs": VectorInputs(12), "positions": "none"},
    "vectors, learned positions": {"inputs": VectorInputs(12), "positions": "learned"},
    "projected": {"inputs": VectorInputs(7, project=True), "positions": "none"},
    "projected, learned positions": {"inputs": VectorInputs(7, project=True), "positions": "learned"},
    "tokens": {"inputs": TokenInputs(6), "positions": "learned"},
    "tokens without positions": {"inputs": TokenInputs(6), "positions": "none"},
    "tied": {"inputs": TokenInputs(6), "positions": "learned", "tied_embedding": True},
}
CHOICES: dict[str, list[Any]] = {
    "biases": [True, False],
    "output_matrix": [True, False],
    "attention_scale": [True, False],
    "normalization": ["LN", "LNPre", "RMS", "RMSPre", None],
    "mlp": [None, MLP(8), MLP(8, "gelu_new"), MLP(8, "relu"), MLP(8, "silu")],
    "readout": [Unembedding(6), Unembedding(6, bias=True), ReluStack(6), ReluStack(6, depth=0)],
    "init": [NormalInit(0.3), ToyInit()],
}


def without_gradient(config: ModelConfig, elsewhere: float = 0.0) -> set[str]:
    """The parameters that no gradient reaches, at the start or from anywhere near it; rounding counts as gradient.

    (The gradient of b_K, which adds the same to all scores of a query, is nothing but rounding.)
    """
    model = HookedStreamTransformer(config).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(elsewhere * torch.randn(parameter.shape, generator=generator).double())
    found = gradients(model, model(inputs_for(config, batch=8, length=config.n_ctx)).square().sum())
    return {name for name, gradient in found.items() if not gradient.abs().sum()}


def small(**parts: Any) -> ModelConfig:
    return ModelConfig(**{"n_layers": 3, "n_heads": 2, "d_model": 12, "n_ctx": 5, **parts})


@pytest.mark.parametrize("kind", INPUTS)
def test_every_parameter_learns_whatever_the_model_is_made_of(kind: str) -> None:
    """Over the kinds, every variant meets every choice, with others by chance."""
    made = 0
    for variant in ALL:
        draw, place = random.Random(variant), [*INPUTS].index(kind)
        parts = {name: values[(place + draw.randrange(60)) % len(values)] for name, values in CHOICES.items()}
        if kind == "tied":
            parts["readout"] = Unembedding(6)
        config = small(**INPUTS[kind], **parts, streams=variants.streams(variant, 3))
        assert not without_gradient(config), config
        made += 1
    assert made == len(ALL)


def test_biases_learn_without_an_output_matrix_too() -> None:
    for kind in ("one-hot", "tokens"):
        config = small(**INPUTS[kind], readout=Unembedding(6), biases=True, output_matrix=False)
        assert "blocks.0.attn.b_O" in dict(HookedStreamTransformer(config).named_parameters())
        assert not without_gradient(config)


@settings(max_examples=150)
@given(one_stream, st.booleans(), st.sampled_from(["own", "initial", "untied"]))
def test_every_parameter_of_an_open_stream_learns(parts: dict[str, Any], biases: bool, weights: Any) -> None:
    try:
        stream = Stream(**{**parts, "gate": "full", "weights": weights})
        config = small(**INPUTS["one-hot"], readout=Unembedding(6), biases=biases, streams=(stream,))
    except ValueError:
        return
    # At the start, a gain of 0 may hold back what is behind it; near it, nothing does.
    assert not without_gradient(config, elsewhere=0.3)


def test_only_a_shut_gate_keeps_untied_weights_from_learning() -> None:
    for gate, dead in (("full", set()), ("gradient-only", set()), ("stop", {0, 1}), ("off", {0, 1})):
        streams = (Stream("v", weights="untied", gate=gate),)  # type: ignore[arg-type] # literals
        config = small(**INPUTS["one-hot"], readout=ReluStack(6), streams=streams)
        assert without_gradient(config) == {f"blocks.{layer}.attn.W_V_stream" for layer in dead}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(inputs=VectorInputs(12, True), positions="one-hot", readout=ReluStack(6)), "never be projected"),
        (lambda: Stream("v", gain=FixedGain(1.0, 0.0), transform=HeadMixing()), r"HeadMixing\(\) would never learn"),
        (lambda: Stream("v", gain=FixedGain(1.0, 0.0), weights="untied"), "untied weights would never learn"),
        (lambda: LearnedGain(0.0, tie="own-fixed"), "a projection that never learns"),
        (lambda: FixedGain(0.0, 0.0), "nothing to attend to"),
        (lambda: NormalInit(0.0), "no gradient reaches most of them"),
    ],
)
def test_what_could_never_learn_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x[..., :-1], r"takes \(batch, pos, 12\) vectors of torch.float64.*got \(3, 7, 11\)"),
        (lambda x: x[0], r"got \(7, 12\)"),
        (lambda x: x.float(), r"inputs.to\(model.cfg.dtype\)"),
        (lambda x: torch.cat([x, x], 1), "a sequence of 14 positions is longer than n_ctx = 7"),
        (
            lambda x: x.index_fill(1, torch.tensor([2]), torch.nan),
            r"NaN or infinity, first at \(batch, pos\) = \(0, 2\)",
        ),
    ],
)
def test_wrong_vectors_are_refused(make: Any, message: str) -> None:
    model = build("value")
    with pytest.raises(ValueError, match=message):
        model(make(inputs_for(model.config)))


def test_wrong_tokens_are_refused() -> None:
    model = build("value", "tokens")
    with pytest.raises(ValueError, match=r"takes \(batch, pos\) token numbers, got \(2, 3\) of torch.float32"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="token numbers from 0 to 99, but d_vocab = 19"):
        model(torch.tensor([[0, 99]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl_config("valeu"), "unknown variant 'valeu': did you mean 'value'"),
        (lambda: icl_config("value", "papr"), "unknown preset 'papr': did you mean 'paper'"),
        (lambda: icl_config("value", n_layrs=3), "unknown field of ModelConfig 'n_layrs': did you mean 'n_layers'"),
        (lambda: icl_config("value", n_layers=1), r"the v stream \(Previous\) has no layer to read .* 1 layer"),
        (lambda: icl_config("resformer-constant", n_layers=1), r"\(First\) has no layer to read"),
        (lambda: icl_config("value", n_heads=4), "4 heads do not divide d_model = 150"),
        (lambda: icl_config("svformer-gradient-only"), "unknown variant 'svformer-gradient-only'"),
        (lambda: icl_config("value", inputs=VectorInputs(7)), "input vectors of width 7 do not fit d_model = 150"),
        (lambda: icl_config("value", n_ctx=150), r"n_ctx \(150\) less than d_model \(150\)"),
        (lambda: icl_config("value", n_layers=0), "n_layers must be a positive whole number, got 0"),
    ],
)
def test_contradictory_configurations_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_contradictory_streams_are_refused() -> None:
    from circuits.config.streams import GateRule
    from circuits.config.topologies import Cumulative, First, Listed, Previous, WithinLayer

    def with_streams(*streams: Stream, n_layers: int = 3) -> Any:
        return icl_config("classic", n_layers=n_layers, streams=streams)

    cases: list[tuple[Any, str]] = [
        (lambda: Stream("v", topology=WithinLayer()), "a within-layer stream needs another carrier"),
        (lambda: Listed(((0, 1),)), "a reader must come after its source"),
        (lambda: with_streams(Stream("v"), Stream("v")), "two streams feed the same carrier"),
        (lambda: with_streams(Stream("v", topology=Listed(((7, 0),)))), "no layer to read"),
        (lambda: with_streams(Stream("v", topology=Listed(((1, 0), (7, 0))))), r"name layers beyond the last one, 2"),
        (lambda: with_streams(Stream("v", gain=FixedGain(own=0.0))), "reads the own v of layer 1, which has none"),
        (
            lambda: with_streams(Stream("v", topology=Previous()), Stream("k", "v", topology=Cumulative())),
            "one stream reads raw v and another its running sum",
        ),
        (lambda: with_streams(Stream("v", gate_rules=(GateRule("off", reader=9),))), "names a layer beyond"),
        (lambda: with_streams(Stream("v", gate_rules=(GateRule("off", head=2),))), "names a head beyond"),
        (
            lambda: with_streams(Stream("v", gate_rules=(GateRule("off", reader=2, source=0),))),
            r"is of no connection of the v stream; its \(reader, source\) pairs are \[\(1, 0\), \(2, 1\)\]",
        ),
        (lambda: with_streams(Stream("v", gate_rules=(GateRule("off", reader=0),))), "is of no connection"),
        (lambda: with_streams(Stream("v", gate_rules=(GateRule("off", source=2),))), "is of no connection"),
        (lambda: with_streams(Stream("v", topology=First((1, 3)))), r"readers \[3\] are layers beyond the last one, 2"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_heads_without_an_output_matrix_must_fill_the_residual_stream() -> None:
    with pytest.raises(ValueError, match="2 heads x d_head 10 must be d_model = 64"):
        icl_config("value", "small", n_heads=2, d_head=10)
    with pytest.raises(ValueError, match="one-hot positions stand in the first n_ctx components of input vectors"):
        vector_config("value", inputs=TokenInputs(4), readout=ReluStack(4))


def test_gates_need_a_stream() -> None:
    with pytest.raises(ValueError, match="there is no  stream to set a gate on"):
        build("classic").set_gate("stop")
    with pytest.raises(ValueError, match=r"no k stream to set a gate on; this model's streams feed \['v'\]"):
        build("value").set_gate("stop", "k")


def test_an_unknown_name_is_a_key_error_and_a_value_error_with_a_readable_message() -> None:
    with pytest.raises(KeyError) as error:
        variants.get("svfromer-stop")
    assert isinstance(error.value, ValueError)
    assert str(error.value).startswith("unknown variant 'svfromer-stop': did you mean 'svformer-stop'")
    assert isinstance(error.value, UnknownNameError)
