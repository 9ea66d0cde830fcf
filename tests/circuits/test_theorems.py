"""What must hold for every variant, each statement with its negation (what would be true if it were empty)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from circuits import HookedStreamTransformer
from circuits.config.gains import FixedGain, LearnedGain
from circuits.config.streams import Stream
from circuits.config.topologies import Cumulative
from tests.helpers import ALL, FULL, build, gradients, inputs_for, twin

KINDS = [("vectors", 2), ("vectors", 3), ("tokens", 3)]
GATED = [name for name in FULL if name != "classic"]


def loss_of(model: HookedStreamTransformer, inputs: Tensor) -> Tensor:
    logits = model(inputs)[:, -1]
    answers = torch.arange(len(logits)) % logits.shape[-1]
    return F.cross_entropy(logits, answers)


def gated(model: HookedStreamTransformer, gate: str) -> HookedStreamTransformer:
    return twin(model, streams=tuple(dataclasses.replace(s, gate=gate) for s in model.config.streams))


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("carrier", ["q", "k", "v"])
def test_gain_zero_is_no_stream_bit_for_bit(carrier: str, kind: str, layers: int) -> None:
    none = build("classic", kind, layers)
    zero = twin(none, streams=(Stream(carrier, gain=FixedGain(stream=0.0)),))  # type: ignore[arg-type] # literals
    one = twin(none, streams=(Stream(carrier),))  # type: ignore[arg-type]
    x = inputs_for(none.config)
    assert torch.equal(zero(x), none(x))
    assert not torch.allclose(one(x), none(x))


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", GATED)
def test_stop_gate_keeps_the_forward_and_changes_the_gradient(variant: str, kind: str, layers: int) -> None:
    full = build(variant, kind, layers)
    stop = gated(full, "stop")
    x = inputs_for(full.config)
    assert torch.equal(stop(x), full(x))
    before, after = gradients(full, loss_of(full, x)), gradients(stop, loss_of(stop, x))
    sources = {f"blocks.{j}.attn.W_{s.reads.upper()}" for s in full.config.streams for j in range(layers)}
    changed = {name for name in before if not torch.allclose(before[name], after[name])}
    assert changed & sources, "the gradient of what is passed on must change"
    unread = {n for n in before if n.startswith(("unembed", "readout", "ln_final"))}
    assert not changed & unread, "nothing after the last layer may notice"


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", GATED)
def test_gradient_only_gate_has_the_forward_of_off_and_a_gradient_through_the_stream(
    variant: str, kind: str, layers: int
) -> None:
    full = build(variant, kind, layers)
    only, off = gated(full, "gradient-only"), gated(full, "off")
    x = inputs_for(full.config)
    assert torch.equal(only(x), off(x))
    assert not torch.allclose(only(x), full(x))
    through, cut = gradients(only, loss_of(only, x)), gradients(off, loss_of(off, x))
    read = {f"blocks.0.attn.W_{s.reads.upper()}" for s in full.config.streams}
    assert any(not torch.allclose(through[name], cut[name]) for name in read)


@pytest.mark.parametrize("variant", ["value", "key", "query"])
def test_gradient_only_gate_has_the_gradient_of_the_stream(variant: str) -> None:
    """What comes back past the cut is the full gate's: grad(only) - grad(off) is a vector-Jacobian product."""
    only = gated(build(variant), "gradient-only")
    x = inputs_for(only.config)
    arriving: list[Tensor] = []
    carrier = only.config.streams[0].carrier

    def keep(t: Tensor, hook: object) -> None:
        t.register_hook(arriving.append)

    with only.hooks(fwd_hooks=[(f"blocks.1.attn.hook_{carrier}_mixed", keep)]):
        through = gradients(only, loss_of(only, x))
    off = gated(only, "off")
    cut = gradients(off, loss_of(off, x))
    name = f"blocks.0.attn.W_{carrier.upper()}"
    expected = torch.einsum("bpi,bpho->hio", x, arriving[0])
    assert torch.allclose(through[name] - cut[name], expected, atol=1e-12)
    assert expected.abs().max() > 1e-6


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize(("kind", "layers"), KINDS)
def test_every_parameter_gets_gradient(variant: str, kind: str, layers: int) -> None:
    model = build(variant, kind, layers)
    x = inputs_for(model.config, batch=6)
    loss = loss_of(model, x) if kind == "vectors" else F.cross_entropy(model(x).flatten(0, 1), x.flatten())
    dead = [name for name, gradient in gradients(model, loss).items() if gradient.abs().max() == 0]
    # A key bias moves every score of a query alike, so softmax cannot see it, unless the stream passes the key on.
    assert [name for name in dead if not name.endswith("b_K")] == []


