"""EAP and EAP-IG over every edge, those of the stream included: estimates of what patching each edge alone would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from analysis.agreement import EXACT, Agreement, agreement, to_check
from analysis.drawing import draw
from analysis.edges import EdgeRuns, Recorder, Sent, in_batches, one_each, send
from analysis.graph import Edge, Graph, Node, Place
from analysis.memory import copies_within
from analysis.pairs import Metric, Pair, evaluate, require_gradient
from analysis.two_runs import Direction, TwoRuns, two_runs
from analysis.wiring import PerHead, carry, flowing, run
from circuits.attention import Residual
from circuits.errors import known, require
from circuits.model import HookedStreamTransformer
from circuits.stream_config import Carrier
from circuits.streams import HeadTensor

EdgeMethod = Literal["EAP", "EAP-IG", "exact"]
EDGE_METHODS: dict[str, str] = {
    "EAP": "the gradient of the run that is patched (Syed et al., arXiv 2310.10348)",
    "EAP-IG": "its mean over inputs between that run's and the other's, at midpoints (Hanna et al., arXiv 2403.17806)",
    "exact": "no estimate: every edge patched by itself",
}


@dataclass(frozen=True)
class EdgeScores:
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
    sum_error: float = 0.0
    """The largest |sum over a node's outgoing edges - the node's own score|, relative to the largest node score."""
    total: float = float("nan")
    """What the input's outgoing edges add up to, as a share of the gap: 1 where the estimate is complete."""
    agreement: Agreement = EXACT

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
        """Return one row an edge: source, target, route, score, effect with standard error, and the convention."""
        n = self.values.shape[1]
        error = self.values.std(1, correction=min(1, n - 1)) / n**0.5 / self.gap.mean().abs()
        frame = pd.DataFrame([_row(edge) for edge in self.graph.edges])
        return frame.assign(
            score=self.scores.numpy(),
            effect=self.effects.numpy(),
            stderr=error.numpy(),
            n=n,
            metric=self.metric,
            method=self.method,
            direction=self.direction,
            sum_error=self.sum_error,
            total=self.total,
            **self.agreement.columns(),
        )

    def figure(self) -> Any:
        """Return the largest edges as a drawing of the graph (a plotly figure)."""
        return draw("attribute", self.to_frame())


def _row(edge: Edge) -> dict[str, Any]:
    ends = {"source": edge.source, "target": edge.target}
    where = {f"{end}_{part}": _or_dash(getattr(node, part)) for end, node in ends.items() for part in ("layer", "head")}
    return {"edge": edge.name, "source": edge.source.name, "target": edge.target.name, "route": edge.route} | where


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


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
) -> EdgeScores:
    """Return the score of every edge of the model's graph (see :mod:`analysis.graph`), in the metric's units.

    ``steps`` is the number of inputs between the two runs, for EAP-IG. ``check`` edges are also patched exactly, each
    alone, and the result says how well the estimates agree. Gradients follow what flows forward: past a ``stop`` gate
    too, and not through a ``gradient-only`` one.

    Raises:
        ValueError: for a model in training mode, a metric without a gradient or not one finite number an example, a
            pair whose clean and corrupt metric are equal, or a memory bound smaller than one example.

    Source: Syed et al., arXiv 2310.10348; Hanna et al., arXiv 2403.17806; stream edges are this toolkit's own.
    """
    known("method", method, EDGE_METHODS)
    require(steps > 0, f"steps = {steps}: EAP-IG needs at least one input between the two runs")
    runs, graph = two_runs(model, pair, metric, direction, "attribution", gradient=method != "exact"), Graph(model)
    if method == "exact":
        values = _exact(model, runs, graph, range(len(graph)), max_memory, progress)
        return EdgeScores(graph, values, runs.gap, method, runs.metric, direction)
    fractions = [0.0] if method == "EAP" else [(i + 0.5) / steps for i in range(steps)]
    estimator = _Estimator(model, graph, (runs.metric, runs.function), fractions)
    size = copies_within(max_memory, estimator.bytes(pair), 1, pair.clean.device)
    with flowing(model), tqdm(total=len(pair), unit=" pairs", disable=not progress, leave=False, delay=2) as bar:
        for rows in in_batches(len(pair), size):
            estimator.add(pair[rows], runs.source[rows], runs.base[rows])
            bar.update(rows.stop - rows.start)
    values, gap = torch.cat(estimator.values, 1), runs.gap
    checked = to_check(values.mean(1), check)
    exact = _exact(model, runs, graph, checked, max_memory)
    return EdgeScores(
        graph=graph,
        values=values,
        gap=gap,
        method=method if method == "EAP" else f"EAP-IG ({steps} steps)",
        metric=runs.metric,
        direction=direction,
        sum_error=estimator.sum_error(),
        total=float(estimator.input_total() / gap.mean()),
        agreement=agreement(values.mean(1)[checked] / gap.mean(), exact.mean(1) / gap.mean()),
    )


