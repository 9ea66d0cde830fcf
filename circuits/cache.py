"""What the tokens so far leave for later ones, so that a next token is run by itself."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.common.errors import require

New = Float[Tensor, "batch pos kv_head d_head"]
Kept = Float[Tensor, "batch key kv_head d_head"]


class KeyValueCache:
    """Keys and values of the tokens so far, layer by layer, and what else a next token needs of them.

    ``model(tokens, past_kv_cache=cache)`` runs ``tokens`` as those that follow on what the cache holds, and adds them
    to it. Held are the keys and values that attention uses: *mixed* with what came in through the streams, and turned
    by their positions. What the streams carry is of each token alone and is not kept.
    """

    def __init__(self) -> None:
        self.length = 0
        """How many tokens there are so far, padding included."""
        self.is_token: Bool[Tensor, "batch key"] | None = None
        """False at padding; ``None``: there is none."""
        self.last_embedding: Float[Tensor, "batch 1 d_model"] | None = None
        """That of the last token, which a smear takes a part of."""
        self._batch: int | None = None
        self._kept: dict[int, tuple[Kept, Kept]] = {}

    def draft(self) -> KeyValueCache:
        """Return a copy that a pass may add to: this one stays as it is if the pass does not come to its end."""
        draft = copy.copy(self)
        draft._kept = dict(self._kept)
        return draft

    def take(self, draft: KeyValueCache) -> None:
        """Hold what a whole pass has made of a :meth:`draft` of this."""
        vars(self).update(vars(draft))

    def extended(self, layer: int, k: New, v: New) -> tuple[Kept, Kept]:
        """Return the keys and values of all tokens so far, ``k`` and ``v`` of the new ones among them."""
        if layer in self._kept:
            k, v = (torch.cat(pair, 1) for pair in zip(self._kept[layer], (k, v), strict=True))
        self._kept[layer] = k, v
        return k, v

    def note_embeddings(self, latest: Float[Tensor, "batch pos d_model"]) -> None:
        """Take, at every new token, the embedding of the last token up to it that is no padding."""
        self.last_embedding = latest[:, -1:]

    def add(self, is_token: Bool[Tensor, "batch pos"] | None, batch: int, n_pos: int) -> None:
        """Count the tokens that are run next, and which of them are padding.

        Raises:
            ValueError: for other examples than those before them were of.
        """
        require(
            self._batch in (None, batch),
            f"the cache holds {self.length} positions of {self._batch} examples, and {batch} run; begin a new cache for"
            " them",
        )
        self._batch = batch
        if is_token is not None or self.is_token is not None:
            device = (self.is_token if is_token is None else is_token).device  # type: ignore[union-attr] # one is there
            before = self.is_token
            before = torch.ones(batch, self.length, dtype=torch.bool, device=device) if before is None else before
            new = torch.ones(batch, n_pos, dtype=torch.bool, device=device) if is_token is None else is_token
            self.is_token = torch.cat([before, new], 1)
        self.length += n_pos
