"""How each kind of gain is computed: one class a kind, beside the dataclass that says it in a configuration.

The parameters belong to the :class:`circuits.streams.mixing.Mix` that has the gain, and carry its name in checkpoints.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from einops import einsum
from torch import Tensor

from circuits.config.model import ModelConfig
from circuits.config.streams import FixedGain, Gain, LearnedGain, TokenGain
from circuits.initial_weights import Constant, Normal, Weights

Gains = tuple[Tensor | float, list[Tensor | float]]
"""The gain of a layer's own tensor and that of every source, each fit to multiply (batch pos head d_head)."""
Kind = TypeVar("Kind", bound=Gain)


class ComputedGain(Generic[Kind]):
    """A gain of one reading layer, which reads ``n_sources`` layers."""

    def __init__(self, gain: Kind, config: ModelConfig, n_sources: int):
        self.gain, self.config, self.n_sources = gain, config, n_sources

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {}

    def __call__(self, mix: Any, x: Tensor) -> Gains:
        """Return the gains, with the parameters that ``mix`` holds.

        ``x`` is the input that the carrier is projected from, (batch pos d_model) or (batch pos head d_model).
        """
        raise NotImplementedError


class Fixed(ComputedGain[FixedGain]):
    """Fixed numbers."""

    def __call__(self, mix: Any, x: Tensor) -> Gains:
        """Return the two numbers, that of the stream for every source."""
        return self.gain.own, [self.gain.stream] * self.n_sources


class Learned(ComputedGain[LearnedGain]):
    """``stream_gain`` (source) or (source head 1), and ``own_gain`` without the source axis where it is free."""

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        per = (self.config.n_heads, 1) if self.gain.per_head else ()
        own: Weights = {"own_gain": (per, Constant(self.gain.own))} if self.gain.tie == "free" else {}
        return {"stream_gain": ((self.n_sources, *per), Constant(self.gain.stream)), **own}

    def __call__(self, mix: Any, x: Tensor) -> Gains:
        """Return the parameters, tied as the gain says."""
        stream: list[Tensor | float] = list(mix.stream_gain)
        if self.gain.tie == "free":
            return mix.own_gain, stream
        return (self.gain.own if self.gain.tie == "own-fixed" else 1 - mix.stream_gain.sum(0)), stream


class OfToken(ComputedGain[TokenGain]):
    """``W_gain`` (d_model head) and ``b_gain`` (head)."""

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        heads = self.config.n_heads
        start = Normal(self.config.weight_std("attention"))
        return {"W_gain": ((self.config.d_model, heads), start), "b_gain": ((heads,), Constant(0.0))}

    def __call__(self, mix: Any, x: Tensor) -> Gains:
        """Return m and, shared among the sources, 1 - m for every token and head."""
        per_head = "head" if x.ndim == 4 else ""
        logit = einsum(x, mix.W_gain, f"batch pos {per_head} d_model, d_model head -> batch pos head")
        own = torch.sigmoid(logit + mix.b_gain)[..., None]
        return own, [(1 - own) / self.n_sources] * self.n_sources


GAINS: dict[type[Gain], type[ComputedGain[Any]]] = {FixedGain: Fixed, LearnedGain: Learned, TokenGain: OfToken}