@torch.no_grad()
def _exact(
    model: HookedStreamTransformer,
    runs: TwoRuns,
    graph: Graph,
    edges: Sequence[int],
    max_memory: int | None,
    progress: bool = False,
) -> Float[Tensor, "edge example"]:
    """By how much the metric changes if one edge alone carries what the source run would send, for some edges."""
    if not edges:
        return runs.baseline.new_zeros(0, len(runs.pair))
    cut = EdgeRuns(model, runs.base, send(model, graph, runs.source), graph, max_memory)
    found = cut.each(one_each(edges, len(graph)), progress)
    return torch.stack([runs.measure(logits) for logits in found]) - runs.baseline


class _Leaves(Recorder):
    """Adds a zero to every reader's input and every use, whose gradients are wanted."""

    def __init__(self, model: HookedStreamTransformer, graph: Graph, residual: Residual):
        super().__init__(model, graph, residual.detach())
        self.readers: list[PerHead] = []
        self.uses: dict[Place, HeadTensor] = {}
        self.adds: list[tuple[slice, Residual]] = [(slice(0, 1), residual)]
        """Which writers write a tensor together, and the tensor."""
        self.used = {place for _, place in graph.stream_ids}

    def read(self, layer: int, carrier: Carrier, residual: Residual) -> Residual | PerHead:
        if self.graph.rows(layer, carrier) is None:
            return residual
        return residual[:, :, None] + self._leaf(residual, self.graph.n_heads)

    def read_mlp(self, layer: int, residual: Residual) -> Residual:
        return residual + self._leaf(residual, 1)[:, :, 0]

    def read_out(self, residual: Residual) -> Residual:
        return residual + self._leaf(residual, 1)[:, :, 0]

    def _leaf(self, residual: Residual, heads: int) -> PerHead:
        shape = (*residual.shape[:2], heads, residual.shape[2])
        self.readers.append(residual.new_zeros(shape).requires_grad_())
        return self.readers[-1]

    def use(self, layer: int, carrier: Carrier, mixed: HeadTensor) -> HeadTensor:
        if (layer, carrier) not in self.used:
            return mixed
        self.uses[layer, carrier] = torch.zeros_like(mixed).requires_grad_()
        return mixed + self.uses[layer, carrier]

    def heads(self, layer: int, z: HeadTensor) -> None:
        with torch.no_grad():
            super().heads(layer, z)

    def attention(self, layer: int, out: Residual) -> None:
        first = self.graph.writer_number[Node("head", layer, 0)]
        self.adds.append((slice(first, first + self.graph.n_heads), out))

    def mlp(self, layer: int, out: Residual) -> None:
        super().mlp(layer, out.detach())
        number = self.graph.writer_number[Node("mlp", layer)]
        self.adds.append((slice(number, number + 1), out))


@dataclass(frozen=True)
class _Gradients:
    """Of the metric, at one input: with respect to what is read, used, written and projected."""

    readers: Float[Tensor, "batch pos reader d_model"]
    uses: dict[Place, HeadTensor]
    writers: list[tuple[slice, Residual]]
    projected: dict[Place, HeadTensor]


