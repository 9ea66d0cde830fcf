"""The attention view: patterns and norms are those of the model's own run, and the routes' shares add up to one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis import AttentionView, attention_view
from circuits import HookedStreamTransformer
from circuits.config.streams import Stream
from tests.analysis.test_text_pairs import LONG, SHORT, text_model
from tests.analysis.test_text_pairs import made as text_pair
from tests.helpers import MAKES, build, inputs_for, made, model_of, random_pair, token_config, twin

VARIANTS = ["classic", "value", "cumulative", "key", "resformer-constant", "svformer", "lime", "within-layer"]
ROUTES = ["own", "incoming", "mixed"]


def prompt_of(model: HookedStreamTransformer) -> Tensor:
    return inputs_for(model.config, 1)[0]


def moved_by_hand(model: HookedStreamTransformer, cache: dict[str, Tensor], layer: int) -> list[Tensor]:
    """What each head moves of each key, own (by projection and gain), incoming and their sum (head key d_model)."""
    block, at = model.layers[layer], f"blocks.{layer}.attn.hook_v"
    used = cache[f"{at}_mixed" if f"{at}_mixed" in cache else at]
    own, incoming = cache.get(at, torch.zeros_like(used)), cache.get(f"{at}_residual", torch.zeros_like(used))
    if "v" in block.attn.mix:
        normalised = block.ln1(cache[f"blocks.{layer}.hook_resid_pre"])
        own = dict(block.attn.mixes())["v"].gains(normalised)[0] * own
    uses = [model.config.head_used("v", head) for head in range(model.config.n_heads)]
    parts = [torch.stack([x[0, :, u] @ W for u, W in zip(uses, block.attn.W_O, strict=True)]) for x in (own, incoming)]
    return [*parts, parts[0] + parts[1]]


@torch.no_grad()
def check_numbers(model: HookedStreamTransformer) -> AttentionView:
    prompt = prompt_of(model)
    found = attention_view(model, prompt)
    frame = found.to_frame()
    _, cache = model.run_with_cache(prompt[None], return_cache_object=False)
    n = len(prompt)
    for layer in range(model.config.n_layers):
        pattern, moved = cache[f"blocks.{layer}.attn.hook_pattern"][0], moved_by_hand(model, cache, layer)
        expected = {"pattern": pattern} | {
            route: pattern * part.norm(dim=-1)[:, None] for route, part in zip(ROUTES, moved, strict=True)
        }
        rows = frame[frame.layer == layer]
        for name, numbers in expected.items():
            square = np.zeros((model.config.n_heads, n, n))
            square[rows["head"], rows["query"], rows["key"]] = rows[name]
            assert np.allclose(square, numbers.numpy(), atol=1e-10), "and what no query sees has no row"
        own, incoming, mixed = moved
        for share, part in (("own_share", own), ("incoming_share", incoming)):
            along = ((part * mixed).sum(-1) / (mixed * mixed).sum(-1)).numpy()
            assert np.allclose(rows[share], along[rows["head"], rows["key"]], atol=1e-10)
    assert np.allclose(frame.own_share + frame.incoming_share, 1, atol=1e-10)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_patterns_norms_and_shares_are_those_of_the_run(variant: str) -> None:
    frame = check_numbers(build(variant, "tokens", 3)).to_frame()
    if variant in ("classic", "key"):
        assert (frame.incoming == 0).all()
        assert np.allclose(frame.own, frame.mixed)
    elif variant != "svformer":
        assert ((frame.own + frame.incoming - frame.mixed) > 1e-3).any(), "norms do not add up, only shares do"


@pytest.mark.parametrize("variant", ["value", "nanochat"])
@pytest.mark.parametrize("make", MAKES)
def test_so_they_are_with_shared_heads_windows_and_tables(make: str, variant: str) -> None:
    check_numbers(made(make, variant))


def test_without_an_output_matrix_a_head_moves_its_values_as_they_are() -> None:
    model = build("value", "vectors", 2)
    assert not model.config.output_matrix
    found = check_numbers(model)
    assert found.names == ("",) * 7


def test_layers_whose_own_values_are_replaced_move_the_stream_alone() -> None:
    frame = attention_view(build("svformer", "tokens", 3), torch.arange(7)).to_frame()
    later, first = frame[frame.layer > 0], frame[frame.layer == 0]
    assert (later.own == 0).all()
    assert np.allclose(later.incoming_share, 1)
    assert np.allclose(first.own_share, 1)


@pytest.mark.parametrize("gate", ["stop", "gradient-only", "off"])
def test_a_stream_moves_what_its_gate_lets_through(gate: Any) -> None:
    config = token_config("value", 2)
    model = model_of(config)
    gated = twin(model, streams=(dataclasses.replace(config.streams[0], gate=gate),))
    open_, shut = (attention_view(m, prompt_of(model)).to_frame() for m in (model, gated))
    assert open_.incoming.max() > 0.1
    assert (shut.incoming.max() == 0) == (gate != "stop")
    assert open_.incoming.equals(shut.incoming) == (gate == "stop")


def test_a_window_hides_keys() -> None:
    model = made("qwen", "value")
    assert model.config.windows == (3, None, 4)
    frame = attention_view(model, prompt_of(model)).to_frame()
    counts = frame.groupby("layer").size() / model.config.n_heads
    assert counts.tolist() == [1 + 2 + 5 * 3, 28, 1 + 2 + 3 + 4 * 4]
    assert (frame.pattern > 0).all()


@torch.no_grad()
def test_a_heads_share_is_of_all_that_it_writes() -> None:
    """Against the heads' results with and without what comes in, whose patterns are the same."""
    model = build("value", "tokens", 2)
    model.cfg.use_attn_result = True
    prompt = prompt_of(model)
    name = "blocks.1.attn.hook_result"
    zero: Any = [("blocks.1.attn.hook_v_residual", lambda t, hook: torch.zeros_like(t))]
    results = []
    for hooks in ([], zero):
        with model.hooks(fwd_hooks=hooks):
            results.append(model.run_with_cache(prompt[None], names_filter=name)[1][name][0])
    whole, own = results
    model.cfg.use_attn_result = False
    expected = ((whole - own) * whole).sum((0, 2)) / (whole * whole).sum((0, 2))
    found = attention_view(model, prompt).by_head()
    assert found[found.layer == 1].incoming_share.tolist() == pytest.approx(expected.tolist())
    assert np.allclose(found.own_share + found.incoming_share, 1)
    assert found[found.layer == 0].incoming_share.tolist() == [0.0] * 4
    frame = attention_view(model, prompt, heads=[(1, 2)]).to_frame()
    assert set(frame.head_incoming) == {float(found.set_index(["layer", "head"]).incoming_share[1, 2])}


