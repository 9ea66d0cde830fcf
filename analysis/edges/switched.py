"""Any set of edges of a model cut, stopped or gradient-only: what that does to a metric and to the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from analysis.compared_runs import two_runs
from analysis.edges.cut_runs import CHANGES, Cutter, EdgeRuns, numbered, one_each
from analysis.edges.graph import Graph
from analysis.edges.sent import Replacement, recorded, send
from analysis.edges.steered_forward import run
from analysis.memory import beside_logits, logits_of_one
from analysis.metrics import Metric, precise, read
from analysis.pairs import Pair, is_padding
from circuits.common.errors import known, require
from circuits.model import HookedStreamTransformer


@dataclass(frozen=True)
class Switched:
    """What is left when edges are changed: means over the pair's clean inputs, where they are read."""

    metric: float
    effect: float
    """The share of the clean-corrupt difference of the metric that is lost: 0 nothing, 1 all."""
    accuracy: float
    loss: float
    """Nats."""
    gradient_norm: float
    """Of the mean loss, as a multiple of that of the unchanged model."""
    gradient_cosine: float
    """Between the gradients with and without the changes, over all parameters."""
    values: Float[Tensor, " example"] = field(repr=False, compare=False)
    """The metric of every example."""


class EdgeSwitch:
    """Any edges of one model, changed in any way, one set after another."""

    def __init__(
        self,
        model: HookedStreamTransformer,
        pair: Pair,
        metric: str | Metric = "logit_difference",
        replacement: Replacement = "other run",
        max_memory: int | None = None,
    ):
        """Values along edges are exchanged for what the pair's corrupt inputs send (``replacement``: for its mean, or
        for nothing).

        Raises:
            ValueError: for a model in training mode or with hooks attached, or no parameter that learns, a pair that
                the model cannot answer, a metric that does not tell its sides apart, or a bound on memory
                (``max_memory``, as in :func:`analysis.patch`) that is less than a run of the pair needs.
        """
        self.model, self.graph = model, Graph(model)
        self.runs = two_runs(model, pair, metric, "noise", "changing edges", max_memory=max_memory)
        self.sent = send(model, self.graph, pair.corrupt).without_padding(is_padding(model, pair)).replaced(replacement)
        self.learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        require(bool(self.learned), "no parameter has a gradient, which is compared; call model.requires_grad_()")
        require(torch.is_grad_enabled(), "gradients are compared: leave torch.no_grad() or torch.inference_mode()")
        self.embedded = model.embedded(pair.clean)
        self._before = recorded(model, self.graph, self.embedded)
        self._whole = self._gradient(self._loss(model.read_out(self._before[-1].state.residual)))

    def changed(self, changes: Mapping[str, str]) -> Switched:
        """Return what is left with edges changed, by name; with none, the model as it is.

        Raises:
            UnknownNameError: for an edge that the model does not have, or another change (nearest suggested).
        """
        for change in changes.values():
            known("change", change, CHANGES)
        numbers = dict(zip(self.graph.find(changes), changes.values(), strict=True))
        kinds = {
            kind: numbered([i for i, change in numbers.items() if change == kind], len(self.graph))[None]
            for kind in CHANGES
        }
        first = min((self._layer(i) for i in numbers), default=self.model.config.n_layers)
        cutter = Cutter(self.model, self.graph, self.embedded, self.sent, kinds)
        logits = run(self.model, cutter.go_on(self._before[first]), cutter)
        loss = self._loss(logits)
        gradient = self._gradient(loss)
        pair = self.runs.pair
        with torch.no_grad():
            values, there = self.runs.measure(logits), read(logits, pair.read_at)
        return Switched(
            metric=float(values.mean()),
            # Not the zero with a sign.
            effect=float((values - self.runs.baseline).mean() / self.runs.gap.mean()) + 0.0,
            accuracy=float((there.argmax(-1) == pair.answers).double().mean()),
            loss=float(loss.detach()),
            gradient_norm=float(gradient.norm() / self._whole.norm()),
            gradient_cosine=float(F.cosine_similarity(gradient, self._whole, dim=0)),
            values=values,
        )

    @torch.no_grad()
    def each_cut(self, edges: Sequence[int], max_memory: int | None = None) -> Float[np.ndarray, "edge example"]:
        """Return by how much the metric changes where one edge alone, by its number, carries the other run's."""
        total, pair = len(self.graph), self.runs.pair
        beside = beside_logits(self.runs.function, len(pair) * logits_of_one(self.model, pair.n_pos))
        runs = EdgeRuns(self.model, pair.clean, self.sent, self.graph, max_memory, beside + len(edges) * total)
        found = runs.each(one_each(edges, total), self.runs.measure) - self.runs.baseline
        return found.double().cpu().numpy()

    def _layer(self, edge: int) -> int:
        """The layer that an edge is first read in; of the logits, the one after the last."""
        layer = self.graph.edges[edge].target.layer
        return self.model.config.n_layers if layer is None else layer

    def _loss(self, logits: Tensor) -> Float[Tensor, ""]:
        pair = self.runs.pair
        return F.cross_entropy(precise(read(logits, pair.read_at)), pair.answers)

    def _gradient(self, loss: Float[Tensor, ""]) -> Float[Tensor, " parameter"]:
        # What comes before the first change is one graph for all.
        parts = torch.autograd.grad(loss, self.learned, None, True, allow_unused=True, materialize_grads=True)
        return torch.cat([precise(part.flatten()) for part in parts])
