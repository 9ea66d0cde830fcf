"""What breaks when edges are cut: one, several together, or every single one, of either route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from analysis.edges import EdgeRuns, Sent, numbered, send
from analysis.evalmode import require_eval_mode
from analysis.graph import Graph
from analysis.pairs import ReadAt, read
from circuits.errors import known, require
from circuits.model import HookedStreamTransformer
from circuits.replacement import others

CutMethod = Literal["zero", "mean", "resample", "from run"]
CUT_METHODS: dict[str, str] = {
    "zero": "nothing comes along the edge",
    "mean": "the mean over the given examples, position by position",
    "resample": "what another of the given examples sends",
    "from run": "what another model of the same architecture sends on the same inputs",
}


@torch.no_grad()
def ablate_edges(
    model: HookedStreamTransformer,
    inputs: Tensor,
    answers: Int[Tensor, " batch"],
    edges: Sequence[str | Sequence[str]] | None = None,
    method: CutMethod = "mean",
    other: HookedStreamTransformer | None = None,
    seed: int = 0,
    read_at: ReadAt = -1,
    max_memory: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Return one row an edge, or a set of edges cut together: accuracy and loss (nats) at ``read_at``, whole and cut.

    ``edges`` are names (:class:`analysis.graph.Graph` lists them), sets of names, or ``None`` for each edge by itself.
    ``changed`` is the largest change of a logit that is read.

    Raises:
        UnknownNameError: for an edge that the model does not have, or an unknown method (nearest suggested).
        ValueError: for a model in training mode, one example to resample from, ``from run`` without another model or
            with one of another architecture, or a memory bound smaller than one copy.
    """
    require_eval_mode(model, "ablation")
    graph = Graph(model)
    sets = [edge.name for edge in graph.edges] if edges is None else list(edges)
    names = [[s] if isinstance(s, str) else list(s) for s in sets]
    cuts = torch.stack([numbered(graph.find(group), len(graph)) for group in names])
    sent = _sent(model, graph, inputs, known("method", method, CUT_METHODS), other, seed)
    whole = read(model(inputs), read_at)
    rows = [
        _row(whole, read(logits, read_at), answers)
        for logits in EdgeRuns(model, inputs, sent, graph, max_memory).each(cuts, progress)
    ]
    frame = pd.DataFrame(rows).assign(method=method, n=len(inputs))
    frame.insert(0, "edges", [" + ".join(group) for group in names])
    return frame


def _sent(
    model: HookedStreamTransformer,
    graph: Graph,
    inputs: Tensor,
    method: str,
    other: HookedStreamTransformer | None,
    seed: int,
) -> Sent:
    if method == "from run":
        if other is None:
            raise ValueError("cutting edges 'from run' needs the other model: other=")
        require(
            [edge.name for edge in Graph(other).edges] == [edge.name for edge in graph.edges],
            f"the other model ({other.config.name}) has other edges than this one ({model.config.name}); take a model "
            f"of the same architecture",
        )
        return send(other, graph, inputs)
    sent = send(model, graph, inputs)
    if method == "resample":
        return sent.rows(others(len(inputs), seed).to(inputs.device))
    return sent.replaced("zero" if method == "zero" else "mean")


def _row(whole: Tensor, cut: Tensor, answers: Tensor) -> dict[str, Any]:
    accuracy = [float((x.argmax(-1) == answers).float().mean()) for x in (whole, cut)]
    loss = [float(F.cross_entropy(x, answers)) for x in (whole, cut)]
    return {
        "accuracy": accuracy[0],
        "accuracy_ablated": accuracy[1],
        "loss": loss[0],
        "loss_ablated": loss[1],
        "changed": float((cut - whole).abs().max()),
    }