# --- any prompt -------------------------------------------------------------------------------------------------------


def test_a_text_its_tokens_and_the_row_of_a_pair_are_one_prompt() -> None:
    model = text_model()
    view = attention_view(model, SHORT)
    numbers = model.to_tokens(SHORT)[0]
    of_pair = attention_view(model, text_pair(model)[1])
    columns = ["layer", "head", "query", "key", "pattern", "own", "incoming", "mixed"]
    for other in (attention_view(model, numbers), attention_view(model, numbers.tolist()), of_pair):
        assert np.allclose(other.to_frame()[columns], view.to_frame()[columns], atol=1e-12)
    assert not np.allclose(attention_view(model, SHORT.replace("Mary", "Anna")).to_frame().mixed, view.to_frame().mixed)
    assert view.names == tuple(model.to_str_tokens(SHORT))
    assert [of_pair.names[i] for i in (1, 3, 6, -1)] == ["Mary (IO)", "John (S1)", "John (S2)", "to (END)"]
    bare = text_model()
    bare.tokenizer = None
    assert attention_view(bare, numbers).names == tuple(map(str, numbers.tolist()))
    assert attention_view(bare, numbers, names=view.names).names == view.names


def test_some_heads_are_those_rows_of_all() -> None:
    model = made("llama", "value")
    prompt = prompt_of(model)
    every, some = attention_view(model, prompt), attention_view(model, prompt, heads=[(2, 3), (0, 1), (2, 0)])
    assert some.heads == ((0, 1), (2, 0), (2, 3))
    frame = every.to_frame().set_index(["layer", "head"]).loc[list(some.heads)].reset_index()
    assert some.to_frame().equals(frame[some.to_frame().columns])


