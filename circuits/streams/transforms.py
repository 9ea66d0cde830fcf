"""How each kind of transform is computed: one class a kind, beside the dataclass that says it in a configuration.

The parameters belong to the :class:`circuits.streams.mixing.Mix` that has the transform, as those of gains do.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.config.model import ModelConfig
from circuits.config.streams import Carrier, HeadMixing, Identity, LinearMap, Transform
from circuits.initial_weights import Eye, Weights

HeadTensor = Float[Tensor, "batch pos head d_head"]
ByCarrier = dict[Carrier, Float[Tensor, "batch _ _ d_head"]]
"""Queries, keys and values: keys and values may have fewer heads, and queries fewer positions."""
Kind = TypeVar("Kind", bound=Transform)


class ComputedTransform(Generic[Kind]):
    """A transform of one reading layer for ``carrier``, which reads ``n_sources`` layers: a linear map at every
    position."""

    def __init__(self, transform: Kind, config: ModelConfig, n_sources: int, carrier: Carrier = "v"):
        self.transform, self.config, self.n_sources = transform, config, n_sources
        self.n_heads = config.heads_of(carrier)

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {}

    def __call__(self, mix: Any, i: int, outgoing: HeadTensor) -> HeadTensor:
        """Return what comes from source number ``i``, by the parameters that ``mix`` holds."""
        raise NotImplementedError


class Unchanged(ComputedTransform[Identity]):
    """What comes in as it is."""

    def __call__(self, mix: Any, i: int, outgoing: HeadTensor) -> HeadTensor:
        """Return what comes in."""
        return outgoing


class HeadsMixed(ComputedTransform[HeadMixing]):
    """``W_heads`` (source head head): a row for the head that reads."""

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {"W_heads": ((self.n_sources, self.n_heads, self.n_heads), Eye())}

    def __call__(self, mix: Any, i: int, outgoing: HeadTensor) -> HeadTensor:
        """Return what comes from source number ``i``, mixed over heads."""
        return einsum(mix.W_heads[i], outgoing, "head source, batch pos source d_head -> batch pos head d_head")


class Mapped(ComputedTransform[LinearMap]):
    """``W_map`` (source head d_head d_head)."""

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {"W_map": ((self.n_sources, self.n_heads, self.config.d_head, self.config.d_head), Eye())}

    def __call__(self, mix: Any, i: int, outgoing: HeadTensor) -> HeadTensor:
        """Return what comes from source number ``i``, each head's through its matrix."""
        return einsum(mix.W_map[i], outgoing, "head d_in d_out, batch pos head d_in -> batch pos head d_out")


TRANSFORMS: dict[type[Transform], type[ComputedTransform[Any]]] = {
    Identity: Unchanged,
    HeadMixing: HeadsMixed,
    LinearMap: Mapped,
}
