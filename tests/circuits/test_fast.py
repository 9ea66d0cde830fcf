"""The fast path is the hooked model: logits, patterns and every gradient, in double precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from circuits import HookedStreamTransformer, icl_config
from circuits.config.gains import FixedGain, LearnedGain
from circuits.config.model import ModelConfig
from circuits.config.streams import HeadMixing, LinearMap, Stream
from circuits.config.topologies import Cumulative, Dense, WithinLayer
from circuits.last_position import run_last, why_not
from experiments.tasks.in_context.measures import look
from experiments.tasks.in_context.task import ICLTask
from tests.helpers import ALL, double_tokens, gradients, model_of, token_config

FAST = [name for name in ALL if why_not(icl_config(name)) is None]


def compare(config: ModelConfig, preset: str, split: str = "train") -> float:
    """The largest difference between the fast and the hooked model, over logits, patterns and gradients."""
    model = model_of(config, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mix." in name:  # away from the start, where gains hide behind each other
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)).double())
    batch = ICLTask(preset, seed=2).sample(16, split, seed=3)
    fast = run_last(model, double_tokens(batch.tokens))
    inputs = double_tokens(batch.tokens).x[:, batch.place.argsort()]
    logits, cache = model.run_with_cache(inputs)
    hooked = model(inputs)[:, -1]
    differences = [(fast.logits - logits[:, -1]).abs().max()]
    place = batch.place
    differences.append((fast.first_pattern - cache["pattern", 0][:, 0][:, place][:, :, place]).abs().max())
    differences.append((fast.last_pattern - cache["pattern", 1][:, 0, -1][:, place]).abs().max())
    a = gradients(model, F.cross_entropy(fast.logits, batch.labels))
    b = gradients(model, F.cross_entropy(hooked, batch.labels))
    differences += [(a[name] - b[name]).abs().max() for name in a]
    assert max(b[name].abs().max() for name in b) > 1e-3, "gradients worth comparing"
    return max(float(d.detach()) for d in differences)


@pytest.mark.parametrize("variant", FAST)
def test_equals_the_hooked_model(variant: str) -> None:
    assert compare(icl_config(variant, "small"), "small") < 1e-10


@pytest.mark.parametrize("variant", ["classic", "value", "key", "query", "value-stop", "value-gradient-only"])
@pytest.mark.parametrize("split", ["train", "ic2", "iw"])
def test_equals_the_hooked_model_at_paper_size(variant: str, split: str) -> None:
    assert compare(icl_config(variant), "paper", split) < 1e-10


@pytest.mark.parametrize("gate", ["full", "stop", "gradient-only", "off"])
@pytest.mark.parametrize("carrier", ["q", "k", "v"])
@pytest.mark.parametrize("source", ["q", "k", "v"])
def test_equals_the_hooked_model_for_every_carrier_source_and_gate(carrier: Any, source: Any, gate: Any) -> None:
    streams = (Stream(carrier, source, gate=gate, gain=FixedGain(0.7, 1.3)),)
    assert compare(icl_config("classic", "small", streams=streams), "small") < 1e-10


@pytest.mark.parametrize(
    "stream",
    [
        Stream("v", topology=Cumulative(), gain=LearnedGain(0.4, 0.8)),
        Stream("k", topology=Dense(), gain=LearnedGain(0.4, 0.8, tie="convex", per_head=True)),
        Stream("v", transform=LinearMap(), gain=LearnedGain(tie="own-fixed")),
        Stream("q", transform=HeadMixing(), gate="gradient-only"),
        Stream("v", gain=LearnedGain(0.4, 0.8), gradient=0.3),
        Stream("k", topology=Cumulative(), gradient=-2.0),
        Stream("v", source="q", topology=WithinLayer(), weights="untied"),
    ],
)
def test_equals_the_hooked_model_for_gains_and_transforms(stream: Stream) -> None:
    config = icl_config("classic", "small", streams=(stream,), attention_scale=True)
    assert compare(config, "small") < 1e-10


@pytest.mark.parametrize("cut", [{"gradient": 0.3}, {"gradient": 0.0}, {"gate": "stop"}, {"gate": "gradient-only"}])
def test_what_changes_the_gradient_within_a_layer_is_not_for_the_fast_path(cut: dict[str, Any]) -> None:
    """Its logits would be right and its gradients wrong: in the second layer what is read is made of the first's."""
    config = icl_config("classic", "small", streams=(Stream("v", source="k", topology=WithinLayer(), **cut),))
    assert "full gates and gradients within a layer" in str(why_not(config))
    assert compare(config, "small") > 1e-4


def test_a_wrong_fast_path_would_be_seen() -> None:
    """The negation: leave the stream out of one side, and the comparison is far above its bound."""
    value, classic = (model_of(icl_config(v, "small"), seed=1) for v in ("value", "classic"))
    batch = ICLTask("small").sample(8)
    tokens = double_tokens(batch.tokens)
    with torch.no_grad():
        difference = run_last(value, tokens).logits - classic(tokens.x[:, batch.place.argsort()])[:, -1]
    assert float(difference.abs().max()) > 1e-2


def test_it_says_where_it_does_not_apply() -> None:
    assert why_not(icl_config("value")) is None
    assert "gains that do not depend on the token" in str(why_not(icl_config("x-transformers")))
    assert "full gates and gradients within a layer" in str(why_not(icl_config("within-layer-stop")))
    assert "two layers" in str(why_not(icl_config("value", n_layers=3)))
    reasons = str(why_not(token_config()))
    assert all(word in reasons for word in ("attention only", "no biases", "one-hot positions", "no layer norm"))


def test_what_evaluation_sees_is_the_same_either_way() -> None:
    batch = ICLTask("small").sample(32, "ic")
    model = HookedStreamTransformer(icl_config("value", "small")).eval()
    fast = look(model, batch)
    unfit = HookedStreamTransformer(dataclasses.replace(icl_config("value", "small"), biases=True)).eval()
    assert why_not(unfit.config) is not None
    slow = look(unfit, batch)
    assert torch.allclose(fast.logits, slow.logits, atol=1e-5)
    n = batch.config.n_pairs
    a = fast.first_pattern[:, fast.labels][:, :, fast.items]
    b = slow.first_pattern[:, slow.labels][:, :, slow.items]
    assert a.shape == (32, n, n)
    assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(fast.last_attention[:, fast.labels], slow.last_attention[:, slow.labels], atol=1e-5)
