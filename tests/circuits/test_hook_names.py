"""Names of hook points as transformer-lens' users write them, filters of them, gradients at them, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from circuits import HookedStreamTransformer
from tests.helpers import build, inputs_for

BRIDGE_NAMES = {
    "embed.hook_out": "hook_embed",
    "pos_embed.hook_out": "hook_pos_embed",
    "blocks.1.hook_in": "blocks.1.hook_resid_pre",
    "blocks.1.hook_out": "blocks.1.hook_resid_post",
    "blocks.1.attn.hook_out": "blocks.1.hook_attn_out",
    "blocks.1.mlp.hook_out": "blocks.1.hook_mlp_out",
    "blocks.1.attn.q.hook_out": "blocks.1.attn.hook_q",
    "blocks.1.attn.k.hook_out": "blocks.1.attn.hook_k",
    "blocks.1.attn.v.hook_out": "blocks.1.attn.hook_v",
    "blocks.1.attn.o.hook_in": "blocks.1.attn.hook_z",
    "blocks.1.mlp.out.hook_in": "blocks.1.mlp.hook_post",
}


@pytest.fixture
def model() -> HookedStreamTransformer:
    return build("value", "tokens", 3)


@pytest.mark.parametrize(("theirs", "ours"), BRIDGE_NAMES.items())
def test_a_bridges_name_edits_and_reads_the_same_point(model: HookedStreamTransformer, theirs: str, ours: str) -> None:
    x = inputs_for(model.config)
    edited = [model.run_with_hooks(x, fwd_hooks=[(name, lambda t, hook: t * 0.5)]) for name in (theirs, ours)]
    assert torch.equal(*edited)
    assert not torch.equal(edited[0], model(x))
    _, cache = model.run_with_cache(x, names_filter=theirs)
    assert list(cache.keys()) == [ours]
    assert torch.equal(cache[theirs], cache[ours])
    assert theirs in cache
    _, cache = model.run_with_cache(x, return_type="loss", incl_bwd=True)
    assert torch.equal(cache[f"{theirs}_grad"], cache[f"{ours}_grad"])
    assert f"{theirs}_grad" in cache
    assert "blocks.9.hook_out" not in cache


def test_a_bridges_names_are_those_of_transformer_lens() -> None:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        n_layers=2, d_model=24, d_head=6, n_heads=4, d_mlp=32, d_vocab=19, n_ctx=16, act_fn="gelu"
    )
    bridge: Any = TransformerBridge.boot_native(config)  # type: ignore[attr-defined] # set after the class is made
    for theirs, ours in BRIDGE_NAMES.items():
        assert bridge.hook_dict[theirs] is bridge.hook_dict[ours], theirs


@pytest.mark.parametrize("name", ["blocks.1.ln2.hook_in", "blocks.1.mlp.in.hook_out", "blocks.9.hook_out"])
def test_a_bridges_name_of_something_else_is_unknown(model: HookedStreamTransformer, name: str) -> None:
    with pytest.raises(ValueError, match="unknown hook point"):
        model.add_hook(name, lambda t, hook: t)


@pytest.mark.parametrize("how", ["add_hook", "run_with_hooks", "run_with_cache"])
def test_a_filter_of_nothing_but_silent_points_is_refused(model: HookedStreamTransformer, how: str) -> None:
    x = inputs_for(model.config)
    fired: list[str] = []

    def wanted(name: str) -> bool:
        return name.endswith("hook_result")

    def hook(tensor: Any, hook: Any) -> None:
        fired.append(hook.name)

    def ask() -> None:
        if how == "add_hook":
            model.add_hook(wanted, hook)
            model(x)
            model.reset_hooks()
        elif how == "run_with_hooks":
            model.run_with_hooks(x, fwd_hooks=[(wanted, hook)])
        else:
            fired.extend(model.run_with_cache(x, names_filter=wanted)[1].keys())

    with pytest.raises(ValueError, match=r"does not fire while cfg.use_attn_result is off; call"):
        ask()
    assert not model.list_hooks()
    model.set_use_attn_result(True)
    ask()
    assert fired == [f"blocks.{layer}.attn.hook_result" for layer in range(3)]


def test_a_filter_of_silent_points_and_others_takes_the_others(model: HookedStreamTransformer) -> None:
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x, names_filter=lambda name: name.endswith(("hook_result", "hook_z")))
    assert list(cache.keys()) == [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
    _, nothing = model.run_with_cache(x, names_filter=lambda name: False)
    assert not list(nothing.keys())


def test_of_two_ways_to_split_the_attention_input_only_one_is_on(model: HookedStreamTransformer) -> None:
    model.allow_stream_blind_tools()
    for one, other in (
        (model.set_use_attn_in, model.set_use_split_qkv_input),
        (model.set_use_split_qkv_input, model.set_use_attn_in),
    ):
        one(True)
        with pytest.raises(ValueError, match=r"mutually exclusive: .* call model.set_use_\w+\(False\) first"):
            other(True)
        other(False)
        one(False)
        other(True)
        other(False)


def test_gradients_are_refused_where_there_is_no_loss_to_run_backward_from(model: HookedStreamTransformer) -> None:
    x = inputs_for(model.config)

    def ask(**options: Any) -> Any:
        return model.run_with_cache(x, incl_bwd=True, **options)

    for options, told in (
        ({}, "a scalar output: ask for it by return_type='loss', without loss_per_token; got 'logits'"),
        ({"return_type": "loss", "loss_per_token": True}, "without loss_per_token; got 'loss'"),
        ({"return_type": "loss", "stop_at_layer": 1}, "with stop_at_layer = 1 there is none"),
    ):
        with pytest.raises(ValueError, match=told):
            ask(**options)
    with torch.no_grad(), pytest.raises(ValueError, match="gradient tracking is off"):
        ask(return_type="loss")
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no grad_fn here: neither a parameter nor the input takes a gradient"):
        ask(return_type="loss")
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    model.requires_grad_(True)
    _, cache = ask(return_type="loss")
    assert cache["blocks.1.hook_resid_post_grad"].abs().sum() > 0
