"""What a model goes on with: the same with a cache as without, under every make and stream, padded or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from circuits import HookedStreamTransformer, KeyValueCache, Stream, WithinLayer, lm_config
from experiments import plain_english
from tests.helpers import MAKES, build, inputs_for, made

STREAMS = ["classic", "value", "cumulative", "nanochat", "gemma-sharing", "rwkv7-rule"]
CASES = [(make, variant) for make in MAKES for variant in STREAMS]


def in_pieces(model: HookedStreamTransformer, x: Tensor, sizes: list[int], mask: Tensor | None = None) -> Tensor:
    cache, logits, done = KeyValueCache(), [], 0
    for size in sizes:
        seen = None if mask is None else mask[:, done : done + size]
        logits.append(model(x[:, done : done + size], attention_mask=seen, past_kv_cache=cache))
        done += size
    return torch.cat(logits, 1)


@pytest.mark.parametrize(("make", "variant"), CASES)
def test_tokens_run_one_by_one_have_the_logits_of_the_whole(make: str, variant: str) -> None:
    model = made(make, variant)
    x = inputs_for(model.config, batch=2, length=9)
    wanted = model(x)
    assert torch.allclose(in_pieces(model, x, [4, 1, 1, 2, 1]), wanted, atol=1e-10)
    pad = torch.zeros(2, 3, dtype=torch.long)
    padded, mask = torch.cat([pad, x], 1), torch.ones(2, 12, dtype=torch.bool)
    mask[:, :3] = False
    assert torch.allclose(in_pieces(model, padded, [5, 1, 1, 4, 1], mask)[:, 3:], wanted, atol=1e-10)
    late = torch.cat([x[:, :4], pad, x[:, 4:]], 1)
    within = torch.ones(2, 12, dtype=torch.bool)
    within[:, 4:7] = False
    found = in_pieces(model, late, [5, 1, 2, 4], within)
    assert torch.allclose(torch.cat([found[:, :4], found[:, 7:]], 1), wanted, atol=1e-10)
    unmasked = in_pieces(model, padded, [5, 7])[:, 3:]
    assert not torch.allclose(unmasked, wanted, atol=1e-3), "without a mask padding is seen"


@pytest.mark.parametrize("make", ["gpt", *MAKES])
def test_generation_is_the_same_with_a_cache_as_without(make: str) -> None:
    streams = (Stream("v", source="k", topology=WithinLayer()),)
    model = build("value", "tokens", 3, streams=streams) if make == "gpt" else made(make, "nanochat")
    x = inputs_for(model.config, batch=3, length=4)
    for sampled in (False, True):
        found = [
            model.generate(
                x,
                max_new_tokens=12,
                do_sample=sampled,
                stop_at_eos=False,
                use_past_kv_cache=cached,
                generator=torch.Generator().manual_seed(5),
            )
            for cached in (True, False)
        ]
        assert torch.equal(*found)
        assert found[0].shape == (3, 16)
        assert torch.equal(found[0][:, :4], x)
    greedy = model.generate(x, max_new_tokens=2, do_sample=False, stop_at_eos=False)
    assert torch.equal(greedy[:, 4], model(x)[:, -1].argmax(-1))
    assert not torch.equal(found[0][:, 4:6], greedy[:, 4:]), "what is drawn is not the likeliest"


def test_padded_rows_go_on_as_they_do_alone() -> None:
    model = made("nanochat", "nanochat")
    x = inputs_for(model.config, batch=2, length=5)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), x], 1)
    mask = (torch.arange(8) >= 3).long().expand(2, -1)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False}
    alone = model.generate(x, **options)
    assert torch.equal(model.generate(padded, attention_mask=mask, **options)[:, 3:], alone)
    assert not torch.equal(model.generate(padded, **options)[:, 3:], alone)


def test_what_is_drawn_is_among_the_likeliest() -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config, batch=1).repeat(400, 1)
    share = model(x[:1]).detach()[0, -1].softmax(-1).sort(descending=True)
    seeded = torch.Generator().manual_seed(0)
    drawn = model.generate(x, 1, stop_at_eos=False, generator=seeded, top_k=3)[:, -1]
    assert set(drawn.tolist()) == set(share.indices[:3].tolist())
    top_p = float(share.values[:2].sum()) - 1e-9
    drawn = model.generate(x, 1, stop_at_eos=False, generator=seeded, top_p=top_p)[:, -1]
    assert set(drawn.tolist()) == set(share.indices[:2].tolist())
    drawn = model.generate(x, 1, stop_at_eos=False, generator=seeded, temperature=1e-3)[:, -1]
    assert set(drawn.tolist()) == {int(share.indices[0])}
    assert len(set(model.generate(x, 1, stop_at_eos=False, generator=seeded)[:, -1].tolist())) > 3


def test_rows_that_have_ended_are_filled_up() -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config, batch=3)
    free = model.generate(x, 6, do_sample=False, stop_at_eos=False)
    eos = int(free[0, 8])
    ended = model.generate(x, 6, do_sample=False, eos_token_id=eos)
    at = (free[0, 7:] == eos).nonzero()[0, 0] + 7
    assert torch.equal(ended[0, : at + 1], free[0, : at + 1])
    assert (ended[0, at:] == eos).all()


def test_what_cannot_follow_is_refused() -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config)
    asks: dict[str, dict[str, Any]] = {
        "7 tokens and 11 more are longer than n_ctx = 16; at most 10 more can follow": {"max_new_tokens": 11},
        "stop_at_eos needs an ending token": {},
        "top_k must be a whole number of at least 1": {"top_k": 0},
        "top_p must be above 0": {"top_p": 1.5},
        "temperature must be a number above 0": {"temperature": 0.0},
        "padding must stand on the left": {"attention_mask": (torch.arange(7) < 5).expand(3, -1)},
    }
    for sentence, options in asks.items():
        with pytest.raises(ValueError, match=sentence):
            model.generate(x, **options)
    with pytest.raises(ValueError, match="this model takes vectors"):
        build("value").generate(x)
    cache = KeyValueCache()
    model(x, past_kv_cache=cache)
    with pytest.raises(ValueError, match="10 positions after the 7 of the cache are longer than n_ctx = 16"):
        model(inputs_for(model.config, length=10), past_kv_cache=cache)


def test_every_part_is_left_in_the_mode_that_it_had() -> None:
    model = build("value", "tokens", 3).train()
    x = inputs_for(model.config)
    model.layers[0].eval()
    model.layers[1].attn.eval()
    before = [part.training for part in model.modules()]
    assert len({*before}) == 2
    model.generate(x, eos_token_id=0)
    assert [part.training for part in model.modules()] == before
    with pytest.raises(ValueError, match="token numbers from 0 to 99"):
        model.generate(torch.full_like(x, 99).index_fill(1, torch.tensor(0), 0), eos_token_id=0)
    assert [part.training for part in model.modules()] == before


def test_the_mask_of_texts_is_their_own() -> None:
    tokenizer = plain_english()
    model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=len(tokenizer))).eval()
    model.set_tokenizer(tokenizer)
    for texts in ("Mary gave", ["Mary gave", "When Mary and John"]):
        tokens = model.to_tokens(texts)
        for mask in (torch.ones_like(tokens), torch.zeros(7, 7, dtype=torch.long)):
            with pytest.raises(ValueError, match="attention_mask is of tokens; texts are padded here"):
                model.generate(texts, attention_mask=mask)
    tokens = model.to_tokens("Mary gave")
    seen = model.generate(tokens, 3, attention_mask=torch.ones_like(tokens), do_sample=False, stop_at_eos=False)
    assert seen.shape == (1, tokens.shape[1] + 3)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("make", ["gpt", "nanochat"])
@pytest.mark.parametrize("point", ["blocks.2.hook_resid_pre", "blocks.2.hook_resid_post", "ln_final.hook_normalized"])
def test_a_pass_that_is_interrupted_leaves_the_cache_as_it_was(make: str, point: str) -> None:
    model = build("value", "tokens", 3) if make == "gpt" else made(make, "nanochat")
    x = inputs_for(model.config, batch=2, length=9)
    mask = (torch.arange(9) >= torch.tensor([[1], [0]])).long()
    cache = KeyValueCache()
    model(x[:, :4], attention_mask=mask[:, :4], past_kv_cache=cache)

    def interrupt(activation: Tensor, hook: Any) -> None:
        raise Interrupted

    with pytest.raises(Interrupted), model.hooks(fwd_hooks=[(point, interrupt)]):
        model(x[:, 4:7], attention_mask=mask[:, 4:7], past_kv_cache=cache)
    assert cache.length == 4
    found = [model(x[:, at], attention_mask=mask[:, at], past_kv_cache=cache) for at in (slice(4, 7), slice(7, 9))]
    assert cache.length == 9
    assert torch.allclose(torch.cat(found, 1), model(x, attention_mask=mask)[:, 4:], atol=1e-10)


def test_a_cache_is_of_all_layers_and_of_the_same_examples() -> None:
    model = build("value", "tokens", 3)
    x, cache = inputs_for(model.config, batch=3, length=9), KeyValueCache()
    model(x[:, :4], past_kv_cache=cache)
    state = model.state(x[:, 4:], 1)
    parts: list[dict[str, Any]] = [{"stop_at_layer": 2}, {"stop_at_layer": -1}, {"stop_at_layer": 0}]
    parts += [{"start_at_layer": 1, "outgoing": state.outgoing} | stop for stop in ({}, {"stop_at_layer": 3})]
    for part in parts:
        with pytest.raises(ValueError, match="with past_kv_cache all of them run"):
            model(state.residual if "start_at_layer" in part else x[:, 4:], past_kv_cache=cache, **part)
    for rows in (x[:1, 4:], x[:2, 4:], torch.cat([x, x])[:, 4:]):
        for mask in (None, torch.ones_like(rows)):
            sentence = f"the cache holds 4 positions of 3 examples, and {len(rows)} run; begin a new cache"
            with pytest.raises(ValueError, match=sentence):
                model(rows, attention_mask=mask, past_kv_cache=cache)
    assert cache.length == 4
    residual = model(x[:, 4:], stop_at_layer=3, past_kv_cache=cache)
    assert cache.length == 9
    assert torch.allclose(model.read_out(residual), model(x)[:, 4:], atol=1e-10)
