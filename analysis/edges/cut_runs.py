"""Runs with any set of edges cut: what flows along them is replaced by what another run would send."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from analysis.edges.graph import Graph, Node, Origin, Place
from analysis.edges.sent import Recorder, Sent
from analysis.edges.steered_forward import PerHead, carry, run, tiled
from analysis.memory import copies_within, logits_of_one
from analysis.resuming import KeptRows, measured
from circuits.config.streams import Carrier
from circuits.layers import Residual
from circuits.model import Embedded, HookedStreamTransformer
from circuits.streams.transforms import HeadTensor

Change = Literal["cut", "stop", "gradient-only"]
CHANGES: dict[Change, str] = {
    "cut": "what comes along the edge is another run's, and no gradient goes back along it",
    "stop": "its value stays, and no gradient goes back along it",
    "gradient-only": "its value is another run's, and its gradient stays",
}
"""What may be done to an edge; the last two are a stream's gates, of a single edge."""


def _exchanged(kind: str, other: Tensor, now: Tensor) -> Tensor:
    """What is added to what flows now."""
    return now.detach() - now if kind == "stop" else other - now


def _arriving(kind: str, change: Tensor) -> Tensor:
    """What is added where an edge ends: past gains and transforms, which a gradient-only edge goes on teaching too."""
    return change.detach() if kind == "gradient-only" else change


class Cutter(Recorder):
    """Replaces what flows along changed edges; the rest of the run follows from that.

    The batch holds copies of the same examples, one after another; ``changes`` says of each kind and for each copy
    which edges are changed so.
    """

    def __init__(
        self,
        model: HookedStreamTransformer,
        graph: Graph,
        embedded: Embedded,
        replacement: Sent,
        changes: Mapping[str, Bool[Tensor, "copy edge"]],
    ):
        super().__init__(model, graph, embedded)
        self.copies = len(next(iter(changes.values())))
        self.replacement = replacement
        # Edge -1 is no edge; it is never changed.
        self.changes = {
            kind: torch.cat([edges, torch.zeros_like(edges[:, :1])], 1).to(embedded.residual.device)
            for kind, edges in changes.items()
        }

    def read(self, layer: int, carrier: Carrier, residual: Residual) -> Residual | PerHead:
        """Return every head's input, with what comes along changed edges exchanged."""
        rows = self.graph.rows(layer, carrier)
        change = None if rows is None else self._change(rows)
        return residual if change is None else residual[:, :, None] + change

    def read_mlp(self, layer: int, residual: Residual) -> Residual:
        """Return an MLP's input, with what comes along changed edges exchanged."""
        row = self.graph.reader_number[Node("mlp", layer)]
        change = self._change(slice(row, row + 1))
        return residual if change is None else residual + change[:, :, 0]

    def read_out(self, residual: Residual) -> Residual:
        """Return the final residual stream, with what comes along changed edges exchanged."""
        row = len(self.graph.readers) - 1
        change = self._change(slice(row, row + 1))
        return residual if change is None else residual + change[:, :, 0]

    def _change(self, rows: slice) -> PerHead | None:
        written = sum(part.shape[2] for part in self.written)
        ids = self.graph.residual_ids[rows, :written]
        masks = {kind: edges[:, ids] for kind, edges in self.changes.items()}
        parts = [self._changed(rows, kind, mask) for kind, mask in masks.items() if bool(mask.any())]
        return sum(parts[1:], start=parts[0]) if parts else None

    def _changed(self, rows: slice, kind: str, mask: Bool[Tensor, "copy reader writer"]) -> PerHead:
        # Only writers whose edge to these readers some copy changes.
        which = mask.flatten(0, 1).any(0).nonzero()[:, 0]
        now = torch.cat(self.written, 2)[:, :, which]
        change = _exchanged(kind, self._per_copy(self.replacement.writers[:, :, which]), self._split(now))
        weights = mask[..., which].to(now.dtype)
        if self.coefficients is not None:
            weights = weights * self.coefficients[rows][:, which]
        delta = einsum(
            weights,
            change,
            "copy reader writer, copy batch pos writer d -> copy batch pos reader d",
        )
        return _arriving(kind, delta.flatten(0, 1))

    def use(self, layer: int, carrier: Carrier, mixed: HeadTensor) -> HeadTensor:
        """Return what a layer's heads use, with what comes along changed own and stream edges exchanged."""
        for ((source, place), ids), (kind, edges) in product(self.graph.stream_ids.items(), self.changes.items()):
            if place == (layer, carrier) and bool(edges[:, ids].any()):
                mixed = mixed + _arriving(kind, self._carried(source, place, kind, edges[:, ids]))
        return mixed

    def _carried(self, source: Origin, place: Place, kind: str, mask: Bool[Tensor, "copy source head"]) -> HeadTensor:
        other = self._per_copy(self.replacement.own[source]).flatten(0, 1)
        change = _exchanged(kind, other, self.projected[source])
        if source[1] == "token" or not self.graph.mixes_heads:
            by_head = mask[:, 0] if source[1] == "token" else mask.diagonal(dim1=1, dim2=2)
            return self._masked(self._arrived(source, place, change), by_head)
        total = torch.zeros_like(change)
        for head in mask.any(2).any(0).nonzero()[:, 0].tolist():
            only = torch.zeros_like(change)
            only[:, :, head] = change[:, :, head]
            total = total + self._masked(self._arrived(source, place, only), mask[:, head])
        return total

    def _arrived(self, source: Origin, place: Place, change: HeadTensor) -> HeadTensor:
        return carry(self.model, source, change, self.gains, last=place[0])[place]

    def _masked(self, arrived: HeadTensor, mask: Bool[Tensor, "copy head"]) -> HeadTensor:
        weights = mask.to(arrived.dtype)[:, None, None, :, None]
        return (self._split(arrived) * weights).flatten(0, 1)

    def _split(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self.copies, -1))

    def _per_copy(self, tensor: Tensor) -> Tensor:
        return tensor.expand(self.copies, *tensor.shape)


