"""How each kind of transform is computed: one class a kind, beside the dataclass that says it in a configuration.

The parameters belong to the :class:`circuits.streams.mixing.Mix` that has the transform, as those of gains do.
"""

from __future__ import annotations

from typing import Any

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.config.model import ModelConfig
from circuits.config.streams import HeadMixing, Identity, LinearMap, Transform
from circuits.initial_weights import Eye, Weights

HeadTensor = Float[Tensor, "batch pos head d_head"]


class Unchanged:
    """What comes in as it is."""

    def weights(self, config: ModelConfig, n_sources: int) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {}

    def __call__(self, mix: Any, i: int, outgoing: HeadTensor) -> HeadTensor:
        """Return what comes from source number ``i``, by the parameters that ``mix`` holds."""
        return outgoing


class HeadsMixed(Unchanged):
    """``W_heads`` (source head head): a row for the head that reads."""

    def weights(self, config: ModelConfig, n_sources: int) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {"W_heads": ((n_sources, config.n_heads, config.n_heads), Eye())}

    def __call__(self, mix: Any, i: int, outgoing: HeadTensor) -> HeadTensor:
        """Return what comes from source number ``i``, mixed over heads."""
        return einsum(mix.W_heads[i], outgoing, "head source, batch pos source d_head -> batch pos head d_head")


class Mapped(Unchanged):
    """``W_map`` (source head d_head d_head)."""

    def weights(self, config: ModelConfig, n_sources: int) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {"W_map": ((n_sources, config.n_heads, config.d_head, config.d_head), Eye())}

    def __call__(self, mix: Any, i: int, outgoing: HeadTensor) -> HeadTensor:
        """Return what comes from source number ``i``, each head's through its matrix."""
        return einsum(mix.W_map[i], outgoing, "head d_in d_out, batch pos head d_in -> batch pos head d_out")


TRANSFORMS: dict[type[Transform], Unchanged] = {Identity: Unchanged(), HeadMixing: HeadsMixed(), LinearMap: Mapped()}
