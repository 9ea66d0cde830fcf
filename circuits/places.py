"""Where in a sequence queries and keys stand: what a query sees, and by how much rotary positions turn them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from circuits.cache import KeyValueCache
from circuits.config.layers import Rotation
from circuits.streams.transforms import HeadTensor


@dataclass(frozen=True)
class Places:
    """The positions of queries and of keys, alike for all examples or for each (row: 1 or batch), and which keys count.

    Of a whole sequence: :meth:`whole`; of a padded one: :meth:`padded`.
    """

    queries: Int[Tensor, "row q"]
    keys: Int[Tensor, "row k"]
    is_key: Bool[Tensor, "batch k"] | None = None
    """False at padding; ``None``: every key counts."""
    cache: KeyValueCache | None = None
    """Holds the keys before those of the queries' own tokens."""

    @staticmethod
    def whole(n_pos: int, device: torch.device) -> Places:
        """Return the places of a sequence without padding, from its beginning."""
        every = torch.arange(n_pos, device=device)[None]
        return Places(every, every)

    @staticmethod
    def padded(is_token: Bool[Tensor, "batch pos"]) -> Places:
        """Return the places of sequences with padding, wherever it stands: tokens are counted, padding is not."""
        counted = (is_token.long().cumsum(-1) - 1).clamp_min(0)
        return Places(counted, counted, is_token)

    @staticmethod
    def following(cache: KeyValueCache, is_token: Bool[Tensor, "batch pos"] | None, like: Tensor) -> Places:
        """Return the places of new tokens (batch pos, those of ``like``) that follow on what ``cache`` holds, and a
        draft of it that counts them."""
        batch, n_pos = like.shape[:2]
        cache = cache.draft()
        cache.add(is_token, batch, n_pos)
        seen = cache.is_token
        every = Places.whole(cache.length, like.device) if seen is None else Places.padded(seen)
        return Places(every.keys[:, -n_pos:], every.keys, every.is_key, cache)

    def before(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return at every query what ``x`` is at the token before it, padding passed over; 0 before the first."""
        batch, n_pos, _ = x.shape
        first = torch.zeros_like(x[:, :1])
        if self.cache is not None and self.cache.last_embedding is not None:
            first = self.cache.last_embedding
        every = torch.cat([first, x], 1)
        latest = torch.arange(n_pos + 1, device=x.device).expand(batch, -1)
        if self.is_key is not None:
            is_token = F.pad(self.is_key[:, -n_pos:], (1, 0), value=True)
            latest = torch.where(is_token, latest, 0).cummax(-1).values
        latest = every.gather(1, latest[..., None].expand_as(every))
        if self.cache is not None:
            self.cache.note_embeddings(latest[:, 1:])
        return latest[:, :-1]

    @property
    def are_whole(self) -> bool:
        """Whether queries and keys are the same sequence, without padding."""
        return self.queries is self.keys and self.is_key is None

    def hidden(self, window: int | None) -> Bool[Tensor, "row 1 q k"]:
        """Return which keys a query does not see: later ones, those before its window, and padding.

        A query that would see nothing, as at padding, sees all: a softmax needs something to see, and nothing reads
        what comes of it.
        """
        q, k = self.queries[:, :, None], self.keys[:, None, :]
        hidden = k > q
        if window is not None:
            hidden = hidden | (k <= q - window)
        if self.is_key is not None:
            hidden = hidden | ~self.is_key[:, None, :]
            blind = hidden.all(-1, keepdim=True)
            hidden = hidden & ~blind
        return hidden[:, None]


def turned(x: HeadTensor, at: Int[Tensor, "row pos"], rotary: Rotation) -> HeadTensor:
    """Return queries or keys turned by their positions ``at``.

    Source: Su et al., arXiv 2104.09864; by its components 2i and 2i + 1, or i and n + i, as the kind says.
    """
    angles = torch.tensor(rotary.angles(x.shape[-1]), dtype=torch.float64, device=x.device)
    turn = (at[..., None] * angles)[:, :, None]
    cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
    sin = -sin if rotary.backwards else sin
    width = 2 * len(angles)
    front, rest = x[..., :width], x[..., width:]
    if rotary.adjacent_pairs:
        a, b = front[..., 0::2], front[..., 1::2]
        pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = front.chunk(2, -1)
        pairs = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([pairs, rest], -1) if rest.shape[-1] else pairs
