"""transformers' cache, as a model here uses one."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from circuits.cache import Kept, KeyValueCache, New
from circuits.common.errors import require


class TheirCache(KeyValueCache):
    """What a transformers ``Cache`` holds of the tokens so far, so that it can be cut, repeated and put in the order of
    beams as transformers does.

    Keys and values are as attention uses them. A smear takes embeddings of the token before: they are kept as one layer
    more.
    """

    def __init__(self, cache: Cache, n_layers: int, is_token: Bool[Tensor, "batch key"] | None = None):
        super().__init__()
        require(
            all(isinstance(layer, DynamicLayer) and not layer.is_sliding for layer in cache.layers),
            f"the cache must grow with the text, as transformers.DynamicCache() does, and keep every token; got a "
            f"{type(cache).__name__} with {sorted({type(layer).__name__ for layer in cache.layers})}",
        )
        self._cache, self._n_layers = cache, n_layers
        self.length, self.is_token = int(cache.get_seq_length()), is_token
        for layer in cache.layers[n_layers:]:
            if isinstance(layer, DynamicLayer) and layer.keys is not None and self.length:
                self.last_embedding = layer.keys[:, 0, -1:]

    def extended(self, layer: int, k: New, v: New) -> tuple[Kept, Kept]:
        """Return the keys and values of all tokens so far, ``k`` and ``v`` of the new ones among them."""
        keys, values = self._cache.update(k.transpose(1, 2), v.transpose(1, 2), layer)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def note_embeddings(self, latest: Float[Tensor, "batch pos d_model"]) -> None:
        """Take, at every new token, the embedding of the last token up to it that is no padding."""
        while len(self._cache.layers) <= self._n_layers:
            self._cache.layers.append(DynamicLayer())
        self._cache.update(latest[:, None], torch.empty_like(latest[:, None, :, :0]), self._n_layers)
        super().note_embeddings(latest)
