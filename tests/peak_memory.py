"""By how much a process grows while it asks a question with ``max_memory``, at its peak; Linux alone says so.

    python -m tests.peak_memory NAME TIMES [LAYERS WIDTH POSITIONS VOCABULARY PAIRS]

The bound is ``TIMES`` the least that is enough. Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis import (
    Graph,
    Pair,
    ablate_edges,
    attribute,
    attribute_edges,
    find_paths,
    find_sites,
    follow,
    head_shares,
    judge,
    patch,
    patch_paths,
)
from analysis.circuit.discovery import Circuit
from circuits import HookedStreamTransformer, lm_config

SHAPE = (3, 128, 72, 500, 32)


def centred(logits: Tensor, pair: Pair) -> Tensor:
    """A metric as anyone may write it: it makes copies of all logits, and keeps hold of one."""
    return (logits - logits.mean(-1, keepdim=True))[:, -1, 0] + logits.softmax(-1)[:, -1, 1]


def questions(model: HookedStreamTransformer, pair: Pair) -> dict[str, Callable[..., Any]]:
    """Every question that takes a bound on memory."""
    graph, n = Graph(model), pair.n_pos
    whole = Circuit(graph, tuple(range(0, len(graph), max(1, len(graph) // 4))))
    sites = find_sites(model, ["v", "z", "q", "pattern"], positions=[0, n // 2, n - 1])
    paths = find_paths(model)
    edges = [edge.name for edge in graph.edges]
    return {
        "patch": partial(patch, model, pair, sites),
        "patch, any metric": partial(patch, model, pair, sites, centred),
        "paths": partial(patch_paths, model, pair, paths[:: max(1, len(paths) // 20)]),
        "shares": partial(head_shares, model, pair),
        "edges": partial(attribute_edges, model, pair, check=0),
        "edges, any metric": partial(attribute_edges, model, pair, centred, check=0),
        "edges in steps": partial(attribute_edges, model, pair, method="EAP-IG", steps=2, check=0),
        "edges, checked": partial(attribute_edges, model, pair, check=8),
        "exact": partial(attribute_edges, model, pair, method="exact"),
        "sites": partial(attribute, model, pair, sites, check=0),
        "sites, any metric": partial(attribute, model, pair, sites, centred, check=0),
        "starred": partial(attribute, model, pair, sites, method="AtP*", check=4),
        "circuit": partial(judge, model, pair, whole, subsets=1),
        "cut": partial(ablate_edges, model, pair, edges[:: max(1, len(edges) // 20)]),
        "followed": partial(follow, [(0, model)], pair, whole, lambda scores: whole, steps=2),
    }


def asked(name: str, shape: tuple[int, ...]) -> Callable[..., Any]:
    """One of the questions, of a model and pairs of layers, width, positions, vocabulary and pairs."""
    layers, width, n_pos, vocabulary, n = shape
    options = {"n_layers": layers, "d_model": width, "n_heads": 4, "n_ctx": n_pos}
    model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=vocabulary, **options)).eval()
    clean, corrupt = (
        torch.randint(vocabulary, (n, n_pos), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    answers = torch.arange(n) % vocabulary
    return questions(model, Pair(clean, corrupt, answers, (answers + 1) % vocabulary))[name]


def main(name: str, times: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the bound and by how many bytes the process grew."""
    # What is imported and set up once is not of the question; so small a one leaves no room behind.
    asked(name, (2, 8, 6, 20, 2))()
    ask = asked(name, shape)
    try:
        ask(max_memory=1)
    except ValueError as error:
        bound = times * int(re.findall(r"about ([\d,]+)", str(error))[0].replace(",", ""))
    else:
        raise AssertionError("one byte is enough")
    gc.collect()
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    ask(max_memory=bound)
    return {"name": name, "times": times, "bound": bound, "grown": (_kilobytes("VmHWM") - before) * 1024}


def _kilobytes(field: str) -> int:
    return int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    numbers = tuple(int(x) for x in sys.argv[3:]) or SHAPE
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), numbers)))
