"""Which rows (an example of a copy of the base run) go through one forward pass, and what is written in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from analysis.patching.edits import QUERIES, STAGES, VALUES, Writes
from analysis.patching.position_windows import Window

MOST_POSITIONS = 2048
"""Of all rows of a pass together: more would fall out of a processor's cache and gain nothing."""
MOST_WASTE = 2**24
"""Multiplications in a block that nothing asked for, where rows that begin later join a pass: about what the calls of
another pass cost."""


@dataclass
class Pass:
    """One forward pass of some rows, and the window that it has come to."""

    layer: int
    stage: int
    start: int
    """The first position at which any row changes."""
    copies: Int[Tensor, " row"]
    here: Window
    writes: dict[str, list[tuple[Writes, Int[Tensor, " row"]]]]
    """By what is replaced: what is written, and which of its edits acts on each row."""

    def write(self, key: str, activation: Tensor) -> Tensor:
        """Return an activation at the present window with the edits that replace ``key``."""
        for writes, edits in self.writes.get(key, ()):
            activation = writes.write(activation, edits, self.here)
        return activation


@dataclass(frozen=True)
class Plan:
    """How the rows of ``n_copies`` copies are told apart and put together."""

    groups: Sequence[Writes]
    n_copies: int
    shape: tuple[int, int]
    """Of the base inputs: batch, pos."""
    n_layers: int
    reads: Int[Tensor, " batch"] | None
    device: torch.device
    per_position: int
    """The multiplications of a block at one position."""

    def passes(self, most_rows: int) -> Iterator[Pass]:
        """Yield passes of at most so many rows that together hold every row that an edit can change."""
        changes = self.changes()
        rows = self.live(changes).nonzero()
        if not len(rows):
            return
        kinds = changes[rows[:, 0], rows[:, 1]]
        n_pos = self.shape[1]
        sizes = torch.tensor([STAGES * self.n_layers + 1, n_pos + 1, n_pos + 1])
        order = ((kinds[:, 0] * sizes[1] + kinds[:, 1]) * sizes[2] + kinds[:, 2]).argsort(stable=True)
        for (begin, start, width), size in self._joined(kinds[order]):
            columns = width if self._alone(begin) and begin % STAGES >= VALUES else n_pos - start
            most = max(1, min(MOST_POSITIONS // columns, most_rows))
            for part in order[:size].split(most):
                yield self._pass(begin, start, rows[part], kinds[part, 1], width)
            order = order[size:]

    def changes(self) -> Int[Tensor, "copy batch 3"]:
        """Return where each row is taken up (layer and stage), the first position that edits change, and the end."""
        batch, n_pos = self.shape
        never = torch.tensor([STAGES * self.n_layers, n_pos, 0])
        found = never.repeat(self.n_copies, batch, 1)
        for group in self.groups:
            changed = group.changed()
            begin = torch.full(changed.shape[:2], STAGES * group.layer + group.stage)
            ends = [changed.int().argmax(-1), n_pos - changed.flip(-1).int().argmax(-1)]
            new = torch.where(changed.any(-1, keepdim=True), torch.stack([begin, *ends], -1), never)
            old = found[group.copies.cpu()]
            both = [torch.minimum(old[..., :2], new[..., :2]), torch.maximum(old[..., 2:], new[..., 2:])]
            found[group.copies.cpu()] = torch.cat(both, -1)
        return found

    def live(self, changes: Int[Tensor, "copy batch 3"]) -> Bool[Tensor, "copy batch"]:
        """Return which rows can differ from the base run where they are read."""
        begin, first, end = changes.unbind(-1)
        live = begin < STAGES * self.n_layers
        if self.reads is None:
            return live
        reads = self.reads.cpu()
        # From the queries of the last layer on, nothing goes from one position to another.
        return live & (first <= reads) & ((begin < STAGES * (self.n_layers - 1) + QUERIES) | (reads < end))

    def _joined(self, kinds: Int[Tensor, "row 3"]) -> Iterator[tuple[tuple[int, int, int], int]]:
        """Sorted rows in groups: where all are taken up, the first position, the widest change, and how many."""
        unique, counts = kinds.unique_consecutive(dim=0, return_counts=True)
        (begin, start, width), size, waste = (-1, 0, 0), 0, 0
        for (at, first, end), count in zip(unique.tolist(), counts.tolist(), strict=True):
            more = 0 if self._alone(at) else count * (first - start)
            if at != begin or (waste + more) * self.per_position > MOST_WASTE:
                if size:
                    yield (begin, start, width), size
                (begin, start, width), size, waste, more = (at, first, 0), 0, 0, 0
            width, size, waste = max(width, end - first), size + count, waste + more
        yield (begin, start, width), size

    def _alone(self, begin: int) -> bool:
        """Whether a row is taken up in the last layer, where only the position that is read is computed."""
        return self.reads is not None and begin >= STAGES * (self.n_layers - 1)

    def _pass(self, begin: int, start: int, rows: Tensor, first: Tensor, width: int) -> Pass:
        layer, stage = divmod(begin, STAGES)
        at = first.clamp(max=self.shape[1] - width)[:, None] + torch.arange(width)
        copies, examples = rows.to(self.device).unbind(1)
        writes: dict[str, list[tuple[Writes, Tensor]]] = {}
        for group in self.groups:
            if group.layer >= layer and (edits := group.of_rows(copies)) is not None:
                writes.setdefault(group.key, []).append((group, edits))
        return Pass(layer, stage, start, copies, Window(examples, at.to(self.device), self.shape[1]), writes)
