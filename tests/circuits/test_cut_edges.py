"""An edge of the residual stream that is cut: one projection reads the stream without what one part wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits import HookedStreamTransformer, Intervention, Site, Without, Zero, icl_config, intervened, lm_config
from circuits.config.gains import FixedGain
from circuits.config.layers import ResidualScalars
from circuits.config.streams import Stream
from tests.helpers import build, gradients, inputs_for

V = Site(1, "v")
LM = {"d_model": 16, "n_heads": 2, "n_layers": 3, "d_vocab": 30, "n_ctx": 12}


def classifier(variant: str) -> tuple[HookedStreamTransformer, Tensor]:
    model = build(variant, n_layers=2)
    return model, inputs_for(model.config)


def language_model(variant: str) -> tuple[HookedStreamTransformer, Tensor]:
    model = HookedStreamTransformer(lm_config("0.2m", variant, **LM)).double().eval()
    return model, torch.randint(0, 30, (3, 9), generator=torch.Generator().manual_seed(0))


def by_split_inputs(model: HookedStreamTransformer, x: Tensor, site: Site, layer: int, component: str) -> Tensor:
    """The same with transformer-lens' own copies of what every projection reads."""
    sent: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> None:
        sent["it"] = activation

    def less(activation: Tensor, hook: Any) -> Tensor:
        return activation - sent["it"][:, :, None]

    hooks = [
        (f"blocks.{layer}.hook_{component}", keep),
        (f"blocks.{site.layer}.hook_{site.component}_input", less),
    ]
    model.allow_stream_blind_tools()
    model.set_use_split_qkv_input(True)
    try:
        return model.run_with_hooks(x, fwd_hooks=hooks)
    finally:
        model.set_use_split_qkv_input(False)


@pytest.mark.parametrize("make", [classifier, language_model])
@pytest.mark.parametrize("variant", ["classic", "value", "resformer-dense"])
@pytest.mark.parametrize("carrier", ["q", "k", "v"])
def test_a_cut_edge_is_that_of_split_inputs_in_value_and_gradient(make: Any, variant: str, carrier: str) -> None:
    model, x = make(variant)
    site = Site(1, carrier)
    with intervened(model, [Intervention(site, Without(0))]):
        cut = model(x)
        found = gradients(model, cut.square().sum())
    other = by_split_inputs(model, x, site, 0, "attn_out")
    assert torch.allclose(cut, other, atol=1e-10)
    assert not torch.allclose(cut, model(x), atol=1e-6)
    for name, gradient in gradients(model, other.square().sum()).items():
        assert torch.allclose(found[name], gradient, atol=1e-10), name


@pytest.mark.parametrize(("layer", "component"), [(0, "mlp_out"), (1, "attn_out"), (1, "mlp_out")])
def test_every_earlier_part_can_be_taken_away_and_each_is_another(layer: int, component: Any) -> None:
    model, x = language_model("value")
    site = Site(2, "v")
    with intervened(model, [Intervention(site, Without(layer, component))]):
        cut = model(x)
    assert torch.allclose(cut, by_split_inputs(model, x, site, layer, component), atol=1e-10)
    with intervened(model, [Intervention(site, Without(0, "attn_out"))]):
        assert not torch.allclose(cut, model(x), atol=1e-6)


def test_in_two_layers_without_a_norm_what_is_left_are_values_of_the_input() -> None:
    model, x = classifier("classic")
    with intervened(model, [Intervention(V, Without(0))]):
        _, cache = model.run_with_cache(x)
    values = torch.einsum("bpd,hde->bphe", x.to(model.W_V.dtype), model.W_V[1])
    assert torch.allclose(cache["blocks.1.attn.hook_v"], values, atol=1e-6)
    assert torch.equal(cache["blocks.1.hook_resid_pre"], model.run_with_cache(x)[1]["blocks.1.hook_resid_pre"])


@pytest.mark.parametrize("first", [True, False])
def test_what_is_taken_away_is_what_another_intervention_has_left_of_it(first: bool) -> None:
    model, x = language_model("value")
    cut, zero = Intervention(V, Without(0)), Intervention(Site(0, "attn_out"), Zero())
    half = Intervention(Site(0, "attn_out"), Zero(), strength=0.5)
    with intervened(model, [zero]):
        nothing = model(x)
    with intervened(model, [cut, zero] if first else [zero, cut], allow_nothing=True):
        assert torch.allclose(model(x), nothing, atol=1e-10)
    with intervened(model, [half]):
        left = by_split_inputs(model, x, V, 0, "attn_out")
    with intervened(model, [cut, half] if first else [half, cut]):
        assert torch.allclose(model(x), left, atol=1e-10)


def test_a_cut_survives_storage() -> None:
    cut = Intervention(Site(2, "k", head=1), Without(1, "mlp_out"), strength=0.5, first=3, last=9)
    assert Intervention.from_plain(json.loads(json.dumps(cut.to_plain()))) == cut
    with pytest.raises(ValueError, match="unknown field of Without 'layers': did you mean 'layer'"):
        Intervention.from_plain({"site": {"layer": 1, "component": "v"}, "operation": {"type": "Without", "layers": 0}})


