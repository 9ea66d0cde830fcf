"""The hand-weighted models do what they say, by the heads and routes that they name and by no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from analysis.edges.graph import Graph
from analysis.metrics import probability
from tests.handmade import BEFORE, END, SAID, VOCAB, Handmade, Head, induction_model, stream_model

BUILDERS = [induction_model, stream_model]
Builder = Callable[[], Handmade]


def without(made: Handmade, head: Head, tokens: Tensor, scope: tuple[str, ...] = ("z", "v_stream")) -> Tensor:
    """Logits with some of what a head passes on set to zero."""
    layer, index = head

    def zero(value: Tensor, **_: object) -> Tensor:
        kept = value.clone()
        kept[:, :, index] = 0
        return kept

    names = [f"blocks.{layer}.attn.hook_{name}" for name in scope]
    there = [name for name in names if name in made.model.hook_dict]
    return made.model.run_with_hooks(tokens, fwd_hooks=[(name, zero) for name in there])


@pytest.mark.parametrize("make", BUILDERS)
def test_they_know_the_answers_to_both_inputs_of_every_pair(make: Builder) -> None:
    made = make()
    for name, pair in made.pairs.items():
        for tokens, answers in ((pair.clean, pair.answers), (pair.corrupt, pair.wrong)):
            said = made.model(tokens)[:, END].softmax(-1)
            assert said.gather(1, answers[:, None]).min() > 0.99, name
        assert (pair.answers != pair.wrong).all()
        places = {"copied": 1, "queried": 1, "preceding": 2}[name]
        assert ((pair.clean != pair.corrupt).sum(1) == places).all()


@pytest.mark.parametrize("make", BUILDERS)
def test_without_a_named_head_the_answer_is_lost_and_without_another_nothing_changes(make: Builder) -> None:
    made = make()
    for role, head in made.heads.items():
        assert probability(without(made, head, made.tokens), made.pair).max() < 0.5, role
    whole = made.model(made.tokens)
    assert len(made.idle) == 6 - len(made.heads)
    for head in made.idle:
        assert torch.equal(without(made, head, made.tokens), whole)


@pytest.mark.parametrize("make", BUILDERS)
def test_attention_is_where_it_was_meant_to_be_and_other_patterns_are_not_trivial(make: Builder) -> None:
    made = make()
    _, cache = made.model.run_with_cache(made.tokens)
    layer, head = made.heads["induction"]
    assert cache["pattern", layer][:, head, END, made.pair.positions["answer"][0, 0]].min() > 0.99
    assert cache["pattern", 0][:, 1].diagonal(-1, 1, 2).min() > 0.99
    for layer, head in made.idle:
        pattern = cache["pattern", layer][:, head, END]
        assert pattern.std(0).max() > 0.01


def test_the_stream_model_works_through_both_routes_and_only_so() -> None:
    made = stream_model()
    with made.model.gated("off"):
        off = made.model(made.tokens)[:, END].softmax(-1)
    assert torch.allclose(off, torch.full_like(off, 1 / VOCAB))
    with made.model.gated("stop"):
        assert probability(made.model(made.tokens), made.pair).min() > 0.99
    whole = made.model(made.tokens)
    assert torch.equal(without(made, made.heads["values"], made.tokens, ("z",)), whole)
    assert probability(without(made, made.heads["values"], made.tokens, ("v_stream",)), made.pair).max() < 0.5
    assert torch.equal(without(made, made.heads["previous token"], made.tokens, ("v_stream",)), whole)
    assert probability(without(made, made.heads["previous token"], made.tokens, ("z",)), made.pair).max() < 0.5


def test_the_classic_model_has_no_stream() -> None:
    made = induction_model()
    assert not made.model.config.streams
    assert made.heads == {"previous token": (0, 1), "induction": (1, 2)}


@pytest.mark.parametrize("make", BUILDERS)
def test_subspaces_hold_what_they_are_named_for(make: Builder) -> None:
    made = make()
    _, cache = made.model.run_with_cache(made.tokens)
    assert torch.equal(cache["resid_post", 0][:, 1:, BEFORE].argmax(-1), made.tokens[:, :-1])
    assert torch.equal(cache["resid_post", 1][:, END, SAID].argmax(-1), made.pair.answers)


@pytest.mark.parametrize("make", BUILDERS)
def test_each_pair_differs_along_its_own_edges(make: Builder) -> None:
    """What a pair's inputs differ in reaches the induction head by the one input that the pair is named for."""
    made = make()
    layer, head = made.heads["induction"]
    carriers = {"copied": "v_mixed" if made.model.config.streams else "v", "queried": "q", "preceding": "k"}
    assert set().union(*made.carries.values()) < made.edges
    assert Graph(made.model).find(made.edges), "the names are those of the graph"
    for name, pair in made.pairs.items():
        _, clean = made.model.run_with_cache(pair.clean)
        for edge, carrier in carriers.items():
            activation = clean[f"blocks.{layer}.attn.hook_{carrier}"]

            def restore(value: Tensor, kept: Tensor = activation, **_: object) -> Tensor:
                mended = value.clone()
                mended[:, :, head] = kept[:, :, head]
                return mended

            hook = (f"blocks.{layer}.attn.hook_{carrier}", restore)
            answered = probability(made.model.run_with_hooks(pair.corrupt, fwd_hooks=[hook]), pair)
            assert (answered > 0.99).all() if edge == name else (answered < 0.01).all(), (name, edge)
