"""EAP and EAP-IG over every edge, those of the stream included: estimates of what patching each edge alone would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from analysis.attribution.agreement import EXACT, Agreement, agreement, to_check
from analysis.attribution.edge_gradients import EdgeEstimator, edge_bytes
from analysis.compared_runs import Direction, TwoRuns, two_runs
from analysis.edges.cut_runs import EdgeRuns, one_each
from analysis.edges.graph import Edge, Graph
from analysis.edges.sent import send
from analysis.edges.steered_forward import flowing
from analysis.gap import Gap
from analysis.memory import beside_logits, copies_within, in_batches, logits_of_one
from analysis.metrics import Metric, precise, require_some_gradient
from analysis.pairs import Pair
from analysis.result import Effects
from analysis.resuming import KeptIn, kept_rows
from circuits.common.errors import known, require, whole
from circuits.model import HookedStreamTransformer

EdgeMethod = Literal["EAP", "EAP-IG", "exact"]
EDGE_METHODS: dict[str, str] = {
    "EAP": "the gradient of the run that is patched (Syed et al., arXiv 2310.10348)",
    "EAP-IG": "its mean over inputs between that run's and the other's, at midpoints (Hanna et al., arXiv 2403.17806)",
    "exact": "no estimate: every edge patched by itself",
}


@dataclass(frozen=True, repr=False)
class EdgeScores(Effects):
    """A score for every edge of a graph and every example: by how much patching the edge alone changes the metric.

    Sign and direction as in :func:`analysis.patch`: a positive score moves the patched run's metric up. Positions are
    summed. ``gap`` is the metric of the run that activations come from, minus that of the run that is patched.
    """

    graph: Graph
    values: Float[Tensor, "edge example"]
    gap: Float[Tensor, " example"]
    method: str
    metric: str
    direction: str
    beside: Gap
    """What stands beside every effect: the metric of both runs, the model's accuracy, n."""
    sum_error: float = float("nan")
    """The largest |sum over a node's outgoing edges - the node's own score|, relative to the largest node score; exact
    patches do not add up, so theirs is NaN."""
    total: float = float("nan")
    """What the edges out of the input, and out of tables of value embeddings, add up to, as a share of the gap: 1 where
    the estimate is complete."""
    agreement: Agreement = EXACT
    where = ("edge",)
    of = "edges"

    @property
    def scores(self) -> Float[Tensor, " edge"]:
        """The mean over examples, in the metric's units."""
        return self.values.mean(1)

    @property
    def effects(self) -> Float[Tensor, " edge"]:
        """The scores as shares of the mean gap, comparable with a patch's normalised effect."""
        return self.scores / self.gap.mean()

    def node_scores(self) -> dict[str, float]:
        """Return every writer's score: the sum over its outgoing edges."""
        found = dict.fromkeys((node.name for node in self.graph.writers), 0.0)
        for edge, score in zip(self.graph.edges, self.scores.tolist(), strict=True):
            if edge.route == "residual":
                found[edge.source.name] += score
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return one row an edge: source, target, route, score, effect, its standard error, and the convention.

        One example has no standard error (NaN).
        """
        n = self.values.shape[1]
        spread = self.values.std(1) if n > 1 else torch.full_like(self.values[:, 0], torch.nan)
        error = spread / n**0.5 / self.gap.mean().abs()
        frame = pd.DataFrame([_row(edge) for edge in self.graph.edges])
        return frame.assign(
            score=self.scores.numpy(),
            effect=self.effects.numpy(),
            stderr=error.numpy(),
            **self.beside.columns(),
            metric=self.metric,
            method=self.method,
            direction=self.direction,
            sum_error=self.sum_error,
            total=self.total,
            **self.agreement.columns(),
        )

    def figure(self) -> Any:
        """Return the largest edges as a drawing of the graph (a plotly figure)."""
        from figures.models.edges import edge_drawing

        return edge_drawing(self.to_frame())


def _row(edge: Edge) -> dict[str, Any]:
    ends = {"source": edge.source, "target": edge.target}
    parts = {f"{end}_{part}": getattr(node, part) for end, node in ends.items() for part in ("layer", "head")}
    where = {name: "-" if number is None else str(number) for name, number in parts.items()}
    return {"edge": edge.name, "source": edge.source.name, "target": edge.target.name, "route": edge.route} | where


def attribute_edges(
    model: HookedStreamTransformer,
    pair: Pair,
    metric: str | Metric = "logit_difference",
    method: EdgeMethod = "EAP",
    direction: Direction = "denoise",
    steps: int = 5,
    check: int = 64,
    max_memory: int | None = None,
    progress: bool = False,
    kept: KeptIn | None = None,
) -> EdgeScores:
    """Return the score of every edge of the model's graph (see :mod:`analysis.edges.graph`), in the metric's units.

    ``steps`` is the number of inputs between the two runs, for EAP-IG. ``check`` edges are also patched exactly, each
    alone, and the result says how well the estimates agree. ``max_memory`` as in :func:`analysis.patch`, and so is
    ``kept``, of what is patched exactly. Gradients follow what flows forward: past a ``stop`` gate too, and
    not through a ``gradient-only`` one; they are taken under ``torch.no_grad()``, too.

    Raises:
        ValueError: for a model in training mode or with hooks attached, inference mode, a metric without a gradient or
            not one finite number an example, a pair whose clean and corrupt metric are equal, or a bound on memory that
            is less than one example needs (with ``check`` or "exact", one copy of the pair).

    Source: Syed et al., arXiv 2310.10348; Hanna et al., arXiv 2403.17806; stream edges are this toolkit's own.
    """
    known("method", method, EDGE_METHODS)
    steps = whole("steps", steps, least=0)
    require(steps > 0, f"steps = {steps}: EAP-IG needs at least one input between the two runs")
    whole("check", check, least=0)
    graph = Graph(model)
    asked = len(graph) if method == "exact" else min(check, len(graph))

    def needed(metric: Metric) -> int:
        return bytes_to_attribute(model, graph, pair, metric, method, check)

    runs = two_runs(model, pair, metric, direction, "attribution", method != "exact", max_memory, needed)
    if method == "exact":
        values = precise(_Exact(model, runs, graph, asked, max_memory, kept).of(range(len(graph)), progress))
        return EdgeScores(graph, values.cpu(), runs.gap.cpu(), method, runs.metric, direction, runs.beside)
    fractions = [0.0] if method == "EAP" else [(i + 0.5) / steps for i in range(steps)]
    estimator = EdgeEstimator(model, graph, (runs.metric, runs.function), fractions)
    size = copies_within(
        max_memory,
        edge_bytes(model, graph, pair.n_pos, runs.function),
        1,
        pair.clean.device,
        _bytes_of_scores(graph, pair),
    )
    with (
        torch.enable_grad(),
        flowing(model),
        tqdm(total=len(pair), unit=" pairs", disable=not progress, leave=False, delay=2) as bar,
    ):
        for rows in in_batches(len(pair), size):
            estimator.add(pair[rows], runs.source[rows], runs.base[rows])
            bar.update(rows.stop - rows.start)
    require_some_gradient(runs.metric, estimator.some)
    values, gap = precise(torch.cat(estimator.values, 1)), runs.gap
    checked = to_check(values.mean(1), check)
    moved = _Exact(model, runs, graph, asked, max_memory, kept).of(checked) if checked else values[:0]
    return EdgeScores(
        graph=graph,
        values=values.cpu(),
        gap=gap.cpu(),
        method=method if method == "EAP" else f"EAP-IG ({steps} steps)",
        metric=runs.metric,
        direction=direction,
        beside=runs.beside,
        sum_error=estimator.sum_error(),
        total=float(estimator.input_total() / gap.mean()),
        agreement=agreement(values.mean(1)[checked] / gap.mean(), moved.mean(1) / gap.mean()),
    )


def bytes_to_attribute(
    model: HookedStreamTransformer, graph: Graph, pair: Pair, metric: Metric, method: EdgeMethod, check: int
) -> int:
    """Return how many bytes :func:`attribute_edges` takes that goes through one example, or copy, at a time."""
    if method == "exact":
        return _Exact.needed(model, graph, pair, len(graph), metric)
    estimated = _bytes_of_scores(graph, pair) + edge_bytes(model, graph, pair.n_pos, metric)
    return max(estimated, _Exact.needed(model, graph, pair, min(check, len(graph)), metric) if check else 0)


class _Exact:
    """By how much the metric changes if one edge alone carries what the source run would send."""

    def __init__(
        self,
        model: HookedStreamTransformer,
        runs: TwoRuns,
        graph: Graph,
        edges: int,
        max_memory: int | None,
        kept: KeptIn | None,
    ):
        self.runs, self.total = runs, len(graph)
        beside = self._beside(model, graph, runs.pair, edges, runs.function)
        self.cut = EdgeRuns(model, runs.base, send(model, graph, runs.source), graph, max_memory, beside)
        metric = (runs.metric, runs.function)
        self.kept = kept_rows(kept, "patching edges", model, runs.pair, metric, direction=runs.direction)

    @classmethod
    def needed(cls, model: HookedStreamTransformer, graph: Graph, pair: Pair, edges: int, metric: Metric) -> int:
        """Return how many bytes it takes to go through one copy of a pair at a time."""
        return EdgeRuns.needed(model, graph, pair.clean) + cls._beside(model, graph, pair, edges, metric)

    @staticmethod
    def _beside(model: HookedStreamTransformer, graph: Graph, pair: Pair, edges: int, metric: Metric) -> int:
        """What a metric makes, the sets of edges that are cut, and the scores."""
        made = beside_logits(metric, len(pair) * logits_of_one(model, pair.n_pos))
        return made + edges * len(graph) + _bytes_of_scores(graph, pair)

    @torch.no_grad()
    def of(self, edges: Sequence[int], progress: bool = False) -> Float[Tensor, "edge example"]:
        """Return the changes for some edges."""
        found = self.cut.each(one_each(edges, self.total), self.runs.measure, progress, self.kept)
        return found - self.runs.baseline


def _bytes_of_scores(graph: Graph, pair: Pair) -> int:
    """As they are made batch by batch, put together, and made precise."""
    return 3 * len(graph) * len(pair) * 8
