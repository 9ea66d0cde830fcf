"""What adds up to the logits, by component and route, and what a model would say after every layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from analysis import Pair, attribute_logits, logit_lens
from analysis.logits.written import read_run
from analysis.metrics import METRICS, logit_difference
from circuits import HookedStreamTransformer, ModelConfig
from tests.helpers import MAKES, build, made, model_of, random_pair
from tests.random_streams import configs

CASES = [
    *(("gpt", variant) for variant in ("classic", "value", "cumulative", "lime", "within-layer", "x-transformers")),
    *(("gpt", variant) for variant in ("svformer", "transformed", "resformer-dense", "value-gradient-only")),
    *((make, "nanochat") for make in MAKES),
    ("qwen", "gemma-sharing"),
    ("nanochat", "value"),
    ("llama", "bank-of-values"),
    ("gemma", "rwkv7-rule"),
]
every_case = pytest.mark.parametrize(("make", "variant"), CASES)


def model_named(make: str, variant: str, **overrides: Any) -> HookedStreamTransformer:
    return build(variant, "tokens", 3, **overrides) if make == "gpt" else made(make, variant, **overrides)


def without_cap(model: HookedStreamTransformer) -> HookedStreamTransformer:
    if model.config.logit_softcap is None:
        return model
    open_ended = HookedStreamTransformer(dataclasses.replace(model.config, logit_softcap=None)).double().eval()
    open_ended.load_state_dict(model.state_dict())
    return open_ended


def check_sums(model: HookedStreamTransformer) -> None:
    pair, free = random_pair(model), without_cap(model)
    rows = torch.arange(len(pair))
    there = free(pair.clean)[rows, pair.reads]
    right, wrong = there.gather(1, pair.answers[:, None])[:, 0], there.gather(1, pair.wrong[:, None])[:, 0]
    for of, wanted in (("logit_difference", right - wrong), ("answer", right)):
        found = attribute_logits(model, pair, of)  # type: ignore[arg-type] # literals
        assert torch.allclose(found.total, wanted, atol=1e-9)
        assert torch.allclose(found.values.sum(0), wanted, atol=1e-9)


# --- attribution ------------------------------------------------------------------------------------------------------


@every_case
def test_all_parts_add_up_to_the_logits(make: str, variant: str) -> None:
    model = model_named(make, variant)
    check_sums(model)
    found = attribute_logits(model, random_pair(model))
    left = found.values[torch.tensor(list(found.parts.route != "stream"))].sum(0)
    silent = variant in ("classic", "value-gradient-only")
    assert torch.allclose(left, found.total, atol=1e-9) == silent, "without its streams the sum is another one"


@settings(max_examples=25)
@given(configs())
def test_all_parts_add_up_under_any_parts_and_streams(config: ModelConfig) -> None:
    check_sums(model_of(config))


@every_case
def test_the_routes_of_a_head_add_up_to_what_it_writes(make: str, variant: str) -> None:
    model = model_named(make, variant)
    pair = random_pair(model)
    model.cfg.use_attn_result = True
    _, cache = model.run_with_cache(pair.clean)
    model.cfg.use_attn_result = False
    rows = torch.arange(len(pair))
    for layer in range(3):
        there = [w for w in read_run(model, pair).written if w.component == "head" and w.layer == layer]
        total = torch.stack([w.vector for w in there]).sum(0)
        result = cache["result", layer][rows, pair.reads]
        assert torch.allclose(total * result.norm() / total.norm(), result, atol=1e-9), "but for one number"


def test_heads_of_a_classic_model_have_what_transformer_lens_says() -> None:
    model = build("classic", "tokens", 3, normalization="LNPre", biases=False)
    pair = random_pair(model)
    model.cfg.use_attn_result = True
    _, cache = model.run_with_cache(pair.clean)
    theirs = cache.logit_attrs(
        cache.stack_head_results(3, pos_slice=-1),
        pair.answers,
        incorrect_tokens=pair.wrong,
        pos_slice=-1,
        has_batch_dim=True,
    )
    found = attribute_logits(model, pair)
    heads = torch.tensor(list(found.parts.component == "head"))
    assert torch.allclose(found.values[heads], theirs, atol=1e-10)
    assert set(found.parts[found.parts.component == "head"].route) == {"own"}


def test_what_a_stream_brings_is_named_by_where_it_is_from() -> None:
    value = attribute_logits(build("value", "tokens", 3), random_pair(build("value", "tokens", 3))).parts
    assert set(value[value.route == "stream"].source) == {"L0.v", "L1.v"}
    running = attribute_logits(build("cumulative", "tokens", 3), random_pair(build("cumulative", "tokens", 3))).parts
    assert set(running[(running.layer == "2") & (running.route == "stream")].source) == {"L0.v", "L1.v"}
    tables = made("nanochat", "nanochat")
    found = attribute_logits(tables, random_pair(tables)).to_frame()
    assert set(found[found.route == "stream"].source) == {"VE0", "VE2"}
    assert [*found.columns] == ["component", "layer", "head", "route", "source", "of", "value", "low", "high", "n"]
    assert {"embed", "smear", "head", "mlp", "final bias"} == set(found.component)


def test_each_example_is_read_where_its_pair_says_and_padding_is_nothing() -> None:
    model = made("llama", "value")
    pair = random_pair(model, 2)
    at = torch.tensor([4, 6])
    whole = attribute_logits(model, dataclasses.replace(pair, read_at=at))
    assert torch.allclose(whole.total, logit_difference(model(pair.clean), dataclasses.replace(pair, read_at=at)))
    alone = attribute_logits(model, dataclasses.replace(pair, clean=pair.clean[:, :5], corrupt=pair.corrupt[:, :5])[:1])
    assert torch.allclose(whole.values[:, :1], alone.values, atol=1e-10)
    assert not torch.allclose(whole.total, attribute_logits(model, pair).total)


def test_examples_are_run_as_many_at_a_time_as_memory_holds() -> None:
    model = build("value", "tokens", 3)
    pair = random_pair(model, 6)
    whole = attribute_logits(model, pair)
    few = attribute_logits(model, pair, max_memory=700_000)
    assert torch.allclose(few.values, whole.values, atol=1e-12)
    with pytest.raises(ValueError, match="less than one copy"):
        attribute_logits(model, pair, max_memory=10)


# --- lens -------------------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("metric", ["logit_difference", "probability"])
def test_at_the_end_both_lenses_are_the_model(make: str, variant: str, metric: str) -> None:
    model = model_named(make, variant)
    pair = random_pair(model)
    wanted = METRICS[metric](model(pair.clean), pair).mean().item()
    frame = logit_lens(model, pair, metric).to_frame()
    end = frame[frame.layer == 3]
    assert [*end.route] == ["residual", "every route"]
    assert end.value.to_numpy() == pytest.approx([wanted, wanted], abs=1e-9)
    assert not any(abs(value - wanted) < 1e-9 for value in frame[frame.layer == 1].value)


def test_the_residual_lens_is_the_run_that_stops_there() -> None:
    model = build("value", "tokens", 3)
    pair = random_pair(model)
    frame = logit_lens(model, pair).to_frame()
    for layer in range(4):
        logits = model.read_out(model(pair.clean, stop_at_layer=layer))
        found = frame[(frame.layer == layer) & (frame.route == "residual")].value.item()
        assert found == pytest.approx(logit_difference(logits, pair).mean().item(), abs=1e-10)


def test_the_lenses_agree_where_nothing_goes_beside_the_residual_stream() -> None:
    for variant, alike in (("classic", True), ("value-gradient-only", True), ("value", False)):
        model = build(variant, "tokens", 3)
        frame = logit_lens(model, random_pair(model)).to_frame().pivot(index="layer", columns="route", values="value")
        assert (abs(frame["residual"] - frame["every route"]).max() < 1e-10) == alike
    scaled = made("nanochat", "classic")
    frame = logit_lens(scaled, random_pair(scaled)).to_frame().pivot(index="layer", columns="route", values="value")
    assert abs(frame["residual"] - frame["every route"]).loc[1:2].min() > 1e-6, "scalars and backout are yet to come"


def test_the_lens_of_every_route_sees_what_the_stream_still_carries() -> None:
    """Later layers write nothing of their own: what is made by then is the end already."""
    model = build("value", "tokens", 2, biases=False)
    with torch.no_grad():
        last = model.layers[1]
        last.attn.W_V.zero_()
        assert last.mlp is not None
        last.mlp.W_out.zero_()
        last.mlp.b_out.zero_()
    pair = random_pair(model)
    frame = logit_lens(model, pair).to_frame().set_index(["layer", "route"]).value
    assert frame[1, "every route"] == pytest.approx(frame[2, "residual"], abs=1e-10)
    assert abs(frame[1, "residual"] - frame[2, "residual"]) > 1e-6


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [attribute_logits, logit_lens])
@pytest.mark.usefixtures("untyped")
def test_what_has_no_such_sum_is_refused(ask: Any) -> None:
    with pytest.raises(ValueError, match="a ReLU stack stands before them: patch instead"):
        ask(build("value"), random_pair(build("value")))
    model = build("value", "tokens")
    pair = random_pair(model)
    with pytest.raises(ValueError, match="evaluation mode"):
        ask(model.train(), pair)
    model.eval().hook_embed.add_hook(lambda tensor, hook: tensor)
    with pytest.raises(ValueError, match="hooks are attached"):
        ask(model, pair)
    model.reset_hooks()
    with pytest.raises(ValueError, match="logit_diff"):
        ask(model, pair, "logit_diff")


def test_pairs_of_one_input_are_enough_for_an_answer() -> None:
    model = build("value", "tokens")
    pair = random_pair(model)
    alone = Pair.one_sided(pair.clean, pair.answers)
    assert torch.allclose(attribute_logits(model, alone, "answer").total, attribute_logits(model, pair, "answer").total)