def test_a_parameter_that_nothing_reads_would_be_seen() -> None:
    """The negation: with the stream off, its learned gains are dead, and the test above would say so."""
    model = gated(build("resformer-learned"), "off")
    found = gradients(model, loss_of(model, inputs_for(model.config)))
    assert [n for n, g in found.items() if g.abs().max() == 0] == ["blocks.1.attn.mix.v.stream_gain"]


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", ALL)
def test_causality_by_gradients(variant: str, kind: str, layers: int) -> None:
    """The gradient of position 3's logits is zero at every later position, and not zero at every earlier one."""
    model = build(variant, kind, layers)
    x = inputs_for(model.config)
    residual = model.input_residual(x).detach().requires_grad_()
    model(residual, start_at_layer=0)[:, 3].square().sum().backward()
    assert residual.grad is not None
    by_position = residual.grad.abs().sum(dim=(0, 2))
    assert (by_position[4:] == 0).all()
    assert (by_position[:4] > 0).all()


@pytest.mark.parametrize("variant", ["value", "key", "query"])
def test_cumulative_and_previous_coincide_with_two_layers_and_differ_with_three(variant: str) -> None:
    for layers, same in ((2, True), (3, False)):
        raw = build(variant, "vectors", layers)
        summed = twin(raw, streams=tuple(dataclasses.replace(s, topology=Cumulative()) for s in raw.config.streams))
        x = inputs_for(raw.config)
        assert torch.allclose(raw(x), summed(x), atol=1e-12) is same


def test_modded_nanogpt_is_convex() -> None:
    model = build("modded-nanogpt")
    mix = model.layers[1].attn.mixes()[0][1]
    with torch.no_grad():
        mix.get_parameter("stream_gain").fill_(0.3)
        own, stream = mix.gains(torch.zeros(1))
    assert float(own) == pytest.approx(0.7)
    assert float(torch.as_tensor(stream[0]).detach()) == pytest.approx(0.3)


def test_a_gate_rule_speaks_of_its_connection_alone() -> None:
    from circuits.config.streams import GateRule
    from circuits.config.topologies import Dense

    rule = GateRule("off", reader=2, source=0, head=1)
    plain = build("classic", "tokens", 3)
    full = twin(plain, streams=(Stream("v", topology=Dense()),))
    ruled = twin(plain, streams=(Stream("v", topology=Dense(), gate_rules=(rule,)),))
    x = inputs_for(plain.config)
    _, a = full.run_with_cache(x)
    _, b = ruled.run_with_cache(x)
    assert torch.equal(a["v_mixed", 1], b["v_mixed", 1])
    missing = a["v_residual", 2] - b["v_residual", 2]
    assert torch.allclose(missing[:, :, 1], a["v_stream", 0][:, :, 1], atol=1e-12)
    assert torch.equal(missing[:, :, [0, 2, 3]], torch.zeros_like(missing[:, :, [0, 2, 3]]))


@pytest.mark.parametrize("variant", ["value", "lime", "x-transformers", "rwkv7-rule"])
@pytest.mark.parametrize("share", [0.3, -1.0])
def test_a_share_of_the_gradient_lies_between_a_full_gate_and_a_stopped_one(variant: str, share: float) -> None:
    model = build(variant, "tokens", 2)
    x = inputs_for(model.config)
    streams = tuple(dataclasses.replace(stream, gradient=share) for stream in model.config.streams)
    scaled = twin(model, streams=streams)
    assert torch.equal(scaled(x), model(x)), "the value stays to the bit"
    full, part, stopped = (gradients(m, loss_of(m, x)) for m in (model, scaled, gated(model, "stop")))
    # With two layers no path crosses the stream twice.
    assert all(torch.allclose(part[n], stopped[n] + share * (full[n] - stopped[n]), atol=1e-12) for n in full)
    assert not all(torch.allclose(part[n], full[n], atol=1e-9) for n in full)


def test_gates_can_change_and_come_back() -> None:
    model = build("value")
    x = inputs_for(model.config)
    before = model(x)
    with model.gated("gradient-only") as cut:
        assert cut.config.streams[0].gate == "gradient-only"
        assert not torch.allclose(cut(x), before)
    assert torch.equal(model(x), before)
    model.set_gate("off", "v")
    assert model.config.streams[0].gate == "off"
    assert not torch.allclose(model(x), before)


def test_per_head_learned_gains_mix_heads_apart() -> None:
    plain = build("classic", "tokens", 2)
    model = HookedStreamTransformer(
        dataclasses.replace(plain.config, streams=(Stream("v", gain=LearnedGain(per_head=True)),))
    )
    gain = dict(model.named_parameters())["blocks.1.attn.mix.v.stream_gain"]
    assert gain.shape == (1, 4, 1)
