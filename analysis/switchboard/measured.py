"""One model, measured for the switchboard: effects of nodes and edges, edges changed, heads by route, prompts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from analysis.edges.graph import Graph, Node
from analysis.edges.head_shares import head_shares
from analysis.edges.switched import EdgeSwitch
from analysis.gap import NoGapError, WeakPairWarning
from analysis.metrics import accuracy, evaluate, metric_named
from analysis.pairs import Pair
from analysis.patching.patch import patch
from analysis.statistics.intervals import share_interval
from analysis.switchboard.prompts import inputs_of, on_prompt
from circuits.model import HookedStreamTransformer
from circuits.sites import Site


def measured(
    model: HookedStreamTransformer,
    pair: Pair,
    metric: str,
    edges: Sequence[int],
    prompts: int,
    gradients: bool = True,
    gates: bool = False,
    max_memory: int | None = None,
) -> dict[str, Any]:
    """Return what the switchboard shows of a model, as plain data; ``None`` where nothing can be measured.

    Effects are shares of the clean-corrupt difference of the metric that are lost where a node's output, or what comes
    along an edge, is the corrupt run's. Keys: clean, corrupt, accuracy, n, and ``warnings``, which hold what is to be
    known of these and would come as a :class:`WeakPairWarning` at every step; node and edge (effect, low, high, a
    number a node or an edge of ``edges``; of edges also metric, and with ``gradients`` cosine); with ``gates`` what a
    stop and a gradient-only gate of every stream edge leave; shares; pattern and values of the first ``prompts``
    inputs.

    Raises:
        ValueError: as :func:`analysis.patch` and :class:`analysis.edges.switched.EdgeSwitch`.
    """
    seen = [on_prompt(model, inputs) for inputs in inputs_of(model, pair, range(prompts))]
    found: dict[str, Any] = {"pattern": [pattern for pattern, _ in seen], "values": [values for _, values in seen]}
    with warnings.catch_warnings():
        # Early in training nothing is told apart, and what is asked below would say the same again.
        warnings.simplefilter("ignore", WeakPairWarning)
        try:
            switch = EdgeSwitch(model, pair, metric, max_memory=max_memory)
        except NoGapError:
            return found | _without_gap(model, pair, metric, edges)
        found |= switch.runs.beside.columns() | {"warnings": list(switch.runs.beside.warnings)}
        found |= {"node": _nodes(model, pair, switch.graph, metric, max_memory)}
        found |= {"edge": _edges(switch, edges, gradients, max_memory)}
        found |= {"shares": _shares(model, pair, metric, max_memory)}
    return found | ({"gates": _gates(switch, edges)} if gates else {})


@torch.no_grad()
def _without_gap(model: HookedStreamTransformer, pair: Pair, metric: str, edges: Sequence[int]) -> dict[str, Any]:
    name, function = metric_named(metric)
    logits = model(pair.clean)
    clean = float(evaluate(function, name, logits, pair).mean())
    right = float(accuracy(logits, pair).mean())
    nothing = {key: [None] * len(nodes_of(Graph(model))) for key in ("effect", "low", "high")}
    of_edges = {key: [None] * len(edges) for key in ("effect", "low", "high", "metric", "cosine")}
    beside = {"clean": clean, "corrupt": clean, "accuracy": right, "n": len(pair), "warnings": []}
    return beside | {"node": nothing, "edge": of_edges, "shares": []}


def nodes_of(graph: Graph) -> list[Node]:
    """Return every node of a graph that an edge leaves or enters, in the order in which they come up."""
    return list(dict.fromkeys(node for edge in graph.edges for node in (edge.source, edge.target)))


def _nodes(
    model: HookedStreamTransformer, pair: Pair, graph: Graph, metric: str, max_memory: int | None
) -> dict[str, list[float | None]]:
    """What is lost where a head's or an MLP's output is the corrupt run's; of other nodes nothing is measured."""
    nodes = nodes_of(graph)
    sites = {node: site for node in nodes if (site := _site(node)) is not None}
    frame = patch(model, pair, list(sites.values()), metric, "noise", max_memory).to_frame()
    rows: dict[Node, Any] = dict(zip(sites, frame.to_dict("records"), strict=True))
    return {
        key: [plain(rows[node][key]) if node in rows else None for node in nodes] for key in ("effect", "low", "high")
    }


def _site(node: Node) -> Site | None:
    if node.kind == "head":
        return Site(node.where[0], "z", head=node.where[1])
    return Site(node.layer, "mlp_out") if node.kind == "mlp" and node.layer is not None else None


def _edges(
    switch: EdgeSwitch, edges: Sequence[int], gradients: bool, max_memory: int | None
) -> dict[str, list[float | None]]:
    left = [switch.changed({switch.graph.edges[edge].name: "cut"}) for edge in edges] if gradients else []
    gap, baseline = (x.double().cpu().numpy() for x in (switch.runs.gap, switch.runs.baseline))
    moved = [one.values.double().cpu().numpy() - baseline for one in left]
    values = np.stack(moved) if moved else switch.each_cut(edges, max_memory)
    low, high = share_interval(values, gap)
    found = {
        "effect": values.mean(1) / gap.mean(),
        "low": low,
        "high": high,
        "metric": values.mean(1) + baseline.mean(),
    }
    told: dict[str, list[float | None]] = {key: [plain(x) for x in numbers] for key, numbers in found.items()}
    return told | ({"cosine": [plain(one.gradient_cosine) for one in left]} if gradients else {})


def _gates(switch: EdgeSwitch, edges: Sequence[int]) -> dict[str, Any]:
    """What a gate of every single stream edge leaves; of other edges nothing is measured."""
    every = [switch.graph.edges[edge] for edge in edges]
    found: dict[str, Any] = {}
    for gate in ("stop", "gradient-only"):
        left = [switch.changed({edge.name: gate}) if edge.route == "stream" else None for edge in every]
        found[gate] = {
            "metric": [None if one is None else plain(one.metric) for one in left],
            "cosine": [None if one is None else plain(one.gradient_cosine) for one in left],
        }
    return found


def _shares(model: HookedStreamTransformer, pair: Pair, metric: str, max_memory: int | None) -> list[dict[str, Any]]:
    if not model.config.streams:
        return []
    frame: pd.DataFrame = head_shares(model, pair, None, metric, "noise", max_memory).to_frame()
    found: dict[tuple[int, int, str], dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        key = (int(row["layer"]), int(row["head"]), str(row["carrier"]))
        one = found.setdefault(key, {"layer": key[0], "head": key[1], "carrier": key[2]})
        one[str(row["share"])] = [plain(row[name]) for name in ("effect", "low", "high")]
    return list(found.values())


def plain(number: float | np.floating | Float[np.ndarray, ""]) -> float | None:
    """Return a number as JSON can hold it: ``None`` for NaN and infinity."""
    value = float(number)
    return value if math.isfinite(value) else None
