"""The bound on memory holds: the living tensors of every question that takes one stay under it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from analysis import Graph, ablate_edges, attribute, attribute_edges, find_sites, head_shares, judge, patch_paths
from analysis.circuit import Circuit
from tests.helpers import build
from tests.test_edges import pair_for
from tests.test_replay import Living, least_memory


def questions(model: Any, pair: Any) -> dict[str, Callable[..., Any]]:
    whole = Circuit(Graph(model), tuple(range(0, len(Graph(model)), 40)))
    sites = find_sites(model, ["v", "z", "q"], positions=range(7))
    return {
        "paths": partial(patch_paths, model, pair),
        "shares": partial(head_shares, model, pair),
        "edges": partial(attribute_edges, model, pair, check=8),
        "exact": partial(attribute_edges, model, pair, method="exact"),
        "sites": partial(attribute, model, pair, sites, check=0),
        "starred": partial(attribute, model, pair, sites, method="AtP*", check=0),
        "circuit": partial(judge, model, pair, whole, subsets=1),
        "cut": partial(ablate_edges, model, pair),
    }


@pytest.mark.parametrize("name", ["paths", "shares", "edges", "exact", "sites", "starred", "circuit", "cut"])
@pytest.mark.parametrize("variant", ["lime"])
def test_living_tensors_stay_under_the_bound(variant: str, name: str) -> None:
    model = build(variant, "tokens", 3)
    pair = pair_for(model, 8)
    ask = questions(model, pair)[name]
    bound = 2 * least_memory(ask)
    with Living(model) as tensors:
        ask(max_memory=bound)
    assert tensors.most <= bound, f"{tensors.most / bound:.2f} of the bound"
    assert torch.is_grad_enabled()