def test_hook_points_hear_what_the_layer_read_and_not_what_was_read_again() -> None:
    model, x = language_model("classic")
    _, before = model.run_with_cache(x)
    with intervened(model, [Intervention(V, Without(0))]):
        _, after = model.run_with_cache(x)
    for name in ("ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k"):
        assert torch.equal(before[f"blocks.1.{name}"], after[f"blocks.1.{name}"]), name
    assert not torch.allclose(before["blocks.1.attn.hook_v"], after["blocks.1.attn.hook_v"])


def test_a_head_and_a_position_alone_and_half_of_it() -> None:
    model, x = language_model("classic")
    part = Site(1, "v", head=1, position=4)
    with intervened(model, [Intervention(part, Without(0), strength=0.5)]):
        _, found = model.run_with_cache(x)
    with intervened(model, [Intervention(V, Without(0))]):
        _, whole = model.run_with_cache(x)
    plain = model.run_with_cache(x)[1]["blocks.1.attn.hook_v"]
    changed = found["blocks.1.attn.hook_v"] - plain
    wanted = torch.zeros_like(changed)
    wanted[:, 4, 1] = 0.5 * (whole["blocks.1.attn.hook_v"] - plain)[:, 4, 1]
    assert torch.allclose(changed, wanted, atol=1e-12)


def test_two_edges_into_one_projection_are_refused_as_the_second_would_undo_the_first() -> None:
    model, _ = language_model("classic")
    both = [Intervention(Site(2, "v"), Without(layer)) for layer in (0, 1)]
    elsewhere = [Intervention(Site(2, "k"), Without(layer)) for layer in (0, 1)]
    q = Intervention(Site(2, "q"), Without(1))
    for cuts in (both, both[::-1], [*both, elsewhere[0]], [elsewhere[1], *both], [q, *elsewhere, both[0]]):
        with pytest.raises(ValueError, match="bring back what the first took away"), intervened(model, cuts):
            pass
    for cuts in ([both[0], elsewhere[0], q], [both[0], elsewhere[1]], [both[1], both[1], q]):
        with intervened(model, cuts, allow_nothing=True):
            pass


def test_what_is_no_edge_is_refused() -> None:
    for site in (Site(1, "z"), Site(1, "v", "mixed"), Site(1, "resid_pre")):
        with pytest.raises(ValueError, match="into a layer's own q, k or v"):
            Intervention(site, Without(0))
    with pytest.raises(ValueError, match="comes from an earlier layer"):
        Intervention(V, Without(1))
    with pytest.raises(ValueError, match="layer"):
        Without(-1)
    model, _ = classifier("classic")
    with pytest.raises(ValueError, match="mlp_out"), intervened(model, [Intervention(V, Without(0, "mlp_out"))]):
        pass
    scaled = HookedStreamTransformer(lm_config("0.2m", "classic", **LM, residual_scalars=ResidualScalars()))
    with (
        pytest.raises(ValueError, match="scales its residual stream"),
        intervened(scaled, [Intervention(V, Without(0))]),
    ):
        pass


def test_a_pass_that_begins_after_the_sender_is_refused() -> None:
    model, x = language_model("classic")
    at = model.run_with_cache(x)[1]["blocks.1.hook_resid_pre"]
    with intervened(model, [Intervention(V, Without(0))]):
        model(x)
        with pytest.raises(ValueError, match="run the whole model"):
            model(at, start_at_layer=1)


def test_the_same_layer_trained_without_the_edge_is_one_that_reads_the_input() -> None:
    """Two steps of gradient descent from the same weights: those of classic with the edge cut, and those of a model
    whose second layer has values of the input alone."""
    of_input = Stream("v", weights="untied", gain=FixedGain(0.0, 1.0))
    cut = HookedStreamTransformer(icl_config("classic", "small")).double()
    reads = HookedStreamTransformer(icl_config("classic", "small", streams=(of_input,))).double()
    renamed = {n.replace("blocks.1.attn.W_V", "blocks.0.attn.W_V_stream"): p for n, p in cut.state_dict().items()}
    reads.load_state_dict(renamed)
    x = inputs_for(cut.config)
    for _ in range(2):
        with intervened(cut, [Intervention(V, Without(0))]):
            cut(x)[:, -1].square().sum().backward()
        reads(x)[:, -1].square().sum().backward()
        for model in (cut, reads):
            torch.optim.SGD(model.parameters(), 0.01).step()
            model.zero_grad()
    theirs = dict(reads.named_parameters())
    for name, parameter in cut.named_parameters():
        other = theirs[name.replace("blocks.1.attn.W_V", "blocks.0.attn.W_V_stream")]
        assert torch.allclose(parameter, other, atol=1e-10), name