def test_mistakes_are_explained(untyped: None) -> None:
    model, vectors = text_model(), build("value", "vectors", 2)
    bare = build("value", "tokens", 2)
    cases: list[tuple[HookedStreamTransformer, dict[str, Any], str]] = [
        (model, {"prompt": "Mary saw Zaphod, and Mary left"}, "the tokenizer does not know 'Zaphod'"),
        (model, {"prompt": "to " * 300}, r"the prompt is 301 tokens, and this model reads from 1 to \d+"),
        (model, {"prompt": [LONG, SHORT]}, r"a prompt is a text, token numbers \(pos\), or vectors"),
        (model, {"prompt": torch.zeros(2, 5, dtype=torch.int64)}, r"one prompt is viewed at a time, got \(2, 5\)"),
        (model, {"prompt": text_pair(model)}, r"one prompt is viewed at a time, and this pair has 2; .* pair\[0\]"),
        (model, {"prompt": [1, 2, 100_000]}, "token numbers from 1 to 100000, but d_vocab = "),
        (bare, {"prompt": "Mary"}, "this model has no tokenizer to read text with"),
        (vectors, {"prompt": "Mary"}, "this model takes vectors, and the prompt is a text"),
        (vectors, {"prompt": [1, 2]}, r"this model takes \(batch, pos, 12\) vectors"),
        (bare, {"prompt": [1, 2], "heads": [(0, 4)]}, r"heads are \(layer, head\) pairs of 2 layers of 4 heads"),
        (bare, {"prompt": [1, 2], "heads": [3]}, r"heads are \(layer, head\) pairs of .*, got \[3\]"),
        (bare, {"prompt": [1, 2], "heads": []}, r"heads are \(layer, head\) pairs of .*, got none"),
        (bare, {"prompt": [1, 2], "names": ["a"]}, "1 names for 2 positions; give one for each"),
    ]
    for asked, given, message in cases:
        with pytest.raises(ValueError, match=message):
            attention_view(asked, **given)
    with pytest.raises(ValueError, match="an attention view requires the whole model to be in evaluation mode"):
        attention_view(bare.train(), [1, 2])


# --- what it shows ----------------------------------------------------------------------------------------------------


def test_it_says_what_is_moved_most_and_by_which_route() -> None:
    model = text_model()
    view = attention_view(model, SHORT)
    frame = view.to_frame()
    choice = frame[frame["query"] > 0]
    top = choice.iloc[int(choice.mixed.argmax())]
    first = view.largest(3).iloc[0]
    assert first[["layer", "head", "query", "key"]].tolist() == top[["layer", "head", "query", "key"]].tolist()
    heads = view.by_head()
    most = heads.iloc[int(heads.incoming_share.argmax())]
    said = repr(view)
    assert said.startswith(f"AttentionView: 16 heads on {len(view.names)} positions; largest: L{top.layer}H")
    assert (
        f"H{top['head']} moves {top.mixed:.3g} from {top.key} {top.key_token!r} to {top['query']} {top.query_token!r}"
        in said
    )
    assert said.endswith(f"L{most.layer:.0f}H{most['head']:.0f}, {most.incoming_share:.0%} of it")
    assert view.notes() == ()
    assert "<story>" not in attention_view(model, SHORT)._repr_html_()


def test_a_model_without_a_stream_into_values_says_so() -> None:
    for variant in ("classic", "key"):
        view = attention_view(build(variant, "tokens", 2), [1, 2, 3])
        assert view.notes() == (
            "nothing comes into these heads' values through a stream: all that they move is of their own layer",
        )
        assert "by the stream" not in view.finding()
    one = attention_view(build("value", "tokens", 2), [1])
    assert len(one.largest()) == 8, "the only key of the only query"


def test_keys_into_values_are_a_stream_too() -> None:
    model = model_of(token_config("classic", 2, streams=(Stream("v", source="k"),)))
    assert check_numbers(model).notes() == ()
    assert len(attention_view(model, random_pair(model, 1))._repr_html_()) > 500
