"""How each kind of gain is computed: one class a kind, beside the dataclass that says it in a configuration.

The parameters belong to the :class:`circuits.streams.mixing.Mix` that has the gain, and carry its name in checkpoints.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.config.gains import ChannelGain, FixedGain, Gain, LearnedGain, SigmoidGain, TokenGain
from circuits.config.model import ModelConfig
from circuits.config.streams import Carrier
from circuits.initial_weights import Constant, Normal, Uniform, Weights

Gains = tuple[Tensor | float, list[Tensor | float]]
"""The gain of a layer's own tensor and that of every source, each fit to multiply (batch pos head d_head)."""
Kind = TypeVar("Kind", bound=Gain)


class ComputedGain(Generic[Kind]):
    """A gain of one reading layer for ``carrier``, which reads ``n_sources`` layers."""

    def __init__(self, gain: Kind, config: ModelConfig, n_sources: int, carrier: Carrier = "v"):
        self.gain, self.config, self.n_sources = gain, config, n_sources
        self.n_heads = config.heads_of(carrier)

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
        per = {"per_head": (self.n_heads, 1), "per_channel": (self.n_heads, self.config.d_head)}
        per = next((shape for name, shape in per.items() if getattr(self.gain, name)), ())
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
        start = Normal(self.config.weight_std("attention"))
        return {"W_gain": ((self.config.d_model, self.n_heads), start), "b_gain": ((self.n_heads,), Constant(0.0))}

    def __call__(self, mix: Any, x: Tensor) -> Gains:
        """Return m and, shared among the sources, 1 - m for every token and head."""
        own = torch.sigmoid(_of_heads(x, mix.W_gain) + mix.b_gain)[..., None]
        return own, [(1 - own) / self.n_sources] * self.n_sources


class Added(ComputedGain[SigmoidGain]):
    """``W_gain`` (channel head)."""

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        return {"W_gain": ((self.gain.channels, self.n_heads), Uniform(0.0, 0.02))}

    def __call__(self, mix: Any, x: Tensor) -> Gains:
        """Return the fixed number and, shared among the sources, the gate of every token and head."""
        gate = torch.sigmoid(_of_heads(x[..., : self.gain.channels], mix.W_gain))[..., None]
        return self.gain.own, [self.gain.scale / self.n_sources * gate] * self.n_sources


class OfChannel(ComputedGain[ChannelGain]):
    """``W_down`` (d_model rank), ``W_up`` (head rank d_head) and ``b_gain`` (head d_head)."""

    def weights(self) -> Weights:
        """Return the shape and the start of every parameter, by name."""
        config, rank = self.config, self.gain.rank
        heads, start = (self.n_heads, config.d_head), Normal(config.weight_std("attention"))
        return {
            "W_down": ((config.d_model, rank), start),
            "W_up": ((self.n_heads, rank, config.d_head), start),
            "b_gain": (heads, Constant(0.0)),
        }

    def __call__(self, mix: Any, x: Tensor) -> Gains:
        """Return 1 - m and, shared among the sources, m for every token, head and channel."""
        per_head = "head" if x.ndim == 4 else ""
        inner = f"batch pos {per_head} rank, head rank d_head -> batch pos head d_head"
        stream = torch.sigmoid(einsum(x @ mix.W_down, mix.W_up, inner) + mix.b_gain)
        return 1 - stream, [stream / self.n_sources] * self.n_sources


def _of_heads(x: Tensor, weight: Float[Tensor, "channel head"]) -> Float[Tensor, "batch pos head"]:
    """Products with a column of weights a head, of an input for all heads or of one for each."""
    per_head = "head" if x.ndim == 4 else ""
    return einsum(x, weight, f"batch pos {per_head} channel, channel head -> batch pos head")


GAINS: dict[type[Gain], type[ComputedGain[Any]]] = {
    FixedGain: Fixed,
    LearnedGain: Learned,
    TokenGain: OfToken,
    SigmoidGain: Added,
    ChannelGain: OfChannel,
}
