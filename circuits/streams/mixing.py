"""How one layer mixes what it computes with what comes in from others: gains, transforms and the gradient gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from circuits.config.model import ModelConfig
from circuits.config.streams import Carrier, FixedGain, Gate, HeadMixing, LearnedGain, LinearMap, Stream, TokenGain
from circuits.initial_weights import Constant, Eye, Initial, Initialised, Normal
from circuits.transformerlens.hooks import fork

HeadTensor = Float[Tensor, "batch pos head d_head"]
Gains = tuple[Tensor | float, list[Tensor | float]]
Outgoing = dict[tuple[int, Carrier], HeadTensor]
"""What layers have passed on so far, by (layer, carrier)."""


def gate(kind: Gate, term: Callable[[HeadTensor], HeadTensor], outgoing: HeadTensor) -> HeadTensor:
    """Return what one connection adds: ``term(outgoing)`` past the gate.

    ``stop`` detaches the tensor that comes from the source layer, so no gradient reaches that layer, while the
    reader's own mixing parameters inside ``term`` go on learning. ``gradient-only`` has the value exactly 0 and the
    gradient of ``full``.

    Source: the 2 x 2 of {forward, gradient} x {on, off}; gradients are cut by detaching, never by backward hooks.
    """
    if kind == "full":
        return term(outgoing)
    if kind == "stop":
        return term(outgoing.detach())
    if kind == "off":
        return torch.zeros_like(outgoing)
    value = term(outgoing)
    return value - value.detach()


def gate_heads(kinds: Sequence[Gate], term: Callable[[HeadTensor], HeadTensor], outgoing: HeadTensor) -> HeadTensor:
    """Return :func:`gate` with a kind of its own for every head of the reader."""
    different = sorted(set(kinds))
    if len(different) == 1:
        return gate(different[0], term, outgoing)
    total = torch.zeros_like(outgoing)
    for kind in different:
        mask = torch.tensor([k == kind for k in kinds], dtype=outgoing.dtype, device=outgoing.device)
        total = total + mask[:, None] * gate(kind, term, outgoing)
    return total


class Mix(Initialised):
    """The mixing rule of one reading layer for one carrier, with the rule's parameters.

    Hook points: ``hook_from_<source>`` (batch pos head d_head) for every connection, what this layer reads of that
    source layer's outgoing tensor, before gain, transform and gate.
    """

    def __init__(self, config: ModelConfig, stream: Stream, layer: int):
        super().__init__()
        self.layer = layer
        self.reads: Carrier = stream.reads
        self.sources = stream.topology.sources(layer)
        self.gain = stream.gain
        self.transform = stream.transform
        self.set_gates(config, stream)
        n, heads, width = len(self.sources), config.n_heads, config.d_head
        if isinstance(self.gain, LearnedGain):
            per = (heads, 1) if self.gain.per_head else ()
            self.stream_gain = nn.Parameter(torch.empty(n, *per))
            if self.gain.tie == "free":
                self.own_gain = nn.Parameter(torch.empty(per))
        if isinstance(self.gain, TokenGain):
            self.W_gain = nn.Parameter(torch.empty(config.d_model, heads))
            self.b_gain = nn.Parameter(torch.empty(heads))
        if isinstance(self.transform, HeadMixing):
            self.W_heads = nn.Parameter(torch.empty(n, heads, heads))
        if isinstance(self.transform, LinearMap):
            self.W_map = nn.Parameter(torch.empty(n, heads, width, width))
        self._gain_std = config.weight_std("attention")
        for source in self.sources:
            self.add_module(f"hook_from_{source}", HookPoint())

    def initial(self) -> dict[str, Initial]:
        """Return how every parameter starts; see :class:`circuits.initial_weights.Initialised`."""
        start: dict[str, Initial] = {"W_heads": Eye(), "W_map": Eye(), "b_gain": Constant(0.0)}
        start["W_gain"] = Normal(self._gain_std)
        if isinstance(self.gain, LearnedGain):
            start |= {"stream_gain": Constant(self.gain.stream), "own_gain": Constant(self.gain.own)}
        return start

    def set_gates(self, config: ModelConfig, stream: Stream) -> None:
        """Take the gates of ``stream``; everything else about the rule stays."""
        self.gates = tuple(stream.head_gates(self.layer, source, config.n_heads) for source in self.sources)

    def gains(self, x: Tensor) -> Gains:
        """Return the gain of the layer's own tensor and that of every source, each fit to multiply a HeadTensor.

        ``x`` is the input that the carrier is projected from, (batch pos d_model) or (batch pos head d_model).
        """
        if isinstance(self.gain, FixedGain):
            return self.gain.own, [self.gain.stream] * len(self.sources)
        if isinstance(self.gain, TokenGain):
            per_head = "head" if x.ndim == 4 else ""
            logit = einsum(x, self.W_gain, f"batch pos {per_head} d_model, d_model head -> batch pos head")
            own = torch.sigmoid(logit + self.b_gain)[..., None]
            return own, [(1 - own) / len(self.sources)] * len(self.sources)
        stream: list[Tensor | float] = list(self.stream_gain)
        if self.gain.tie == "free":
            return self.own_gain, stream
        return (self.gain.own if self.gain.tie == "own-fixed" else 1 - self.stream_gain.sum(0)), stream

    def incoming(self, outgoing: Sequence[HeadTensor], gains: Gains) -> HeadTensor:
        """Return the sum over sources of gate(gain * transform(outgoing)), what the stream adds to this layer."""
        read = [fork(self.point(source), tensor) for source, tensor in zip(self.sources, outgoing, strict=True)]
        terms = [
            gate_heads(kinds, self._term(i, gain), tensor)
            for i, (tensor, gain, kinds) in enumerate(zip(read, gains[1], self.gates, strict=True))
        ]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def point(self, source: int) -> HookPoint:
        """Return the hook point of the connection from the layer ``source``."""
        return self.get_submodule(f"hook_from_{source}")  # type: ignore[return-value] # every such one is a HookPoint

    def _term(self, i: int, gain: Tensor | float) -> Callable[[HeadTensor], HeadTensor]:
        return lambda outgoing: scaled(gain, self._transformed(i, outgoing))

    def _transformed(self, i: int, outgoing: HeadTensor) -> HeadTensor:
        if isinstance(self.transform, HeadMixing):
            return einsum(self.W_heads[i], outgoing, "head source, batch pos source d_head -> batch pos head d_head")
        if isinstance(self.transform, LinearMap):
            return einsum(self.W_map[i], outgoing, "head d_in d_out, batch pos head d_in -> batch pos head d_out")
        return outgoing


def scaled(gain: Tensor | float, tensor: Tensor) -> Tensor:
    """Return ``gain * tensor``, and ``tensor`` itself where the gain is the number 1."""
    return tensor if isinstance(gain, (int, float)) and gain == 1 else gain * tensor
