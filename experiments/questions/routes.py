"""Paths, attributions and circuits of a run: the functions of ``analysis`` on its task's pairs and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from analysis import (
    ablate_edges,
    attribute,
    attribute_edges,
    find_circuit,
    find_paths,
    follow,
    head_shares,
    judge,
    patch_paths,
)
from analysis.attribution.of_edges import EDGE_METHODS, EdgeMethod, EdgeScores
from analysis.attribution.of_sites import METHODS, SiteScores
from analysis.circuit.discovery import RULES, Circuit
from analysis.circuit.quality import Quality
from analysis.compared_runs import Direction
from analysis.edges.cut_runs import Replacement
from analysis.edges.direct_paths import PathResult
from analysis.pairs import Pair
from circuits.common.errors import known, require
from circuits.model import HookedStreamTransformer
from experiments.questions.analyses import check_other, labelled, patched_sites
from experiments.runs.finding import pairs, sequences
from experiments.runs.run import Run


def asked(run: Run, n: int, corruption: str | None, step: int = -1) -> tuple[HookedStreamTransformer, Pair]:
    """Return a run's model at a step and ``n`` pairs of its task.

    Raises:
        RunError: if there is no checkpoint at ``step``.
        UnknownNameError: for an unknown corruption (nearest suggested).
    """
    return run.load_model(step), pairs(run, n, corruption)


def paths_run(
    run: Run,
    n: int = 128,
    corruption: str | None = None,
    metric: str = "logit_difference",
    direction: Direction = "denoise",
    step: int = -1,
    max_memory: int | None = None,
    progress: bool = False,
    senders: Sequence[tuple[int, int]] | None = None,
    receivers: Sequence[str] | None = None,
    routes: Sequence[str] = ("residual", "stream"),
) -> tuple[PathResult, pd.DataFrame]:
    """Return the effects of direct paths between a run's heads, and every head's effect split by route."""
    model, pair = asked(run, n, corruption, step)
    paths = find_paths(model, senders, receivers, [r for r in routes if r != "stream" or model.config.streams])
    found = patch_paths(model, pair, paths, metric, direction, max_memory, progress)
    return found, head_shares(model, pair, None, metric, direction, max_memory, progress)


def attribute_run(
    run: Run,
    method: str = "EAP-IG",
    n: int = 128,
    corruption: str | None = None,
    metric: str = "logit_difference",
    direction: Direction = "denoise",
    step: int = -1,
    steps: int = 5,
    check: int = 64,
    max_memory: int | None = None,
    progress: bool = False,
    **which: Any,
) -> EdgeScores | SiteScores:
    """Return scores of edges (EAP, EAP-IG, exact) or of sites (AtP, AtP+QK, AtP*, IG); ``which`` chooses the sites.

    Raises:
        UnknownNameError: for an unknown method (nearest suggested).
    """
    known("method", method, {**EDGE_METHODS, **METHODS})
    model, pair = asked(run, n, corruption, step)
    rest: dict[str, Any] = {"steps": steps, "check": check, "max_memory": max_memory, "progress": progress}
    if method in EDGE_METHODS:
        return attribute_edges(model, pair, metric, method, direction, **rest)  # type: ignore[arg-type] # as checked
    sites = patched_sites(model, **{"positions": list(pair.positions), **which})
    return attribute(model, pair, sites, metric, method, direction, **rest)  # type: ignore[arg-type] # as checked


def ablate_edges_run(
    run: Run,
    edges: Sequence[str] | None,
    methods: Sequence[str] = ("zero", "mean"),
    n: int = 512,
    split: str | None = None,
    step: int = -1,
    other: Run | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Return what breaks when edges of a run's model are cut: those named together, or each by itself (``None``).

    Columns as those of :func:`experiments.questions.analyses.ablate_run`, the edges in the place of the part.

    Raises:
        UnknownNameError: for an edge that the model does not have (nearest suggested).
        ValueError: for an ``other`` run that is this one, or whose classes and labels are others.
    """
    if other is not None:
        check_other(run, other)
    model, asked = run.load_model(step), sequences(run, n, split)
    theirs = None if other is None else other.load_model()
    wanted = None if edges is None else [list(edges)]
    every: list[Any] = [*methods, *([] if theirs is None else ["from run"])]
    frames = [ablate_edges(model, asked, wanted, method, theirs, progress=progress) for method in every]
    return pd.concat(frames, ignore_index=True).rename(columns={"edges": "part"}).assign(layer="all", head="all")


