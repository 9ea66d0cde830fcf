"""Windows of tokens: a document each, or cut from documents that are joined; and which documents are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int, UInt

from experiments.tasks.text.stored_tokens import TokenStore
from experiments.tasks.tokens.batches import TokenBatch


def held_out(hashes: UInt[np.ndarray, " document"], share: float) -> Bool[np.ndarray, " document"]:
    """Return which documents are held out: the share with the lowest hashes, but one at least and not the last.

    Equal documents have equal hashes and are on the same side, whatever the order of the corpus.
    """
    n = max(1, min(round(share * len(hashes)), len(hashes) - 1))
    return hashes <= np.partition(hashes, n - 1)[n - 1]


@dataclass(frozen=True)
class SeparateWindows:
    """A document a window, cut off at its length or padded to it; predictions of padding do not count.

    So every window begins as its document is stored: with what the tokenizer's template puts before a text, if any.
    """

    store: TokenStore
    documents: Int[np.ndarray, " document"]
    n_ctx: int
    pad: int

    def __len__(self) -> int:
        return len(self.documents)

    def without(self, others: SeparateWindows) -> SeparateWindows:
        """Return the windows that are none of the others, as documents may differ behind what a window has of them."""
        known = set(others._contents())
        kept = [content not in known for content in self._contents()]
        return replace(self, documents=self.documents[np.array(kept, dtype=bool)])

    def _contents(self) -> Iterator[bytes]:
        ends = self.store.ends[self.documents]
        starts = ends - self.store.lengths[self.documents]
        for start, end in zip(starts.tolist(), np.minimum(ends, starts + self.n_ctx).tolist(), strict=True):
            yield self.store.tokens[start:end].tobytes()

    def take(self, rows: Int[np.ndarray, " row"]) -> TokenBatch:
        """Return the windows of some documents."""
        ends = self.store.ends[self.documents[rows]]
        starts = np.where(self.documents[rows] > 0, self.store.ends[self.documents[rows] - 1], 0)
        places = np.arange(self.n_ctx)
        inside = places < rearrange(ends - starts, "row -> row 1")
        where = np.where(inside, rearrange(starts, "row -> row 1") + places, 0)
        tokens = np.where(inside, self.store.tokens[where].astype(np.int64), self.pad)
        follows = np.pad(inside[:, 1:], ((0, 0), (0, 1)))
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(follows))


@dataclass(frozen=True)
class JoinedWindows:
    """Documents joined, an end token behind each, and cut into full windows; every prediction counts.

    A document is joined as it is stored: with what the tokenizer's template puts before it and behind it, if any, so a
    template with an end token gives two of them. Most windows begin within a document, and so without an opening.
    """

    store: TokenStore
    documents: Int[np.ndarray, " document"]
    n_ctx: int
    eos: int

    @cached_property
    def ends(self) -> Int[np.ndarray, " document"]:
        """Where the documents end, with their end tokens, when joined."""
        return np.cumsum(self.store.lengths[self.documents] + 1)

    @property
    def n_tokens(self) -> int:
        """The number of tokens, end tokens included."""
        return int(self.ends[-1])

    def __len__(self) -> int:
        return self.n_tokens // self.n_ctx

    def take(self, rows: Int[np.ndarray, " row"]) -> TokenBatch:
        """Return the windows of some numbers."""
        places = rearrange(rows * self.n_ctx, "row -> row 1") + np.arange(self.n_ctx)
        which = np.searchsorted(self.ends, places, side="right")
        behind = self.ends[which] - places
        # The end token is the last of its document, one place behind what is stored.
        tokens = self.store.tokens[self.store.ends[self.documents[which]] - np.maximum(behind - 1, 1)]
        return TokenBatch(torch.from_numpy(np.where(behind == 1, self.eos, tokens.astype(np.int64))))


Windows = SeparateWindows | JoinedWindows
"""Windows that can be taken by number."""
