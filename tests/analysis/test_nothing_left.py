"""A question that was answered leaves no tensor behind, however often it is asked."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from analysis import (
    Ablation,
    Circuit,
    Graph,
    Site,
    ablate,
    ablate_edges,
    attention_view,
    attribute,
    attribute_edges,
    attribute_logits,
    eigenvalue_copying,
    find_sites,
    head_composition,
    head_shares,
    judge,
    logit_lens,
    patch,
    patch_paths,
    route_map,
    split_gradient,
)
from analysis.ready import NotFiniteError
from circuits import HookedStreamTransformer
from circuits.interventions.applied import intervened
from circuits.interventions.intervention import CutGradient, Intervention
from tests.helpers import build, random_pair

MODEL = build("value", "tokens", 4)
PAIR = random_pair(MODEL, 3)
GRAPH = Graph(MODEL)
SITES = find_sites(MODEL, ["z", "v"], heads="each")


def loss(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1)[..., 2].mean()


def step_with(operation: Any) -> None:
    """A loss and its gradient while an activation is intervened on, as in training."""
    model = HookedStreamTransformer(MODEL.config, seed=5)
    with intervened(model, [Intervention(Site(1, "v"), operation)], allow_nothing=True):
        loss(model(PAIR.clean)).backward()


QUESTIONS: dict[str, Callable[[], Any]] = {
    "split": lambda: split_gradient(MODEL, loss, PAIR.clean),
    "split, by pair, with activations": lambda: split_gradient(
        MODEL, loss, PAIR.clean, ["blocks.1.attn.hook_v", "blocks.1.attn.hook_v_stream"], by="pair"
    ),
    "patch": lambda: patch(MODEL, PAIR, SITES),
    "paths": lambda: patch_paths(MODEL, PAIR),
    "route map": lambda: route_map(MODEL, PAIR),
    "shares": lambda: head_shares(MODEL, PAIR),
    "edges": lambda: attribute_edges(MODEL, PAIR, method="EAP-IG", steps=2),
    "cut edges": lambda: ablate_edges(MODEL, PAIR, GRAPH.edges[:3]),
    "circuit": lambda: judge(MODEL, PAIR, Circuit(GRAPH, (0, 1, 5))),
    "lens": lambda: logit_lens(MODEL, PAIR),
    "logits": lambda: attribute_logits(MODEL, PAIR),
    "view": lambda: attention_view(MODEL, PAIR[0]),
    "composition": lambda: head_composition(MODEL),
    "copying": lambda: eigenvalue_copying(MODEL),
    "ablation": lambda: ablate(MODEL, PAIR, [Ablation.head(MODEL, 0, 1), Ablation.gradient_cut(MODEL)]),
    "a step with a cut gradient": lambda: step_with(CutGradient()),
    **{
        f"attribution by {method}": lambda method=method: attribute(MODEL, PAIR, SITES, method=method, steps=2)
        for method in ("AtP", "AtP+QK", "AtP*", "IG")
    },
}


def tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.filterwarnings("ignore::analysis.WeakPairWarning")
def test_an_answered_question_leaves_no_tensor(question: str) -> None:
    ask = QUESTIONS[question]
    ask()
    before = tensors()
    for _ in range(3):
        ask()
    assert tensors() == before


def test_a_split_that_fails_leaves_no_tensor() -> None:
    def fails() -> None:
        with pytest.raises(NotFiniteError):
            split_gradient(MODEL, lambda logits: loss(logits) * torch.inf, PAIR.clean)

    fails()
    before = tensors()
    fails()
    assert tensors() == before


def test_what_is_kept_is_seen() -> None:
    before = tensors()
    kept = split_gradient(MODEL, loss, PAIR.clean)
    assert tensors() >= before + len(kept.whole)
