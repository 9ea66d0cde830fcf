"""What is given as a list or a number is that, whatever library it is of; else it is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from analysis import (
    Ablation,
    Circuit,
    Graph,
    Pair,
    ablate_edges,
    attention_view,
    attribute,
    attribute_edges,
    copy_score,
    find_circuit,
    find_paths,
    find_sites,
    route_map,
    split_gradient,
)
from circuits import HookedStreamTransformer, KeyValueCache, Site
from circuits.common.errors import real
from tests.helpers import build, random_pair

MODEL = build("value", "tokens", 2)
PAIR = random_pair(MODEL, 4)
GRAPH = Graph(MODEL)
NAMES = [edge.name for edge in GRAPH.edges[:2]]


def pair_with(**changes: Any) -> Pair:
    given: dict[str, Any] = {"clean": PAIR.clean, "corrupt": PAIR.corrupt, "answers": PAIR.answers, "wrong": PAIR.wrong}
    return Pair(**(given | changes))


def sized(**sizes: Any) -> HookedStreamTransformer:
    return build("value", "tokens", 2, **sizes)


def odd(value: Any) -> Any:
    """What no type checker would let through."""
    return value


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "roles letter by letter": (lambda: route_map(MODEL, PAIR, positions=odd("END")), "positions are a list of int"),
    "a position": (lambda: route_map(MODEL, PAIR, positions=odd(2)), "positions are a list of int"),
    "positions twice": (
        lambda: find_sites(MODEL, positions=odd([1, np.int64(1)])),
        "positions must differ .*, and 1 came more",
    ),
    "mapped twice": (
        lambda: route_map(MODEL, PAIR, positions=[0, 0]),
        "positions must differ .*, and 0 came more than once",
    ),
    "hook points": (
        lambda: split_gradient(MODEL, torch.mean, PAIR.clean, odd("hook_embed")),
        "activations are a list",
    ),
    "an edge's name": (lambda: Circuit.of(GRAPH, odd(NAMES[0])), "edges are a list of str"),
    "an edge": (lambda: Circuit.of(GRAPH, odd(GRAPH.edges[0])), "edges are a list of str"),
    "a site": (lambda: Ablation.sites("x", odd(Site(0, "z"))), "sites are a list of Site"),
    "names in one text": (lambda: attention_view(MODEL, PAIR[0], names=odd("abcdefg")), "names are a list of str"),
    "a head to view": (
        lambda: attention_view(MODEL, PAIR[0], odd((0, 1))),
        r"heads are \(layer, head\) pairs of 2 lay",
    ),
    "a head to send": (
        lambda: find_paths(MODEL, odd([(0, 1.0)])),
        r"senders are \(layer, head\) pairs of 2 lay",
    ),
    "no such head": (lambda: find_paths(MODEL, [(2, 0)]), r"senders are \(layer, head\) pairs .*, got \[\(2, 0\)\]"),
    "half an edge": (
        lambda: find_circuit(attribute_edges(MODEL, PAIR), "top", odd(2.5)),
        "size must be a whole number",
    ),
    "a true size": (lambda: find_circuit(attribute_edges(MODEL, PAIR), "top", True), "size must be a whole number"),
    "a written threshold": (
        lambda: find_circuit(attribute_edges(MODEL, PAIR), "threshold", threshold=odd("0.1")),
        "threshold must be a number above 0, got '0.1'",
    ),
    "written steps": (
        lambda: attribute(MODEL, PAIR, [Site(0, "z")], method="IG", steps=odd("3")),
        "steps must be a whole",
    ),
    "steps of edges": (lambda: attribute_edges(MODEL, PAIR, steps=odd(2.0)), "steps must be a whole number"),
    "half a place": (lambda: copy_score(MODEL, torch.arange(3), top_k=odd(2.5)), "top_k must be a whole number"),
    "a true place": (lambda: copy_score(MODEL, torch.arange(3), top_k=True), "top_k must be a whole number"),
    "one place for all": (lambda: pair_with(positions={"a": 3}), r"positions of 'a' must be \(batch, n\)"),
    "rows backwards": (lambda: PAIR[::-1], "rows of a pair are taken forwards, got a step of -1"),
    "another model unasked": (lambda: ablate_edges(MODEL, PAIR, NAMES, "mean", sized()), "method 'mean' asks no other"),
    "narrower heads": (
        lambda: ablate_edges(MODEL, PAIR, NAMES, "from run", sized(d_head=3)),
        "has other sizes than th",
    ),
    "a wider stream": (
        lambda: ablate_edges(MODEL, PAIR, NAMES, "from run", sized(d_model=16, d_head=6)),
        "take a model of the same architecture",
    ),
    "another cache": (lambda: MODEL(PAIR.clean, past_kv_cache=odd({})), r"is a KeyValueCache, .*, got dict"),
    "a seed as generator": (
        lambda: MODEL.generate(PAIR.clean, 2, False, generator=odd(3)),
        "generator is a torch.Gen",
    ),
    "a written temperature": (
        lambda: MODEL.generate(PAIR.clean, 2, False, temperature=odd("1")),
        "temperature must be a",
    ),
    "half a choice": (lambda: MODEL.generate(PAIR.clean, 2, False, top_k=odd(2.5)), "top_k must be a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("untyped")
def test_what_is_no_list_or_number_is_refused_by_its_name(case: str) -> None:
    ask, told = REFUSED[case]
    with pytest.raises(ValueError, match=told):
        ask()


@pytest.mark.usefixtures("untyped")
def test_numbers_and_lists_of_numpy_and_edges_by_themselves_are_taken() -> None:
    assert find_paths(MODEL, odd(np.array([[0, 1], [1, 3]]))) == find_paths(MODEL, [(0, 1), (1, 3)])
    heads = odd(np.array([[1, 0]]))
    assert attention_view(MODEL, PAIR[0], heads).heads == attention_view(MODEL, PAIR[0], [(1, 0)]).heads
    assert Circuit.of(GRAPH, (edge for edge in GRAPH.edges[:2])) == Circuit.of(GRAPH, NAMES)
    scores = attribute_edges(MODEL, PAIR)
    assert find_circuit(scores, "top", odd(np.int64(9))).edges == find_circuit(scores, "top", 9).edges
    assert find_circuit(scores, "threshold", threshold=odd(np.float32(0.25))).edges
    places = ([2, 0], np.array([2, 0]), iter([2, 0]))
    maps = [route_map(MODEL, PAIR, positions=odd(given)).to_frame() for given in places]
    assert maps[0].equals(maps[1])
    assert maps[0].equals(maps[2])
    cut = [ablate_edges(MODEL, PAIR, odd(given)).to_frame() for given in ([NAMES], [GRAPH.edges[:2]], [iter(NAMES)])]
    assert cut[0].equals(cut[1])
    assert cut[0].equals(cut[2])
    assert len(ablate_edges(MODEL, PAIR, NAMES, "from run", sized())) == 2
    assert MODEL(PAIR.clean, past_kv_cache=KeyValueCache()).shape[:2] == PAIR.clean.shape


@pytest.mark.parametrize("given", [2, 0.5, np.float32(0.25), torch.tensor(3.0), np.int64(4)])
def test_a_number_is_one_of_any_library(given: Any) -> None:
    assert real("share", given, above=0) == float(given)


@pytest.mark.parametrize("given", [0, -1.0, float("nan"), float("inf"), "0.5", True, np.bool_(True), None, [1.0]])
def test_what_is_no_number_above_the_least_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="share must be a number above 0, got"):
        real("share", given, above=0)