ROWS = 4096
"""Positions of all examples and copies that go through a processor at a time."""


class EdgeRuns:
    """Runs of one batch of inputs with edges cut, many sets of them in one forward pass."""

    def __init__(
        self,
        model: HookedStreamTransformer,
        inputs: Tensor,
        replacement: Sent,
        graph: Graph,
        max_memory: int | None = None,
        beside: int = 0,
    ):
        """``beside``: bytes that the caller keeps or makes beside the runs."""
        self.model, self.graph, self.replacement = model, graph, replacement
        with torch.no_grad():
            self.embedded = model.embedded(inputs)
        held, copy = (len(inputs) * size for size in _kept_and_copied(model, graph, inputs.shape[1]))
        self.at_once = copies_within(max_memory, copy, len(inputs), inputs.device, held + beside)
        if inputs.device.type == "cpu":
            # Few copies of one reader's edges stay in the processor's caches, and other readers are not changed.
            self.at_once = min(self.at_once, max(1, ROWS // (len(inputs) * inputs.shape[1])))

    @staticmethod
    def needed(model: HookedStreamTransformer, graph: Graph, inputs: Tensor) -> int:
        """Return how many bytes the runs take that go through one copy of the inputs at a time."""
        return len(inputs) * sum(_kept_and_copied(model, graph, inputs.shape[1]))

    @torch.no_grad()
    def logits(self, cut: Bool[Tensor, "copy edge"]) -> Float[Tensor, "copy batch pos d_vocab_out"]:
        """Return the logits under each of a few sets of cut edges."""
        residual, tables = self.embedded
        copies = Embedded(tiled(residual, len(cut)), {key: tiled(x, len(cut)) for key, x in tables.items()})
        cutter = Cutter(self.model, self.graph, copies, self.replacement, {"cut": cut})
        return run(self.model, self.model.begin(copies), cutter).unflatten(0, (len(cut), -1))

    def each(
        self,
        cuts: Bool[Tensor, "set edge"],
        measure: Callable[[Float[Tensor, "batch pos d_vocab_out"]], Tensor],
        progress: bool = False,
        kept: KeptRows | None = None,
    ) -> Shaped[Tensor, "set ..."]:
        """Return what is measured of the logits under each of many sets of cut edges, as many in one forward as fit."""
        names = [hashlib.sha256(np.packbits(cut.cpu().numpy()).tobytes()).hexdigest()[:32] for cut in cuts]
        chunks = (list(range(len(cuts)))[start : start + self.at_once] for start in range(0, len(cuts), self.at_once))
        device = self.embedded.residual.device
        rows = measured(names, chunks, lambda i: map(measure, self.logits(cuts[i])), kept, "sets", progress, device)
        return torch.stack(rows)


def _kept_and_copied(model: HookedStreamTransformer, graph: Graph, n_pos: int) -> tuple[int, int]:
    """The bytes of what comes along cut edges in one example, and of a copy of it.

    Of a copy: what is written and its changes, every head's own input, patterns, an MLP, logits.
    """
    config = model.config
    kept = (len(graph.writers) + 1) * config.d_model + len(graph.carried) * config.n_heads * config.d_head
    widths = 6 * len(graph.writers) + 16 * config.n_heads + 16
    wide = 3 * config.mlp.width_in if config.mlp else 0
    copied = widths * config.d_model + 4 * config.n_heads * n_pos + wide
    size = n_pos * model.W_U.element_size()
    # Logits of this pass, of the last one, and what is read out.
    return size * kept, size * copied + 3 * logits_of_one(model, n_pos)


def one_each(edges: Sequence[int], total: int) -> Bool[Tensor, "set edge"]:
    """Return sets of one edge each."""
    found = torch.zeros(len(edges), total, dtype=torch.bool)
    found[torch.arange(len(edges)), list(edges)] = True
    return found


def numbered(edges: Int[Tensor, " edge"] | Sequence[int], total: int) -> Bool[Tensor, " edge"]:
    """Return a set of edges as a mask."""
    mask = torch.zeros(total, dtype=torch.bool)
    mask[torch.as_tensor(list(edges), dtype=torch.int64)] = True
    return mask
