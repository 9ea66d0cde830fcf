"""What breaks when edges are cut: one, several together, or every single one, of either route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.ablated import Ablations
from analysis.edges.cut_runs import EdgeRuns, numbered
from analysis.edges.graph import Edge, Graph
from analysis.edges.sent import Sent, send
from analysis.memory import bound_for, bytes_of
from analysis.metrics import Metric, check_finite, check_logits, evaluate, logit_difference, metric_named, read
from analysis.pairs import Pair, check_readable, is_padding
from analysis.ready import require_eval_mode, require_no_hooks
from analysis.resuming import KeptIn, identity, kept_rows
from circuits.common.errors import known, require, whole
from circuits.interventions.replacement import others
from circuits.model import HookedStreamTransformer

CutMethod = Literal["zero", "mean", "resample", "other run", "from run"]
CUT_METHODS: dict[str, str] = {
    "zero": "nothing comes along the edge",
    "mean": "the mean over the given examples, position by position",
    "resample": "what another of the given examples sends",
    "other run": "what the pair's corrupt input sends, example by example",
    "from run": "what another model of the same architecture sends on the same inputs",
}
MEASURED = ("accuracy", "accuracy_ablated", "loss", "loss_ablated", "changed")


@torch.no_grad()
def ablate_edges(
    model: HookedStreamTransformer,
    pair: Pair,
    edges: Iterable[str | Edge | Iterable[str | Edge]] | None = None,
    method: CutMethod = "mean",
    other: HookedStreamTransformer | None = None,
    seed: int = 0,
    max_memory: int | None = None,
    progress: bool = False,
    metric: str | Metric | None = None,
    kept: KeptIn | None = None,
) -> Ablations:
    """Return one row an edge, or a set of edges cut together: accuracy and loss (nats), whole and cut.

    They are of the clean inputs, where the pair reads them (inputs without a counterfactual are a
    ``Pair.one_sided(inputs, answers)``). Means and samples are of the clean inputs too, and leave padding out.
    ``edges`` are edges or their names (:class:`analysis.edges.graph.Graph` lists them), sets of them, or ``None`` for
    each edge by itself.
    ``changed`` is the largest change of a logit that is read. With a ``metric`` there are the columns metric,
    metric_whole and metric_ablated, too: its means. ``kept`` as in :func:`analysis.patch`.

    Raises:
        UnknownNameError: for an edge that the model does not have, or an unknown method (nearest suggested).
        ValueError: for no edge at all, a model in training mode or with hooks attached, a pair that the model cannot
            answer or that is read at padding, one without wrong answers and the metric "logit_difference", one example
            to resample from, ``from run`` without another model or with one of another architecture, a seed that is no
            whole number, or a bound on memory (``max_memory``, as in :func:`analysis.patch`) that is less than one copy
            needs.
    """
    seed = whole("seed", seed, None)
    for asked in (model, *([] if other is None else [other])):
        require_eval_mode(asked, "ablation")
        require_no_hooks(asked, "ablating edges")
    check_readable(model, pair)
    named = None if metric is None else metric_named(metric)
    if named is not None and named[1] is logit_difference:
        pair.require_two_answers("their logit difference", 'metric="probability" or "loss"')
    graph = Graph(model)
    require(
        not isinstance(edges, (str, Edge)), f"edges are a list of edges, their names, or sets of either, got {edges!r}"
    )
    given = [[one] if isinstance(one, (str, Edge)) else one for one in (graph.edges if edges is None else edges)]
    cut = [graph.find(together) for together in given]
    require(bool(cut) and all(cut), "there is no edge to cut; leave edges out for each by itself")
    cuts = torch.stack([numbered(group, len(graph)) for group in cut])
    if max_memory is not None:
        bound_for(max_memory, EdgeRuns.needed(model, graph, pair.clean) + 2 * bytes_of([cuts]), pair.clean.device)
    sent = _sent(model, graph, pair, known("method", method, CUT_METHODS), other, seed)
    uncut = read(model(pair.clean), pair.read_at).clone()
    check_logits(uncut)
    about = {"method": method, "seed": seed, "other": None if other is None else identity(other)}
    there = kept_rows(kept, "cutting edges", model, pair, named, **about)

    def measure(logits: Tensor) -> Tensor:
        cut = read(logits, pair.read_at)
        check_logits(cut, "the model with edges cut")
        row = _row(uncut, cut, pair.answers)
        row += [] if named is None else [_mean(named, logits, pair)]
        return torch.tensor(row, dtype=torch.float64, device=logits.device)

    runs = EdgeRuns(model, pair.clean, sent, graph, max_memory, 2 * bytes_of([cuts]))
    rows = runs.each(cuts, measure, progress, there).cpu().numpy()
    numbers = pd.DataFrame(rows[:, : len(MEASURED)], columns=list(MEASURED))
    if named is not None:
        of_whole = {"metric": named[0], "metric_whole": _mean(named, model(pair.clean), pair)}
        numbers = numbers.assign(**of_whole, metric_ablated=rows[:, -1])
    parts = [" + ".join(graph.edges[number].name for number in group) for group in cut]
    where = {"part": parts, "method": method, "layer": "all", "head": "all"}
    return Ablations(pd.concat([pd.DataFrame(where), numbers], axis=1).assign(n=len(pair)))


def require_same_edges(model: HookedStreamTransformer, other: HookedStreamTransformer) -> None:
    """Refuse another model of which no edge can be taken instead of this one's.

    Raises:
        ValueError: if it has other edges, or weights of other sizes.
    """
    alike = [edge.name for edge in Graph(other).edges] == [edge.name for edge in Graph(model).edges]
    shapes = [{name: weight.shape for name, weight in each.named_parameters()} for each in (other, model)]
    require(
        alike and shapes[0] == shapes[1],
        f"the other model ({other.config.name}) has other {'sizes' if alike else 'edges'} than this one "
        f"({model.config.name}); take a model of the same architecture",
    )


def _sent(
    model: HookedStreamTransformer,
    graph: Graph,
    pair: Pair,
    method: str,
    other: HookedStreamTransformer | None,
    seed: int,
) -> Sent:
    require(
        other is None or method == "from run",
        f"the method {method!r} asks no other model; leave other out, or take 'from run'",
    )
    if method == "from run":
        if other is None:
            raise ValueError("cutting edges 'from run' needs the other model: other=")
        require_same_edges(model, other)
        return send(other, graph, pair.clean)
    if method == "other run":
        pair.require_difference()
        return send(model, graph, pair.corrupt).without_padding(is_padding(model, pair))
    require(
        len(pair) > 1 or method != "mean",
        "the mean over one input is that input itself, which takes nothing away; give more, or the method 'zero'",
    )
    sent = send(model, graph, pair.clean).without_padding(is_padding(model, pair))
    if method == "resample":
        return sent.rows(others(len(pair), seed).to(pair.clean.device))
    return sent.replaced("zero" if method == "zero" else "mean")


def _mean(metric: tuple[str, Metric], logits: Tensor, pair: Pair) -> float:
    return float(evaluate(metric[1], metric[0], logits, pair).mean())


def _row(whole: Tensor, cut: Tensor, answers: Tensor) -> list[float]:
    accuracy = [float((x.argmax(-1) == answers).float().mean()) for x in (whole, cut)]
    loss = [float(check_finite("loss", F.cross_entropy(x, answers))) for x in (whole, cut)]
    # Of an answer that is ruled out in both, by a logit of minus infinity, the difference is no number.
    return [*accuracy, *loss, float((cut - whole).nan_to_num(0.0, torch.inf, -torch.inf).abs().max())]
