"""The gradient's shares by route: they add up, they are what they are called, and they vanish where they must."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from analysis import Connection, GradientSplit, split_gradient
from analysis.gradients.split import GradientSteps, connections
from analysis.ready import NotFiniteError
from circuits import HookedStreamTransformer
from circuits.config.streams import GateRule, Stream
from circuits.config.topologies import Dense
from figures.models.gradients import gradient_pairs
from tests.helpers import ALL, build, gradients, inputs_for, model_of, token_config, twin
from tests.random_streams import one_stream

KINDS = [("vectors", 2), ("vectors", 3), ("tokens", 3)]


def loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, -1], torch.arange(len(logits)) % logits.shape[-1])


def every_point(model: HookedStreamTransformer) -> list[str]:
    return [name for name in model.hook_dict if model.can_fire(name)]


def with_open(model: HookedStreamTransformer, open_ones: Iterable[Connection]) -> HookedStreamTransformer:
    """The same model, whose gates are on stop but for some connections."""
    opened = list(open_ones)
    streams = [
        dataclasses.replace(
            stream,
            gate="stop",
            gate_rules=tuple(GateRule("full", c.reader, c.source) for c in opened if c.fed == stream.carrier),
        )
        for stream in model.config.streams
    ]
    return twin(model, streams=tuple(streams))


def gradients_at(model: HookedStreamTransformer, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """The gradient at activations, by autograd alone."""
    seen: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> Tensor:
        seen[hook.name] = activation if activation.requires_grad else activation.detach().requires_grad_()
        return seen[hook.name]

    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        value = loss(model(x))
    found = torch.autograd.grad(value, [seen[name] for name in names], allow_unused=True)
    return {n: torch.zeros_like(seen[n]) if g is None else g for n, g in zip(names, found, strict=True)}


def same(a: dict[str, Tensor], b: dict[str, Tensor], names: Iterable[str]) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-12) for name in names)


# --- the shares are what they are called ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", ALL)
def test_shares_add_to_the_whole_for_every_parameter_and_activation(variant: str, kind: str, layers: int) -> None:
    model = build(variant, kind, layers)
    x = inputs_for(model.config)
    split = split_gradient(model, loss, x, every_point(model), by="pair")
    assert split.error < 1e-12
    assert set(split.whole) == {name for name, _ in model.named_parameters()} | set(every_point(model))
    whole = gradients(model, loss(model(x)))
    assert all(torch.allclose(split.whole[n], whole[n], atol=1e-14) for n in whole)
    with_stream = bool(model.config.streams) and not variant.endswith("-stop")
    assert any(split.stream[n].abs().max() > 1e-9 for n in whole) is with_stream
    total = split_gradient(model, loss, x, every_point(model))
    assert total.crossings == {}
    assert same(total.stream, split.stream, split.whole)


@pytest.mark.parametrize("variant", ["value", "key", "query", "cumulative", "lime", "resformer-dense", "within-layer"])
def test_the_direct_share_is_the_gradient_with_every_gate_stopped(variant: str) -> None:
    model = build(variant, "tokens", 3)
    stopped = with_open(model, [])
    x = inputs_for(model.config)
    names = [n for n in every_point(model) if "hook_from" not in n]
    split = split_gradient(model, loss, x, names)
    expected = gradients(stopped, loss(stopped(x))) | gradients_at(stopped, names, x)
    assert same(split.direct, expected, expected)
    assert not same(split.direct, split.whole, [n for n in expected if ".attn.W_" in n])
    assert not same(split.direct, split.whole, [n for n in names if n.endswith("_stream")])
    assert same(split.whole, gradients_at(model, names, x), names)


CHAINS = [("resformer-dense", 4), ("value", 4), ("cumulative", 4), ("lime", 4), ("transformed", 4), ("within-layer", 3)]


@pytest.mark.parametrize(("variant", "layers"), CHAINS)
def test_a_crossing_is_what_only_its_connection_adds_before_all_later_ones(variant: str, layers: int) -> None:
    """With gates: open what may come after a connection on a path, then open the connection too."""
    model = build(variant, "tokens", layers)
    x = inputs_for(model.config)
    names = ["blocks.0.attn.hook_v", "blocks.1.attn.hook_z", "blocks.1.hook_resid_pre"]
    split = split_gradient(model, loss, x, names, by="pair")
    pairs = connections(model.config)
    assert list(split.crossings) == pairs

    def gradient(open_ones: list[Connection]) -> dict[str, Tensor]:
        gated = with_open(model, open_ones)
        return gradients(gated, loss(gated(x))) | gradients_at(gated, names, x)

    alone_would_do = True
    for pair in pairs:
        later = [c for c in pairs if c.source >= pair.reader and c != pair]
        after, before = gradient([pair, *later]), gradient(later)
        expected = {name: after[name] - before[name] for name in after}
        assert same(split.crossings[pair], expected, expected), pair
        alone, none = gradient([pair]), gradient([])
        alone_would_do &= same(split.crossings[pair], {n: alone[n] - none[n] for n in alone}, alone)
    assert not alone_would_do, "paths through several connections belong to one of them"


def test_a_path_belongs_to_the_crossing_nearest_the_parameter() -> None:
    """Three layers, layer 2 reads 1 and 1 reads 0: what enters layer 0 from the stream, whatever its past, is one."""
    model = build("value", "vectors", 3)
    split = split_gradient(model, loss, inputs_for(model.config), by="pair")
    first, second = Connection(1, 0, "v", "v"), Connection(2, 1, "v", "v")
    assert set(split.crossings) == {first, second}
    into_0, into_1 = split.crossings[first], split.crossings[second]
    assert into_0["blocks.0.attn.W_V"].abs().max() > 1e-9
    assert into_1["blocks.1.attn.W_V"].abs().max() > 1e-9
    assert into_0["blocks.1.attn.W_V"].abs().max() == 0, "nothing of layer 1 is behind what enters layer 0"
    assert into_1["blocks.0.attn.W_V"].abs().max() > 1e-9, "through layer 1's values and the residual stream"


def test_connections_are_told_apart_by_layers_and_carriers() -> None:
    assert connections(build("cross-carrier", "tokens", 3).config) == [
        Connection(1, 0, "k", "v"),
        Connection(2, 1, "k", "v"),
    ]
    assert len(connections(token_config("lime", 4))) == 12
    assert connections(token_config("classic", 4)) == []


def test_on_the_classic_model_everything_is_direct() -> None:
    model = build("classic", "tokens", 3)
    split = split_gradient(model, loss, inputs_for(model.config), every_point(model), by="pair")
    assert split.crossings == {}
    assert all(torch.equal(split.direct[name], split.whole[name]) for name in split.whole)
    assert all(share.abs().max() == 0 for share in split.stream.values())


def test_gates_of_single_heads_are_respected() -> None:
    stream = Stream("v", topology=Dense(), gate_rules=(GateRule("stop", head=1), GateRule("off", 2, 0, 2)))
    model = model_of(token_config("classic", 3, streams=(stream,)))
    split = split_gradient(model, loss, inputs_for(model.config), by="pair")
    assert split.error < 1e-12
    for pair, heads in ((Connection(1, 0, "v", "v"), [0, 2, 3]), (Connection(2, 0, "v", "v"), [0, 3])):
        reached = split.crossings[pair]["blocks.0.attn.W_V"].abs().amax((1, 2)) > 1e-9
        assert reached.nonzero().flatten().tolist() == heads, pair


def test_what_is_read_lies_behind_its_connection_and_what_is_passed_on_before_it() -> None:
    model = build("value", "tokens", 3)
    names = [f"blocks.1.attn.{n}" for n in ("mix.v.hook_from_0", "hook_v_residual")] + ["blocks.0.attn.hook_v_stream"]
    split = split_gradient(model, loss, inputs_for(model.config), names)
    read, residual, passed = (({k: getattr(split, k)[n] for k in ("whole", "direct", "stream")}) for n in names)
    assert same(read, residual, read)
    assert torch.allclose(read["whole"], passed["whole"])
    assert passed["direct"].abs().max() == 0
    assert read["direct"].abs().max() > 1e-9


# --- how it is done ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["total", "pair"])
def test_there_is_one_forward_pass_and_nothing_is_left_behind(by: Any) -> None:
    model = build("resformer-dense", "vectors", 4)
    x, passes = inputs_for(model.config), 0

    def count(activation: Tensor, hook: Any) -> None:
        nonlocal passes
        passes += 1

    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", count)]):
        split_gradient(model, loss, x, ["hook_embed"], by)
    assert passes == 1
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad


def test_parameters_that_do_not_learn_are_left_out() -> None:
    model = build("value", "tokens", 3)
    x = inputs_for(model.config)
    everything = split_gradient(model, loss, x)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "blocks.0.attn.W_V")
    split = split_gradient(model, loss, x)
    assert list(split.whole) == ["blocks.0.attn.W_V"]
    assert same(split.stream, everything.stream, split.stream)
    model.requires_grad_(False)
    at = split_gradient(model, loss, x, ["hook_embed"])
    assert list(at.whole) == ["hook_embed"]
    assert at.stream["hook_embed"].abs().max() > 1e-9


# --- single connections have hook points ----------------------------------------------------------------------------


def zero_in_place(tensor: Tensor, hook: Any) -> Tensor:
    return tensor.zero_()


@pytest.mark.parametrize("variant", ["resformer-dense", "cumulative", "lime", "transformed"])
def test_a_connection_that_reads_zero_is_a_connection_that_is_off(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config)
    for pair in connections(model.config):
        streams = (
            dataclasses.replace(s, gate_rules=(GateRule("off", pair.reader, pair.source),))
            if s.carrier == pair.fed
            else s
            for s in model.config.streams
        )
        expected = twin(model, streams=tuple(streams))(x)
        with torch.no_grad():
            found = model.run_with_hooks(x, fwd_hooks=[(pair.hook_name, zero_in_place)])
        assert torch.allclose(found, expected, atol=1e-12), pair
        assert not torch.allclose(found, model(x), atol=1e-9)


def test_connections_have_storage_of_their_own_and_positions_on_their_third_axis() -> None:
    model = build("resformer-dense", "tokens", 3)
    x = inputs_for(model.config)
    name, other = "blocks.1.attn.mix.v.hook_from_0", "blocks.2.attn.mix.v.hook_from_0"
    _, before = model.run_with_cache(x)
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, zero_in_place)]):
        _, after = model.run_with_cache(x)
    assert after[name].abs().max() == 0
    assert torch.equal(after[other], before[other]), "what another layer reads of the same source"
    assert torch.equal(after["v", 0], before["v", 0])
    assert torch.equal(after["v_stream", 0], before["v_stream", 0])
    _, cut = model.run_with_cache(x, pos_slice=(1, 4))
    assert torch.equal(cut[other], before[other][:, 1:4])
    assert not any("hook_from" in point for point in build("classic").hook_dict)
    assert "blocks.0.attn.mix.v.hook_from_0" not in model.hook_dict, "nothing comes in at layer 0"


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_have_a_row_a_tensor_and_head() -> None:
    model = build("value", "tokens", 2)
    names = ["blocks.0.attn.hook_v", "blocks.0.attn.hook_pattern", "blocks.0.hook_resid_pre", "hook_embed"]
    split = split_gradient(model, loss, inputs_for(model.config), names)
    frame = split.to_frame()
    values = frame[frame.tensor == "blocks.0.attn.W_V"]
    assert list(values["head"]) == ["0", "1", "2", "3"]
    assert (frame[frame.tensor == "unembed.W_U"]["stream"] == 0).all()
    assert ((values.stream_share > 0) & (values.stream_share < 1)).all()
    assert (values.stream_share - values.stream / (values.direct + values.stream)).abs().max() < 1e-12
    assert frame[["alignment", "direct_cosine", "stream_cosine"]].abs().max().max() <= 1 + 1e-9
    activations = frame[frame.kind == "activation"]
    assert activations.groupby("tensor", sort=False).size().to_dict() == dict(zip(names, (4, 4, 1, 1), strict=True))
    assert set(activations.layer) == {"0", "hook_embed"}
    row = activations[(activations.tensor == names[0]) & (activations["head"] == "2")].iloc[0]
    assert row.direct == pytest.approx(float(split.direct[names[0]][:, :, 2].norm()))
    assert row.direct != pytest.approx(float(split.direct[names[0]][:, 2].norm()))
    direct, whole = (share[names[0]][:, :, 2].flatten() for share in (split.direct, split.whole))
    assert row.direct_cosine == pytest.approx(float(F.cosine_similarity(direct, whole, dim=0)))


def test_steps_say_how_much_came_through_the_stream_or_that_none_did() -> None:
    def steps(variant: str, numbers: Iterable[int]) -> GradientSteps:
        model = build(variant, "tokens", 2)
        split = split_gradient(model, loss, inputs_for(model.config))
        return GradientSteps(pd.concat([split.to_frame().assign(step=step) for step in numbers]))

    found = steps("value", (0, 7, 90)).finding()
    assert found.startswith("3 steps")
    assert "at step 0, 0." in found
    assert "at step 90, 0." in found
    assert found.count("at step") == 2
    assert steps("value", [5]).finding().count("at step") == 1
    assert steps("classic", (0, 7)).finding().endswith("none anywhere")


def test_pairs_have_a_frame_and_a_figure_of_their_own() -> None:
    model = build("resformer-dense", "tokens", 3)
    split = split_gradient(model, loss, inputs_for(model.config), by="pair")
    frame = split.pairs_to_frame()
    rows = frame[(frame.tensor == "blocks.0.attn.W_V") & (frame["head"] == "1")]
    assert list(zip(rows.reader, rows.source, strict=True)) == [(1, 0), (2, 0), (2, 1)]
    direct = float(split.direct["blocks.0.attn.W_V"][1].norm())
    assert rows.share.tolist() == pytest.approx((rows.norm / (direct + rows.norm.sum())).tolist())
    assert rows.share.min() > 0
    figure: Any = gradient_pairs(frame.assign(step=7, run="a run"))
    assert list(figure.data[0].x) == ["v0 → v1", "v0 → v2", "v1 → v2"]
    assert "W_V of L0H1" in list(figure.data[0].y)
    assert "W_V of L2H0" not in list(figure.data[0].y), "no connection leaves the last layer"
    assert figure.layout.meta["runs"] == ["a run"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_identity_is_asserted_and_an_error_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("value")
    x, points = inputs_for(model.config), ["blocks.0.attn.hook_v"]
    split = split_gradient(model, loss, x, points)
    for name in ("blocks.0.attn.W_V", *points):
        broken = dataclasses.replace(split, direct=split.direct | {name: split.direct[name] * 1.01})
        assert broken.error > 1e-5
    monkeypatch.setattr(GradientSplit, "error", property(lambda self: 0.5))
    with pytest.raises(AssertionError, match=r"the shares miss the whole gradient by 5.00e-01 of its norm"):
        split_gradient(model, loss, x)


def test_single_precision_is_precise_enough() -> None:
    model = build("lime", "tokens", 4).float()
    assert split_gradient(model, loss, inputs_for(model.config), every_point(model)).error < 1e-6


def test_mistakes_are_explained() -> None:
    model = build("value")
    x = inputs_for(model.config)
    with pytest.raises(ValueError, match="evaluation mode"):
        split_gradient(model.train(), loss, x)
    with pytest.raises(ValueError, match=r"a loss must be one number with a gradient, got shape \(3,\)"):
        split_gradient(model.eval(), lambda logits: logits[:, -1, 0], x)
    with pytest.raises(ValueError, match=r"one number with a gradient, and this one has none: .* by .detach\(\)"):
        split_gradient(model, lambda logits: logits.detach().sum(), x)
    with pytest.raises(NotFiniteError, match="the loss is nan, so no gradient can be split; correct the data"):
        split_gradient(model, lambda logits: logits.sum() * torch.nan, x)
    with pytest.raises(NotFiniteError, match=r"the gradient of .* is not finite \(\d+ of \d+ tensors\)"):
        split_gradient(model, lambda logits: (logits - logits.detach()).abs().sqrt().sum(), x)
    with pytest.raises(
        ValueError, match="unknown hook point 'blocks.0.attn.hook_vv': did you mean 'blocks.0.attn.hook_v'"
    ):
        split_gradient(model, loss, x, ["blocks.0.attn.hook_vv"])
    with pytest.raises(ValueError, match="does not fire while cfg.use_attn_result is off"):
        split_gradient(model, loss, x, ["blocks.0.attn.hook_result"])
    with pytest.raises(ValueError, match=r"this split knows no layer pairs; use split_gradient\(..., by='pair'\)"):
        split_gradient(model, loss, x).pairs_to_frame()


def test_it_is_the_same_wherever_it_is_asked() -> None:
    model = build("cumulative", "tokens", 3)
    x = inputs_for(model.config)
    wanted = split_gradient(model, loss, x)
    with torch.no_grad():
        found = split_gradient(model, loss, x)
        assert not torch.is_grad_enabled(), "what the caller has stays so"
    assert all(found.whole[name].equal(gradient) for name, gradient in wanted.whole.items())
    assert all(found.stream[name].equal(gradient) for name, gradient in wanted.stream.items())
    told = r"splitting a gradient takes gradients, and torch.inference_mode\(\) keeps none: leave it"
    with torch.inference_mode():
        made_there = inputs_for(model.config).clone()
        with pytest.raises(ValueError, match=told):
            split_gradient(model, loss, x)
    with pytest.raises(ValueError, match=told):
        split_gradient(model, loss, made_there)


def test_of_a_model_that_learns_nothing_activations_have_a_gradient() -> None:
    model, name = build("value", "tokens", 2), "blocks.1.attn.hook_v"
    x = inputs_for(model.config)
    wanted = split_gradient(model, loss, x, [name]).whole[name]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no parameter learns .*; call model.requires_grad_\(\), or name activations"):
        split_gradient(model, loss, x)
    found = split_gradient(model, loss, x, [name]).whole
    assert list(found) == [name]
    assert torch.allclose(found[name], wanted, atol=1e-12)
    assert wanted.abs().max() > 0


@settings(max_examples=30, derandomize=True)
@given(parts=st.lists(one_stream, min_size=1, max_size=2), layers=st.integers(2, 4), seed=st.integers(0, 99))
def test_shares_add_up_for_random_architectures(parts: Any, layers: int, seed: int) -> None:
    try:
        config = token_config("classic", layers, streams=tuple(Stream(**part) for part in parts))
    except ValueError:
        return  # contradictory; other tests see to the message
    model: HookedStreamTransformer = model_of(config, seed)
    x = inputs_for(config, seed=seed)
    split = split_gradient(model, loss, x, every_point(model), by="pair")
    assert split.error < 1e-11
    assert same(split.stream, split_gradient(model, loss, x, every_point(model)).stream, split.whole)
