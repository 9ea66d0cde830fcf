"""A circuit in other models of the same graph: over checkpoints of a run, and over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import torch

from analysis.circuit import Circuit, EmptyCircuitError, Quality, judge
from analysis.edge_attribution import EdgeMethod, EdgeScores, attribute_edges
from analysis.edges import Replacement
from analysis.pairs import Metric, NoGapError, Pair, metric_named
from circuits.model import HookedStreamTransformer

Find = Callable[[EdgeScores], Circuit]


def follow(
    models: Iterable[tuple[Any, HookedStreamTransformer]],
    pair: Pair,
    circuit: Circuit,
    find: Find,
    metric: str | Metric = "logit_difference",
    method: EdgeMethod = "EAP-IG",
    replacement: Replacement = "other run",
    steps: int = 5,
    max_memory: int | None = None,
) -> pd.DataFrame:
    """Return one row a model: its label (``step``), faithfulness of ``circuit`` there, overlap with its own circuit.

    ``gap`` is the mean clean minus corrupt metric; a model that does not tell the two apart at all has NaN for the
    rest. ``find`` makes each model's own circuit of its scores; ``overlap`` is the share of edges in both circuits
    among those in either.

    Raises:
        ValueError: as :func:`analysis.judge`.
    """
    rows = []
    for label, model in models:
        name, function = metric_named(metric)
        with torch.no_grad():
            gap = float((function(model(pair.clean), pair) - function(model(pair.corrupt), pair)).mean())
        row = {"step": label, "metric": name, "gap": gap, "n": len(pair), "edges": len(circuit)}
        try:
            scores = attribute_edges(model, pair, metric, method, "noise", steps, 0, max_memory)
            quality = judge(model, pair, circuit, metric, replacement, subsets=0, max_memory=max_memory)
            row |= _found(quality, _own(find, scores), circuit)
        except NoGapError:
            row |= dict.fromkeys(("faithfulness", "low", "high", "overlap", "own_edges"), float("nan"))
        rows.append(row)
    return pd.DataFrame(rows)


def _own(find: Find, scores: EdgeScores) -> Circuit:
    try:
        return find(scores)
    except EmptyCircuitError:
        return Circuit(scores.graph, ())


def _found(quality: Quality, own: Circuit, circuit: Circuit) -> dict[str, float]:
    return {
        "faithfulness": quality.faithfulness,
        "low": quality.low,
        "high": quality.high,
        "overlap": circuit.overlap(own),
        "own_edges": float(len(own)),
    }
