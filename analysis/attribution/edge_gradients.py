"""What a gradient says of every edge: scores for batches of pairs, with the sums that must agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from analysis.edges.graph import Graph, Node, Origin, Place
from analysis.edges.recorded_activations import between
from analysis.edges.sent import Recorder, Sent, send
from analysis.edges.steered_forward import PerHead, carry, run
from analysis.memory import beside_logits, logits_of_one
from analysis.metrics import Metric, evaluate, require_gradient
from analysis.pairs import Pair
from circuits.config.streams import Carrier
from circuits.layers import Residual
from circuits.model import Embedded, HookedStreamTransformer
from circuits.streams.transforms import HeadTensor


class _Leaves(Recorder):
    """Adds a zero to every reader's input and every use, whose gradients are wanted."""

    def __init__(self, model: HookedStreamTransformer, graph: Graph, embedded: Embedded):
        super().__init__(model, graph, Embedded(embedded.residual.detach(), embedded.tables))
        self.readers: list[PerHead] = []
        self.uses: dict[Place, HeadTensor] = {}
        self.adds: list[tuple[slice, Residual]] = [(slice(0, 1), embedded.residual)]
        """Which writers write a tensor together, and the tensor."""
        self.used = {place for _, place in graph.stream_ids}

    def read(self, layer: int, carrier: Carrier, residual: Residual) -> Residual | PerHead:
        rows = self.graph.rows(layer, carrier)
        return residual if rows is None else residual[:, :, None] + self._leaf(residual, rows.stop - rows.start)

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
    projected: dict[Origin, HeadTensor]


class EdgeEstimator:
    """Scores batch by batch, with the sums that must agree."""

    def __init__(
        self, model: HookedStreamTransformer, graph: Graph, metric: tuple[str, Metric], fractions: list[float]
    ):
        self.model, self.graph, self.metric, self.fractions = model, graph, metric, fractions
        self.values: list[Float[Tensor, "edge example"]] = []
        self.sums: list[Float[Tensor, "node example"]] = []
        self.nodes: list[Float[Tensor, "node example"]] = []
        self.some = False
        """Whether the gradient was other than zero anywhere."""

    def add(self, pair: Pair, source: Tensor, base: Tensor) -> None:
        """Score some examples."""
        with torch.no_grad():
            start, end = (self.model.embedded(x) for x in (base, source))
        after, before = (send(self.model, self.graph, x) for x in (source, base))
        own = {place: t - before.own[place] for place, t in after.own.items()}
        change = Sent(after.writers - before.writers, own)
        del after, before
        edges, nodes = [], []
        for fraction in self.fractions:
            recorded, gradients = self._gradients(pair, between(start, end, fraction))
            edges.append(self._edges(change, gradients, recorded))
            nodes.append(self._nodes(change, gradients))
            # Before the next are made: they are most of what lives.
            del recorded, gradients
        self.values.append(torch.stack(edges).mean(0))
        self.nodes.append(torch.stack(nodes).mean(0))
        self.sums.append(self._sums(self.values[-1], list(change.own)))

    def _gradients(self, pair: Pair, embedded: Embedded) -> tuple[_Leaves, _Gradients]:
        leaves = _Leaves(self.model, self.graph, embedded)
        name, function = self.metric
        logits = run(self.model, self.model.begin(embedded), leaves)
        values = require_gradient(name, evaluate(function, name, logits, pair))
        wanted = [*leaves.readers, *leaves.uses.values(), *(t for _, t in leaves.adds), *leaves.projected.values()]
        everything = torch.autograd.grad(values.sum(), wanted, allow_unused=True, materialize_grads=True)
        self.some = self.some or any(bool(gradient.any()) for gradient in everything)
        found = iter(everything)
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
        if recorded.coefficients is not None:
            by_reader = by_reader * recorded.coefficients[..., None]
        there = self.graph.residual_ids >= 0
        scores[self.graph.residual_ids[there]] = by_reader[there]
        for source, delta in change.own.items():
            for head, only in [(0, delta)] if source[1] == "token" else self._by_head(delta):
                arrived = carry(self.model, source, only, recorded.gains)
                for place in self.graph.carried[source]:
                    product = (arrived[place] * gradients.uses[place]).sum((1, 3))
                    ids = self.graph.stream_ids[source, place]
                    row = ids.diagonal() if head is None else ids[head]
                    scores[row[row >= 0]] = product.T[row >= 0]
        return scores

    def _by_head(self, delta: HeadTensor) -> list[tuple[int | None, HeadTensor]]:
        """The change of every head by itself where heads mix on the way, else of all together."""
        if not self.graph.mixes_heads:
            return [(None, delta)]
        which = torch.eye(delta.shape[2], dtype=delta.dtype, device=delta.device)
        return [(head, delta * which[head][:, None]) for head in range(delta.shape[2])]

    @torch.no_grad()
    def _nodes(self, change: Sent, gradients: _Gradients) -> Float[Tensor, "node example"]:
        """Every writer's and carried projection's own score: its change times the gradient there."""
        rows = [(change.writers[:, :, which] * g[:, :, None]).sum((1, 3)).T for which, g in gradients.writers]
        for place, delta in change.own.items():
            by_head = (delta * gradients.projected[place]).sum((1, 3)).T
            rows.append(by_head.sum(0, keepdim=True) if place[1] == "token" else by_head)
        return torch.cat(rows)

    def _sums(self, values: Float[Tensor, "edge example"], places: list[Origin]) -> Float[Tensor, "node example"]:
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
        """Return what the edges add up to that leave the inputs, mean over examples: those of what is embedded, and
        those of tables, whose rows no residual stream brings."""
        leaving = [i for i, edge in enumerate(self.graph.edges) if edge.source.kind in ("input", "table")]
        return float(torch.cat(self.values, 1)[leaving].sum(0).mean())


def edge_bytes(model: HookedStreamTransformer, graph: Graph, n_pos: int, metric: Metric) -> int:
    """Return how many bytes it takes to score the edges in one example.

    What is written and its changes, what is read and its gradients; what every layer keeps for the backward pass;
    logits, their gradient and the metric's; and the products of all writers and readers.
    """
    config = model.config
    writers, readers = len(graph.writers), len(graph.readers)
    layer = 16 * config.d_model + 4 * config.n_heads * n_pos + (4 * config.mlp.width_in if config.mlp else 0)
    of_position = (4 * writers + 6 * readers) * config.d_model + config.n_layers * layer
    numbers = n_pos * of_position + 3 * writers * readers
    logits = logits_of_one(model, n_pos)
    return numbers * model.W_U.element_size() + 8 * logits + 2 * beside_logits(metric, logits)