def rule_of(rule: str, size: int, threshold: float) -> Callable[[EdgeScores], Circuit]:
    """Return the function that makes a circuit of scores; a size beyond the graph's takes all of it.

    Raises:
        UnknownNameError: for an unknown rule (nearest suggested).
        ValueError: for a size or a threshold that is not positive.
    """
    chosen: Any = known("rule", rule, RULES)
    require(rule == "threshold" or size > 0, f"size = {size}: a circuit needs at least one edge")
    require(rule != "threshold" or threshold > 0, f"threshold = {threshold}: it must be positive")

    def find(scores: EdgeScores) -> Circuit:
        if rule == "threshold":
            return find_circuit(scores, chosen, threshold=threshold)
        return find_circuit(scores, chosen, min(size, len(scores.graph)))

    return find


def circuit_run(
    run: Run,
    find: Callable[[EdgeScores], Circuit],
    method: EdgeMethod = "EAP-IG",
    n: int = 128,
    corruption: str | None = None,
    metric: str = "logit_difference",
    replacement: Replacement = "other run",
    step: int = -1,
    steps: int = 5,
    max_memory: int | None = None,
    progress: bool = False,
) -> tuple[EdgeScores, Quality]:
    """Return a run's scores (noising: what the clean run loses without each edge) and its circuit's quality."""
    known("method", method, EDGE_METHODS)
    model, pair = asked(run, n, corruption, step)
    scores = attribute_edges(model, pair, metric, method, "noise", steps, 64, max_memory, progress)
    return scores, judge(model, pair, find(scores), metric, replacement, max_memory=max_memory, progress=progress)


def circuit_frame(scores: EdgeScores, quality: Quality) -> pd.DataFrame:
    """Return every edge of the graph: effect, whether it is in the circuit, minimality, and the circuit's numbers."""
    frame = scores.to_frame()
    kept = quality.edges.set_index("edge").minimality
    numbers = quality.summary().drop(columns=["metric", *quality.beside.columns()])
    frame = frame.assign(kept=frame.edge.isin(kept.index), edge_minimality=frame.edge.map(kept))
    return frame.merge(numbers, how="cross")


def circuit_over_checkpoints(
    run: Run,
    circuit: Circuit,
    find: Callable[[EdgeScores], Circuit],
    method: EdgeMethod = "EAP-IG",
    n: int = 128,
    corruption: str | None = None,
    metric: str = "logit_difference",
    replacement: Replacement = "other run",
    steps: int = 5,
    max_memory: int | None = None,
    progress: bool = False,
    checkpoints: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return how much of the behaviour a circuit carries at the checkpoints of a run, all or those at some steps,
    labelled with the run."""
    at = run.checkpoints() if checkpoints is None else checkpoints
    models: Iterator[tuple[int, HookedStreamTransformer]] = (
        (step, run.load_model(step))
        for step in tqdm(at, unit=" checkpoints", disable=not progress, leave=False, delay=2)
    )
    pair = pairs(run, n, corruption)
    return labelled(follow(models, pair, circuit, find, metric, method, replacement, steps, max_memory), run)


def overlaps(circuits: dict[str, Circuit]) -> pd.DataFrame:
    """Return the overlap of every two circuits (share of edges in both among those in either), by run."""
    rows = [
        {"run": a, "other": b, "overlap": one.overlap(other), "edges": len(one), "other_edges": len(other)}
        for i, (a, one) in enumerate(circuits.items())
        for b, other in list(circuits.items())[i + 1 :]
    ]
    return pd.DataFrame(rows, columns=["run", "other", "overlap", "edges", "other_edges"])