class _Estimator:
    """Scores batch by batch, with the sums that must agree."""

    def __init__(
        self, model: HookedStreamTransformer, graph: Graph, metric: tuple[str, Metric], fractions: list[float]
    ):
        self.model, self.graph, self.metric, self.fractions = model, graph, metric, fractions
        self.values: list[Float[Tensor, "edge example"]] = []
        self.sums: list[Float[Tensor, "node example"]] = []
        self.nodes: list[Float[Tensor, "node example"]] = []

    def bytes(self, pair: Pair) -> int:
        """Return about how many bytes one example takes."""
        per_position = (len(self.graph.writers) + 3 * len(self.graph.readers)) * self.model.config.d_model
        return 3 * pair.n_pos * per_position * self.model.W_U.element_size()

    def add(self, pair: Pair, source: Tensor, base: Tensor) -> None:
        """Score some examples."""
        start, end = (self.model.input_residual(x).detach() for x in (base, source))
        change = _difference(send(self.model, self.graph, source), send(self.model, self.graph, base))
        edges, nodes = [], []
        for fraction in self.fractions:
            recorded, gradients = self._gradients(pair, torch.lerp(start, end, fraction).requires_grad_())
            edges.append(self._edges(change, gradients, recorded))
            nodes.append(self._nodes(change, gradients))
        self.values.append(torch.stack(edges).mean(0))
        self.nodes.append(torch.stack(nodes).mean(0))
        self.sums.append(self._sums(self.values[-1], list(change.own)))

    def _gradients(self, pair: Pair, residual: Residual) -> tuple[_Leaves, _Gradients]:
        leaves = _Leaves(self.model, self.graph, residual)
        name, function = self.metric
        values = require_gradient(name, evaluate(function, name, run(self.model, residual, leaves), pair))
        wanted = [*leaves.readers, *leaves.uses.values(), *(t for _, t in leaves.adds), *leaves.projected.values()]
        found = iter(torch.autograd.grad(values.sum(), wanted, allow_unused=True, materialize_grads=True))
        gradients = _Gradients(
            readers=torch.cat([next(found) for _ in leaves.readers], 2),
            uses={place: next(found) for place in leaves.uses},
            writers=[(which, next(found)) for which, _ in leaves.adds],
            projected={place: next(found) for place in leaves.projected},
        )
        return leaves, gradients

    @torch.no_grad()
    def _edges(self, change: Sent, gradients: _Gradients, recorded: _Leaves) -> Float[Tensor, "edge example"]:
        scores = change.writers.new_zeros(len(self.graph), len(change.writers))
        by_reader = einsum(
            change.writers, gradients.readers, "batch pos writer d, batch pos reader d -> reader writer batch"
        )
        there = self.graph.residual_ids >= 0
        scores[self.graph.residual_ids[there]] = by_reader[there]
        for source, delta in change.own.items():
            for head, only in self._by_head(delta):
                arrived = carry(self.model, source, only, recorded.gains)
                for place in self.graph.carried[source]:
                    product = (arrived[place] * gradients.uses[place]).sum((1, 3))
                    self._add_stream(scores, self.graph.stream_ids[source, place], head, product)
        return scores

    def _by_head(self, delta: HeadTensor) -> list[tuple[int | None, HeadTensor]]:
        """The change of every head by itself where heads mix on the way, else of all together."""
        if not self.graph.mixes_heads:
            return [(None, delta)]
        which = torch.eye(self.graph.n_heads, dtype=delta.dtype, device=delta.device)
        return [(head, delta * which[head][:, None]) for head in range(self.graph.n_heads)]

    def _add_stream(self, scores: Tensor, ids: Tensor, head: int | None, product: Float[Tensor, "batch head"]) -> None:
        row = ids.diagonal() if head is None else ids[head]
        scores[row[row >= 0]] = product.T[row >= 0]

    @torch.no_grad()
    def _nodes(self, change: Sent, gradients: _Gradients) -> Float[Tensor, "node example"]:
        """Every writer's and carried projection's own score: its change times the gradient there."""
        rows = [(change.writers[:, :, which] * g[:, :, None]).sum((1, 3)).T for which, g in gradients.writers]
        rows += [(delta * gradients.projected[place]).sum((1, 3)).T for place, delta in change.own.items()]
        return torch.cat(rows)

    def _sums(self, values: Float[Tensor, "edge example"], places: list[Place]) -> Float[Tensor, "node example"]:
        """The same, as sums over outgoing edges."""
        rows = [values[ids[ids >= 0]].sum(0) for ids in self.graph.residual_ids.T]
        for place in places:
            outgoing = torch.cat([self.graph.stream_ids[place, use] for use in self.graph.carried[place]], 1)
            rows += [values[ids[ids >= 0]].sum(0) for ids in outgoing]
        return torch.stack(rows)

    def sum_error(self) -> float:
        """Return the largest difference of the two, relative to the largest score."""
        sums, nodes = torch.cat(self.sums, 1), torch.cat(self.nodes, 1)
        largest = nodes.abs().max().clamp_min(torch.finfo(nodes.dtype).tiny)
        return float((sums - nodes).abs().max() / largest)

    def input_total(self) -> float:
        """Return what the input's outgoing edges add up to, mean over examples."""
        return float(torch.cat(self.sums, 1)[0].mean())


def _difference(source: Sent, base: Sent) -> Sent:
    return Sent(source.writers - base.writers, {place: t - base.own[place] for place, t in source.own.items()})
