"""Hooks: names, flags, and the traps that a second route lays (each test shows the trap, and that ours avoids it)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.patching import generic_activation_patch, layer_pos_patch_setter

from analysis import Ablation, Pair, Site, ablate, find_sites, patch
from circuits import HookedStreamTransformer
from tests.helpers import FULL, build, inputs_for

GATED = [name for name in FULL if name != "classic"]


def pair_for(model: HookedStreamTransformer) -> Pair:
    clean, corrupt = inputs_for(model.config, 5, seed=1), inputs_for(model.config, 5, seed=2)
    answers = torch.arange(5) % model.config.readout.d_vocab_out
    wrong = (answers + 1) % model.config.readout.d_vocab_out
    return Pair(clean, corrupt, answers, wrong, {"last": torch.full((5, 1), clean.shape[1] - 1)})


def zero(activation: Tensor, hook: Any) -> Tensor:
    return activation * 0


# --- names and flags --------------------------------------------------------------------------------------------------


def test_unknown_hook_names_are_errors_with_the_nearest_name() -> None:
    model = build("value")
    x = inputs_for(model.config)
    for use in (
        lambda: model.run_with_hooks(x, fwd_hooks=[("blocks.0.attn.hook_v_mixd", zero)]),
        lambda: model.add_hook("blocks.0.attn.hook_v_mixd", zero),
        lambda: model.run_with_cache(x, names_filter="blocks.0.attn.hook_v_mixd"),
        lambda: model.run_with_cache(x, names_filter=["blocks.0.attn.hook_v_mixd"]),
    ):
        with pytest.raises(KeyError, match=r"unknown hook point .*did you mean 'blocks.0.attn.hook_v_mixed'"):
            use()
    with pytest.raises(KeyError, match="unknown hook point 'blocks.0.attn.hook_v_residual'"):
        model.add_hook("blocks.0.attn.hook_v_residual", zero)  # nothing comes in at layer 0


def test_a_point_whose_flag_is_off_is_an_error_by_name_and_left_out_by_filter() -> None:
    model = build("value", "tokens")
    x = inputs_for(model.config)
    with pytest.raises(
        ValueError, match=r"does not fire while cfg.use_attn_result is off; call model.set_use_attn_result"
    ):
        model.run_with_hooks(x, fwd_hooks=[("blocks.0.attn.hook_result", zero)])
    model.run_with_hooks(x, fwd_hooks=[(lambda name: name.endswith(("hook_result", "hook_z")), zero)])
    assert "blocks.0.attn.hook_result" not in model.run_with_cache(x)[1]
    model.set_use_attn_result(True)
    assert "blocks.0.attn.hook_result" in model.run_with_cache(x)[1]


def test_short_names_work_for_hooks_and_caches() -> None:
    model = build("value")
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x, names_filter="blocks.1.hook_v_mixed")
    assert list(cache.keys()) == ["blocks.1.attn.hook_v_mixed"]
    assert torch.equal(cache["v_mixed", 1], cache["v_mixed", -1])
    assert torch.equal(cache["v_mixed", 1], cache["blocks.1.hook_v_mixed"])
    assert torch.equal(cache.apply_slice_to_batch_dim(1)["v_mixed", -1], cache["v_mixed", 1][1])
    assert cache.apply_slice_to_batch_dim((0, 2))["blocks.1.hook_v_mixed"].shape[0] == 2
    by_short = model.run_with_hooks(x, fwd_hooks=[("blocks.1.hook_v_mixed", zero)])
    assert torch.equal(by_short, model.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_v_mixed", zero)]))


def test_positions_are_sliced_on_the_position_axis_of_every_point() -> None:
    """The trap: transformer-lens goes by names it knows, and would slice ``hook_v_mixed`` on the head axis."""
    model = build("value", "tokens")
    x = inputs_for(model.config)
    _, whole = model.run_with_cache(x)
    _, sliced = model.run_with_cache(x, pos_slice=(1, 4))
    for name in ("v", "v_mixed", "v_stream", "z", "resid_pre"):
        assert torch.equal(sliced[name, 0], whole[name, 0][:, 1:4]), name
    assert torch.equal(sliced["v_residual", 1], whole["v_residual", 1][:, 1:4])
    assert torch.equal(sliced["pattern", 0], whole["pattern", 0][:, :, 1:4])


@pytest.mark.parametrize("variant", ["classic", "value"])
@pytest.mark.parametrize("flag", ["use_split_qkv_input", "use_attn_in", "use_attn_result"])
@pytest.mark.parametrize("cut", [[-1], (1, 3), [0, 4]])
def test_every_point_is_sliced_by_position_under_every_flag(variant: str, flag: str, cut: Any) -> None:
    """A norm of split inputs has an axis of heads more than its name says."""
    model = build(variant, "tokens")
    model.allow_stream_blind_tools()
    getattr(model, f"set_{flag}")(True)
    x = inputs_for(model.config, 1)
    _, whole = model.run_with_cache(x)
    index: Any = slice(*cut) if isinstance(cut, tuple) else cut
    for alone in (False, True):
        _, sliced = model.run_with_cache(x, pos_slice=cut, remove_batch_dim=alone)
        for name, full in whole.items():
            wanted = full[:, :, index] if name.endswith(("pattern", "attn_scores")) else full[:, index]
            wanted = wanted[0] if alone and full.shape[0] == 1 else wanted
            assert torch.equal(sliced[name], wanted), name


def test_backward_hooks_see_both_routes() -> None:
    model = build("value")
    x = inputs_for(model.config)
    found: dict[str, Tensor] = {}

    def keep(gradient: Tensor, hook: Any) -> None:
        found[hook.name] = gradient

    names = ["blocks.0.attn.hook_v", "blocks.0.attn.hook_z", "blocks.0.attn.hook_v_stream"]
    _, cache = model.run_with_cache(x)
    with model.hooks(bwd_hooks=[(name, keep) for name in names]):
        model(x)[:, -1].square().sum().backward()
    local = torch.einsum("bhqk,bqhd->bkhd", cache["pattern", 0], found["blocks.0.attn.hook_z"])
    assert torch.allclose(found["blocks.0.attn.hook_v"], local + found["blocks.0.attn.hook_v_stream"], atol=1e-12)
    assert found["blocks.0.attn.hook_v_stream"].abs().max() > 1e-6


# --- P1: the residual stream is not the state ---------------------------------------------------------------------


@pytest.mark.parametrize("variant", GATED)
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_p1_the_residual_stream_is_not_the_state(variant: str, kind: str) -> None:
    model = build(variant, kind, 3)
    pair = pair_for(model)
    clean = model(pair.clean)
    reads_earlier = [layer for layer in (1, 2) if model.reads_from(layer)]
    _, cache = model.run_with_cache(pair.clean)
    for layer in reads_earlier:
        name = f"blocks.{layer}.hook_resid_pre"
        trap = model.run_with_hooks(pair.corrupt, fwd_hooks=[(name, lambda t, hook: cache[hook.name])])
        assert not torch.allclose(trap, clean), "the stream still carries the corrupt run"
    found = patch(model, pair, [Site(layer, "state") for layer in range(3)])
    assert torch.allclose(found.normalised_effect(), torch.ones(3).double(), atol=1e-12)
    assert torch.allclose(found.values, found.target.expand_as(found.values), atol=1e-12)


def test_p1_on_the_classic_model_the_residual_stream_is_the_state() -> None:
    model = build("classic", "tokens", 3)
    pair = pair_for(model)
    found = patch(model, pair, [Site(2, "state"), Site(2, "resid_pre")])
    assert torch.allclose(found.values[0], found.values[1], atol=1e-12)


# --- P2: q, k and v no longer determine a head --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_p2_own_projections_do_not_determine_a_head_but_what_it_uses_does(kind: str) -> None:
    model = build("value", kind, 3)
    pair = pair_for(model)
    _, clean = model.run_with_cache(pair.clean)

    def head_output(*points: str) -> Tensor:
        hooks: Any = [(f"blocks.2.attn.hook_{p}", lambda t, hook: clean[hook.name]) for p in points]
        with model.hooks(fwd_hooks=hooks):
            return model.run_with_cache(pair.corrupt)[1]["z", 2]

    assert not torch.allclose(head_output("q", "k", "v"), clean["z", 2], atol=1e-3)
    assert torch.allclose(head_output("q", "k", "v_mixed"), clean["z", 2], atol=1e-12)
    routes = {site.route for site in find_sites(model, ["v"], layers=[2])}
    assert routes == {"own", "residual", "mixed"}, "a sweep covers them all unless told otherwise"


# --- P3: ablating z does not remove a head ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["value", "cumulative", "key", "resformer-constant"])
def test_p3_a_head_without_its_output_still_speaks_through_the_stream(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config, 6)
    silent = model.run_with_hooks(x, fwd_hooks=[("blocks.0.attn.hook_z", _without_head(1))])
    gone = model.run_with_hooks(x, fwd_hooks=_all_of_head(model, 1))
    assert not torch.allclose(silent, gone), "the trap: its values still travel"
    rows = ablate(model, Pair.one_sided(x, x[:, 0]), [Ablation.z(model, 0, 1), Ablation.head(model, 0, 1)]).to_frame()
    losses = [float(torch.nn.functional.cross_entropy(logits[:, -1], x[:, 0]).detach()) for logits in (silent, gone)]
    assert rows.loss_ablated.tolist() == pytest.approx(losses)
    assert (rows.changed > 0).all()


def _without_head(head: int) -> Any:
    def remove(t: Tensor, hook: Any) -> Tensor:
        t = t.clone()
        t[:, :, head] = 0
        return t

    return remove


def _all_of_head(model: HookedStreamTransformer, head: int) -> Any:
    carriers = {stream.reads for stream in model.config.streams}
    return [(f"blocks.0.attn.hook_{name}", _without_head(head)) for name in ("z", *carriers)]


# --- P10: patch setters write in place ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", GATED)
def test_p10_an_in_place_patch_of_one_branch_leaves_the_other_alone(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config)
    _, before = model.run_with_cache(x)

    def in_place(t: Tensor, hook: Any) -> Tensor:
        t.zero_()  # what transformer-lens' setters do
        return t

    for stream in model.config.streams:
        name = f"blocks.0.attn.hook_{stream.reads}_stream"
        with torch.no_grad(), model.hooks(fwd_hooks=[(name, in_place)]):
            _, after = model.run_with_cache(x)
        assert torch.equal(after[stream.reads, 0], before[stream.reads, 0]), "the layer's own projection"
        reads_itself = 0 in stream.topology.sources(0)
        assert torch.equal(after["z", 0], before["z", 0]) is not reads_itself, "what it does with it itself"
        assert (after[f"{stream.reads}_stream", 0] == 0).all()


def test_p10_without_a_fork_the_trap_is_real() -> None:
    own = torch.ones(3)
    branch = own  # the same storage, as an identity hook point would hand it on
    branch.zero_()
    assert own.sum() == 0


def test_p10_transformer_lens_own_patching_of_one_branch_is_that_of_the_branch_alone() -> None:
    model = build("value", "tokens", 3)
    pair = pair_for(model)
    _, cache = model.run_with_cache(pair.clean)

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1].logsumexp(-1).mean()

    with torch.no_grad():
        result = generic_activation_patch(
            model, pair.corrupt, cache, metric, layer_pos_patch_setter, "v_mixed", ("layer", "pos")
        )
        for layer in range(3):
            for pos in range(pair.n_pos):

                def setter(t: Tensor, hook: Any, pos: int = pos) -> Tensor:
                    t = t.clone()
                    t[:, pos] = cache[hook.name][:, pos]
                    return t

                name = f"blocks.{layer}.attn.hook_v_mixed"
                expected = metric(model.run_with_hooks(pair.corrupt, fwd_hooks=[(name, setter)]))
                assert float(result[layer, pos]) == pytest.approx(float(expected), abs=1e-6)
