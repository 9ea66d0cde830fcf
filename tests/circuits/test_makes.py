"""Models of other makes: every part does what its formula says, in every kind of run, under every stream."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from transformer_lens.tools.analysis import direct_logit_attribution

from circuits import (
    Backout,
    Dense,
    FixedGain,
    GateRule,
    HalfTruncatedRotary,
    HookedStreamTransformer,
    ModelConfig,
    QKNorm,
    ResidualScalars,
    Rotary,
    Smear,
    Stream,
    Tables,
    load_checkpoint,
    save_checkpoint,
)
from circuits.config.layers import MLP
from circuits.config.streams import GATES
from circuits.last_position import why_not
from circuits.places import turned
from tests.helpers import (
    MAKES,
    OF_TOKENS,
    OF_X0,
    gradients,
    inputs_for,
    made,
    model_of,
    token_config,
    twin,
    vector_config,
)
from tests.random_streams import configs

STREAMS = ["classic", "value", "cumulative", "rwkv7-rule", "gemma-sharing", *OF_TOKENS, OF_X0]
FEW = [
    *(("llama", variant) for variant in ("classic", "gemma-sharing", "bank-of-values-frozen")),
    *(("qwen", variant) for variant in (OF_X0, "value", "nanochat-frozen")),
    *(("gemma", variant) for variant in ("cumulative", "modded-nanogpt-embeddings", "rwkv7-rule")),
    *(
        ("nanochat", variant)
        for variant in (OF_X0, "nanochat", "value", "bank-of-values", "modded-nanogpt-embeddings-frozen")
    ),
]
"""Every make and every kind of stream; all of each with all of the other are slow."""
REST = [(make, variant) for make in MAKES for variant in STREAMS if (make, variant) not in FEW]
every_case = pytest.mark.parametrize(
    ("make", "variant"), [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)


def loss_of(model: HookedStreamTransformer, x: Tensor) -> Tensor:
    return model(x).log_softmax(-1)[..., 0].mean()


@every_case
def test_a_state_is_enough_to_go_on_from(make: str, variant: str) -> None:
    model = made(make, variant)
    x = inputs_for(model.config)
    for layer in range(4):
        state = model.state(x, layer)
        assert torch.equal(model.run_state(state), model(x))
        for key in state.outgoing:
            without = {other: tensor for other, tensor in state.outgoing.items() if other != key}
            with pytest.raises(ValueError, match="also read"):
                model.run_state(state._replace(outgoing=without))
            changed = state._replace(outgoing=without | {key: state.outgoing[key] + 1})
            assert not torch.allclose(model.run_state(changed), model(x)), f"{key} is read"


@every_case
def test_what_is_fused_in_training_is_what_is_evaluated(make: str, variant: str) -> None:
    model = made(make, variant)
    x = inputs_for(model.config)
    wanted, slow = model(x), gradients(model, loss_of(model, x))
    model.train()
    fast = gradients(model, loss_of(model, x))
    assert torch.allclose(model(x), wanted, atol=1e-12)
    assert all(torch.allclose(slow[name], fast[name], atol=1e-12) for name in slow)


@every_case
def test_every_parameter_gets_gradient_and_none_from_later_positions(make: str, variant: str) -> None:
    model = made(make, variant)
    x = inputs_for(model.config)
    embedded = model.embedded(x)
    residual = embedded.residual.detach().requires_grad_()
    logits = model.run_state(model.begin(embedded._replace(residual=residual)))
    found = gradients(model, loss_of(model, x))
    silent = [name for name, gradient in found.items() if not gradient.abs().max() > 0]
    assert not silent
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), residual)
    assert gradient[:, 4:].abs().max() == 0
    assert (gradient[:, 3].abs().amax(-1) > 0).all()


@every_case
def test_checkpoints_hold_all_of_it(make: str, variant: str, tmp_path: Path) -> None:
    model = made(make, variant)
    save_checkpoint(tmp_path / "model.safetensors", model)
    again = load_checkpoint(tmp_path / "model.safetensors", expect=model.config)
    x = inputs_for(model.config)
    assert again.config == model.config
    assert torch.equal(again(x), model(x))
    assert str(again) == str(model)


@pytest.mark.parametrize("make", MAKES)
def test_every_branch_has_storage_of_its_own(make: str) -> None:
    model = made(make, "nanochat")
    x = inputs_for(model.config)
    wanted = model(x)
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> None:
        kept[hook.name] = tensor.detach().clone()

    model.run_with_hooks(x, fwd_hooks=[(lambda name: True, keep)])

    def spoilt(tensor: Tensor, hook: Any) -> None:
        tensor.zero_()

    for name in ("hook_x0", "backout.hook_middle", "blocks.1.scalars.hook_x0", "value_embeds.2.hook_v_stream"):
        if name not in model.hook_dict:
            continue
        seen: dict[str, Tensor] = {}

        def see(tensor: Tensor, hook: Any, into: dict[str, Tensor] = seen) -> None:
            into[hook.name] = tensor.detach().clone()

        with torch.no_grad():
            spoiled = model.run_with_hooks(x, fwd_hooks=[(name, spoilt), (lambda n, at=name: n != at, see)])
        assert not torch.allclose(spoiled, wanted)
        before = [n for n in seen if n in ("hook_embed", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_q")]
        assert all(torch.equal(seen[n], kept[n]) for n in before if name != "hook_x0")


# --- any parts at all -------------------------------------------------------------------------------------------------


@settings(max_examples=40, derandomize=True)
@given(configs())
def test_any_architecture_is_stored_resumed_fused_and_causal(config: ModelConfig) -> None:
    assert ModelConfig.from_plain(config.to_plain()) == config
    model = model_of(config)
    x = inputs_for(config)
    wanted = model(x)
    for layer in range(4):
        assert torch.equal(model.run_state(model.state(x, layer)), wanted)
    later = x.clone()
    later[:, 5:] = (later[:, 5:] + 1) % 19
    assert torch.equal(model(later)[:, :5], wanted[:, :5])
    assert not torch.equal(model(later), wanted)
    slow = gradients(model, loss_of(model, x))
    model.train()
    fast = gradients(model, loss_of(model, x))
    assert torch.allclose(model(x), wanted, atol=1e-11)
    assert all(torch.allclose(slow[name], fast[name], atol=1e-10) for name in slow)


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_turning_keeps_lengths_and_products_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 6, 2, 8, generator=generator).double() for _ in range(2))
    kinds = [
        Rotary(),
        Rotary(base=50.0, adjacent_pairs=True),
        Rotary(fraction=0.5, backwards=True),
        Rotary(stretch=4.0),
        HalfTruncatedRotary(),
    ]
    at = torch.arange(6)[None]
    for kind in kinds:
        here, later = (turned(x, at, kind) for x in (q, k)), (turned(x, at + 7, kind) for x in (q, k))
        (q0, k0), (q7, k7) = here, later
        assert torch.allclose(q0.norm(dim=-1), q.norm(dim=-1))
        assert torch.allclose((q0[:, 4] * k0[:, 1]).sum(-1), (q7[:, 4] * k7[:, 1]).sum(-1))
        assert torch.equal(q0[:, 0], q[:, 0]), "nothing is turned at position 0"
        assert not torch.allclose(q0[:, 1], q[:, 1])
    assert torch.equal(turned(q, at, kinds[2])[..., 4:], q[..., 4:]), "the rest of a part is not turned"
    there = turned(q, at, Rotary())
    assert torch.allclose(turned(there, at, Rotary(backwards=True)), q), "backwards undoes it"


@pytest.mark.parametrize(("part", "d_head"), [(14, 25), (6, 11), (2, 49), (4, 49), (12, 12)])
def test_any_even_part_of_a_head_is_turned(part: int, d_head: int) -> None:
    """A share as a fraction may come out a rounding above or below the number of components that is meant."""
    rotary = Rotary(fraction=part / d_head)
    rotary.check_width(d_head)
    assert len(rotary.angles(d_head)) == part // 2
    q, at = torch.randn(1, 4, 2, d_head, generator=torch.Generator().manual_seed(0)), torch.arange(4)[None]
    same = turned(q, at, rotary) == q
    assert not same[:, 1:, :, :part].all(-1).any()
    assert same[..., part:].all()
    for more in (1, 0.1, 1e-4):
        with pytest.raises(ValueError, match="turn pairs of components"):
            Rotary(fraction=(part - more) / d_head).check_width(d_head)


def test_a_window_is_what_the_queries_of_its_layer_see() -> None:
    model = made("qwen")
    pattern = model.run_with_cache(inputs_for(model.config))[1]["pattern", 0]
    distance = torch.arange(7)[:, None] - torch.arange(7)
    inside = (distance >= 0) & (distance < 3)
    assert (pattern[..., ~inside] == 0).all()
    assert (pattern[..., inside] > 0).all()
    assert (model.run_with_cache(inputs_for(model.config))[1]["pattern", 1][..., distance >= 0] > 0).all()


def test_shared_heads_are_equal_heads_of_a_model_that_shares_none() -> None:
    model = made("llama", "value")
    wide = HookedStreamTransformer(dataclasses.replace(model.config, n_key_value_heads=None)).double().eval()
    own = wide.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            shared = name.endswith(("W_K", "W_V", "b_K", "b_V"))
            own[name].copy_(tensor.repeat_interleave(2, 0) if shared else tensor)
    x = inputs_for(model.config)
    assert torch.allclose(wide(x), model(x), atol=1e-12)
    assert torch.equal(wide.W_K, model.W_K), "tools see every query head's own"
    assert torch.allclose(torch.as_tensor(wide.OV.AB), torch.as_tensor(model.OV.AB))
    cache = model.run_with_cache(x)[1]
    assert cache["k", 0].shape[2] == cache["v_mixed", 1].shape[2] == 2
    with pytest.raises(ValueError, match="this model has 4 heads of queries and 2 of keys and values; call"):
        model.set_use_attn_in(True)
    for copied in (model.set_use_split_qkv_input, wide.set_use_attn_in):
        model.allow_stream_blind_tools()
        copied(True)
    assert torch.allclose(wide(x), model(x), atol=1e-12)


@pytest.mark.parametrize("carrier", ["q", "v"])
def test_gates_are_told_of_the_heads_that_a_carrier_has(carrier: Any) -> None:
    """Keys and values have two heads here, and queries four."""

    def told(*rules: GateRule) -> tuple[str, str]:
        stream = Stream(carrier, topology=Dense(), gate_rules=rules)
        model = HookedStreamTransformer(token_config("classic", 3, streams=(stream,), n_key_value_heads=2))
        gate = model.describe().query("layer == 2 and carrier == @carrier").gate.item()
        return str(gate), str(model.config.figure().to_dict())

    n, both = (2 if carrier == "v" else 4), (GateRule("off", head=0), GateRule("off", head=1))
    gate, drawn = told(*both)
    assert (gate == "off") is (carrier == "v")
    assert ("gate mixed" in drawn) is (carrier == "q")
    gate, drawn = told(both[0], GateRule("off", source=0))
    assert gate == f"{carrier}0: off ({n} heads); {carrier}1: off (1 heads), full ({n - 1} heads)"
    assert "gate mixed" in drawn


def test_scalars_smear_and_backout_are_their_formulas() -> None:
    model = made("nanochat")
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x)
    embedded = model.embed(x)
    gate = 0.7 * torch.sigmoid(embedded[:, 1:, :5] @ model.smear.W_smear)[..., None]  # type: ignore[union-attr] # it has one
    start = torch.cat([embedded[:, :1], embedded[:, 1:] + gate * embedded[:, :-1]], 1)
    assert torch.allclose(cache["hook_x0"], start)
    now = start
    for layer, (own, x0) in enumerate([(1.15, 0.2), (0.975, -0.05), (0.8, -0.3)]):
        assert torch.allclose(cache["resid_pre", layer], own * now + x0 * start)
        now = cache["resid_post", layer]
    final = now - 0.4 * cache["resid_post", 1]
    assert torch.allclose(model(x, stop_at_layer=3), final)
    logits = final / (final.square().mean(-1, keepdim=True) + 2.0**-52).sqrt() @ model.W_U
    assert torch.allclose(model(x), 2.0 * torch.tanh(logits / 2.0))


def test_tables_are_added_by_token_and_frozen_ones_never_learn() -> None:
    model = made("llama", "nanochat", normalization="RMSPre")
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x)
    normalised = cache["resid_pre", 2] / (cache["resid_pre", 2].square().mean(-1, keepdim=True) + 1e-6).sqrt()
    gate = 3 * torch.sigmoid(normalised[..., :12] @ model.layers[2].attn.mix.get_parameter("v.W_gain"))
    rows = model.get_submodule("value_embeds.2").get_parameter("W_VE")[x].unflatten(-1, (2, -1))
    assert torch.allclose(cache["v_mixed", 2], cache["v", 2] + gate[..., None] * rows)
    frozen = made("llama", "nanochat-frozen")
    names = {name for name, _ in frozen.named_parameters()}
    assert not any("value_embeds" in name for name in names)
    assert {name for name, _ in model.named_parameters()} - names == {"value_embeds.0.W_VE", "value_embeds.2.W_VE"}
    assert "value_embeds.0.W_VE" in frozen.state_dict(), "they are kept all the same"


@pytest.mark.parametrize("kind", ["tokens", "vectors"])
def test_projections_of_x0_are_added_as_they_are_at_the_start(kind: str) -> None:
    streams = (Stream("v", topology=Tables(((1, 0), (2, 0)), of="x0"), gain=FixedGain(0.5, 2.0)),)
    config = (token_config if kind == "tokens" else vector_config)("classic", 3, streams=streams)
    model = model_of(config)
    x = inputs_for(config)
    _, cache = model.run_with_cache(x)
    rows = model.get_submodule("value_embeds.0").get_parameter("W_VE")
    wanted = (cache["resid_pre", 0] @ rows).unflatten(-1, (config.n_heads, config.d_head))
    for layer in (1, 2):
        assert torch.allclose(cache["v_mixed", layer], 0.5 * cache["v", layer] + 2 * wanted)
    assert "v_mixed" in model.describe().query("layer == 1 and carrier == 'v'").hooks.item()
    assert model.describe().query("layer == 1 and carrier == 'v'").sources.item() == "x00"
    edited = model.run_with_hooks(x, fwd_hooks=[("hook_embed", lambda tensor, hook: 2 * tensor)])
    assert not torch.allclose(edited, model(x))
    assert why_not(config) is None or "no tables" in str(why_not(config))
    if kind == "vectors":
        with pytest.raises(ValueError, match="tables have a row a token"):
            vector_config("classic", 3, streams=(Stream("v", topology=Tables(((1, 0),))),))


def test_projections_of_x0_have_every_gate_and_rows_of_tables_two() -> None:
    def of(gate: Any) -> HookedStreamTransformer:
        return made("llama", "classic", streams=(Stream("v", topology=Tables(((1, 0),), of="x0"), gate=gate),))

    by_gate = {gate: of(gate) for gate in GATES}
    x = inputs_for(by_gate["full"].config)
    logits = {gate: model(x) for gate, model in by_gate.items()}
    assert torch.equal(logits["full"], logits["stop"])
    assert torch.equal(logits["gradient-only"], logits["off"])
    assert not torch.allclose(logits["full"], logits["off"])
    found = {gate: gradients(model, logits[gate].square().sum()) for gate, model in by_gate.items()}
    dead = {gate for gate, each in found.items() if not each["value_embeds.0.W_VE"].abs().sum()}
    assert dead == {"stop", "off"}
    assert not torch.allclose(found["full"]["embed.W_E"], found["stop"]["embed.W_E"]), "the embeddings got some of it"
    assert not torch.allclose(found["gradient-only"]["embed.W_E"], found["off"]["embed.W_E"])
    rules = (GateRule("stop", reader=1),)
    assert Stream("v", topology=Tables(((1, 0),), of="x0"), gate_rules=rules).gate_rules == rules
    for fields in ({"gate": "stop"}, {"gate": "gradient-only"}, {"gate_rules": rules}):
        with pytest.raises(ValueError, match="a table of tokens has the gates 'full' and 'off'"):
            Stream("v", topology=Tables(((1, 0),)), **fields)  # type: ignore[arg-type] # fields of several types


def test_padding_on_either_side_changes_nothing() -> None:
    for make in ("llama", "gemma", "nanochat"):
        model = made(make, "nanochat")
        x = inputs_for(model.config, batch=2)
        wanted, pad = model(x), torch.zeros(2, 3, dtype=torch.long)
        left, right = torch.cat([pad, x], 1), torch.cat([x, pad], 1)
        is_token = torch.ones(2, 10, dtype=torch.bool)
        is_token[:, :3] = False
        assert torch.allclose(model(left, attention_mask=is_token)[:, 3:], wanted)
        assert torch.allclose(model(right, attention_mask=is_token.flip(1).long())[:, :7], wanted)
        assert not torch.allclose(model(left)[:, 3:], wanted), "without a mask it does"


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("tied", [True, False])
def test_folding_norms_keeps_the_logits_and_makes_attribution_exact(make: str, tied: bool) -> None:
    model = made(make, "nanochat", tied_embedding=tied)
    x = inputs_for(model.config)
    folded = model.fold_layer_norm()
    assert torch.allclose(folded(x), model(x), atol=1e-12)
    assert folded.config.embedding_norm is None
    fresh = HookedStreamTransformer(folded.config).double().eval()
    fresh.load_state_dict(folded.state_dict())
    assert torch.equal(fresh(x), folded(x)), "its configuration is of what it is now"
    if model.config.logit_softcap is not None:
        with pytest.raises(ValueError, match="a cap stands after W_U"):
            folded.tokens_to_residual_directions(x[0])
        folded = twin(folded, logit_softcap=None)
    _, cache = folded.run_with_cache(x)
    if model.config.residual_scalars:
        for refused in (cache.decompose_resid, cache.get_full_resid_decomposition, cache.accumulated_resid):
            with pytest.raises(ValueError, match="no plain sum of what was written"):
                refused()
        return
    parts = cache.apply_ln_to_stack(cache.decompose_resid(-1), -1)
    directions = folded.tokens_to_residual_directions(torch.arange(19))
    logits = parts.sum(0) @ directions.T + folded.b_U
    assert torch.allclose(logits, folded(x), atol=1e-10)


@pytest.mark.parametrize(
    ("part", "heads_too"),
    [
        ({"residual_scalars": ResidualScalars((1.5, 0.5), (0.0, 0.0))}, True),
        ({"backout": Backout(1, gain=0.5)}, True),
        ({"smear": Smear(24, 0.5)}, False),
        ({}, False),
    ],
)
def test_parts_that_do_not_add_up_are_refused(part: dict[str, Any], heads_too: bool) -> None:
    """Of a cache, and of what is cut from it; where heads are not refused, they and the rest are the whole."""
    model = model_of(token_config("classic", **part))
    x = inputs_for(model.config, batch=2)
    _, whole = model.run_with_cache(x)
    for cache in (whole, whole.apply_slice_to_batch_dim(0), whole.apply_slice_to_batch_dim(slice(1, 2))):
        sums = [cache.decompose_resid, cache.get_full_resid_decomposition]
        stacks = [cache.stack_head_results, partial(cache.stack_neuron_results, -1)]
        for refused in [*(sums if part else []), *(stacks if heads_too else [])]:
            with pytest.raises(ValueError, match="no plain sum of what was written"):
                refused()
        final = cache["resid_post", -1]
        for added in [] if part else sums:
            assert torch.allclose(added().sum(0), final, atol=1e-10)
        for stack in [] if heads_too else stacks:
            assert torch.allclose(stack(incl_remainder=True).sum(0), final, atol=1e-10)
    if heads_too:
        with pytest.raises(ValueError, match="no plain sum of what was written"):
            direct_logit_attribution(model, x, torch.tensor([1, 2]), unit="head")


# --- what has no meaning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_key_value_heads": 3}, "3 heads of keys and values are not shared evenly by 4 heads"),
        ({"rotary": Rotary(fraction=0.5), "d_head": 6}, "0.5 of d_head = 6 is 3"),
        ({"windows": (3,)}, "windows are one positive number"),
        ({"windows": (3, 0, 2)}, "windows are one positive number"),
        ({"score_softcap": 0.0}, "score_softcap must be above 0"),
        ({"attention_scale": -1.0}, "attention_scale must be True, False or a number above 0"),
        ({"smear": Smear(channels=99)}, "reads more channels than d_model = 24"),
        ({"backout": Backout(3)}, "names no layer of 3"),
        ({"streams": (Stream("q", source="k"),), "n_key_value_heads": 2}, "they have 4 and 2 heads"),
        ({"streams": (Stream("v", topology=Tables(((1, 0), (3, 0)))),)}, "readers beyond the last layer, 2"),
        (
            {"streams": (Stream("v", topology=Tables(((1, 0),))), Stream("k", topology=Tables(((1, 1),))))},
            "one stream may read tables of tokens",
        ),
    ],
)
def test_contradictions_are_explained(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        token_config("classic", **fields)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Rotary(base=1.0), "base of Rotary must be above 1"),
        (lambda: Rotary(fraction=1.5), "fraction of Rotary must lie above 0 and up to 1"),
        (lambda: Tables(()), "connects no layer"),
        (lambda: Tables(((1, 0), (1, 0))), "came more than once"),
        (lambda: Stream("v", topology=Tables(((0, 0),)), gate="stop"), "nothing but the stream trains it"),
        (lambda: Stream("v", topology=Tables(((0, 0),)), weights="untied"), "tied to no layer"),
        (lambda: Stream("v", "k", topology=Tables(((0, 0),))), "leave source out"),
        (lambda: vector_config("nanochat"), "tables have a row a token"),
    ],
)
def test_parts_that_make_no_sense_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_model_may_have_one_part_alone() -> None:
    """Each part by itself changes the logits, so that none is passed over."""
    plain = token_config("classic", positions="none")
    x = inputs_for(plain)
    wanted = model_of(plain)(x)
    parts: list[dict[str, Any]] = [
        {"rotary": Rotary()},
        {"rotary": HalfTruncatedRotary(), "d_head": 8},
        {"qk_norm": QKNorm()},
        {"windows": (2, 2, 2)},
        {"score_softcap": 0.1},
        {"logit_softcap": 0.1},
        {"embedding_norm": "RMSPre"},
        {"attention_scale": 2.0},
        {"norm_eps": 0.5},
        {"residual_scalars": ResidualScalars(x0=(0.5, 0.5))},
        {"smear": Smear(gain=1.0)},
        {"backout": Backout(0)},
        {"mlp": MLP(32, "relu2")},
        {"streams": (Stream("v", topology=Tables(((0, 0),)), gain=FixedGain()),)},
    ]
    for part in parts:
        changed = model_of(dataclasses.replace(plain, **part))(x)
        assert changed.shape == wanted.shape
        assert not torch.allclose(changed, wanted), part
