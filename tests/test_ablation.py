"""Ablations take away what they say, and no more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from analysis import Ablation, ablate, standard_ablations
from circuits import HookedStreamTransformer
from tests.helpers import FULL, build, inputs_for

KINDS = [("vectors", 2), ("tokens", 3)]


def answers_for(model: HookedStreamTransformer, n: int) -> Tensor:
    return torch.arange(n) % model.config.readout.d_vocab_out


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", FULL)
def test_every_standard_ablation_runs_and_says_how_much_it_changed(variant: str, kind: str, layers: int) -> None:
    model = build(variant, kind, layers)
    x = inputs_for(model.config, 6)
    frame = ablate(model, x, answers_for(model, 6))
    hooked = frame[~frame.part.isin(["forward cut", "gradient cut"])]
    assert (hooked.changed > 0).all()
    parts = {"head", "z", "outgoing", "stream", "forward cut", "gradient cut"} if variant != "classic" else {"head"}
    assert set(frame.part) == parts
    assert torch.equal(model(x), model(x)), "the model is as it was"
    assert not model.list_hooks()


@pytest.mark.parametrize("variant", [v for v in FULL if v != "classic"])
def test_the_gradient_cut_changes_the_gradient_alone_and_the_forward_cut_the_rest(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config, 6)
    frame = ablate(model, x, answers_for(model, 6), [Ablation("gradient cut"), Ablation("forward cut")])
    gradient, forward = frame.iloc[0], frame.iloc[1]
    assert gradient.loss_ablated == gradient.loss
    assert gradient.accuracy_ablated == gradient.accuracy
    assert gradient.gradient_cosine < 1 - 1e-6
    assert abs(forward.loss_ablated - forward.loss) > 1e-6


def test_zeroing_the_stream_is_the_forward_of_no_stream() -> None:
    model, classic = build("value", "tokens", 3), build("classic", "tokens", 3)
    classic.load_state_dict(model.state_dict())
    x = inputs_for(model.config, 6)
    y = answers_for(model, 6)
    frame = ablate(model, x, y, [Ablation("stream", "zero"), Ablation("forward cut")])
    expected = float(F.cross_entropy(classic(x)[:, -1], y).detach())
    assert frame.loss_ablated.tolist() == pytest.approx([expected, expected], abs=1e-12)


def test_mean_ablation_is_the_mean_over_examples_position_by_position() -> None:
    model = build("value", "tokens", 3)
    x, y = inputs_for(model.config, 6), answers_for(model, 6)
    _, cache = model.run_with_cache(x)
    mean = cache["z", 1].mean(0, keepdim=True)

    def replace(t: Tensor, hook: Any) -> Tensor:
        t = t.clone()
        t[:, :, 2] = mean[:, :, 2]
        return t

    expected = F.cross_entropy(model.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_z", replace)])[:, -1], y)
    frame = ablate(model, x, y, [Ablation("z", "mean", 1, 2)])
    assert frame.loss_ablated.iloc[0] == pytest.approx(float(expected.detach()), abs=1e-12)


def test_a_head_is_its_output_and_what_it_passes_on_and_not_what_others_pass_through_it() -> None:
    """In a running sum, layer 1 passes on layer 0's values too; removing a head of layer 1 must leave those alone."""
    model = build("cumulative", "tokens", 3)
    x = inputs_for(model.config, 4)
    points = Ablation("head", "zero", 1, 0).points(model)
    assert points == ["blocks.1.attn.hook_v", "blocks.1.attn.hook_z"]

    def zero_head(t: Tensor, hook: Any) -> Tensor:
        t = t.clone()
        t[:, :, 0] = 0
        return t

    with model.hooks(fwd_hooks=[(name, zero_head) for name in points]):
        _, cache = model.run_with_cache(x)
    assert torch.allclose(cache["v_stream", 1][:, :, 0], cache["v_stream", 0][:, :, 0], atol=1e-12)


def test_the_last_layer_passes_nothing_on() -> None:
    model = build("value", "tokens", 3)
    assert not any(a.part == "outgoing" and a.layer == 2 for a in standard_ablations(model))
    assert any(a.part == "outgoing" and a.layer == 1 for a in standard_ablations(model))


def test_mistakes_are_explained() -> None:
    model, classic = build("value"), build("classic")
    x, y = inputs_for(model.config), answers_for(model, 3)
    cases: list[tuple[Any, str]] = [
        (lambda: ablate(model.train(), x, y), "evaluation mode"),
        (lambda: Ablation("head"), "ablating 'head' needs a layer and a head"),
        (lambda: ablate(classic, x, y, [Ablation("stream")]), "takes nothing away: model 'classic' has no such part"),
        (lambda: ablate(classic, x, y, [Ablation("gradient cut")]), "takes nothing away"),
        (lambda: ablate(model.eval(), x, y, [Ablation("outgoing", layer=1, head=0)]), "takes nothing away"),
        (lambda: ablate(model.eval(), x, y, [Ablation("z", layer=7, head=0)]), "takes nothing away"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
