"""How one layer mixes what it computes with what comes in from others, past the gradient gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuits.config.model import ModelConfig
from circuits.config.streams import Carrier, Gate, Source, Stream
from circuits.initial_weights import Initialised
from circuits.streams.gains import GAINS, Gains
from circuits.streams.transforms import TRANSFORMS, HeadTensor
from circuits.transformerlens.hooks import fork

Key = tuple[int, Source | Literal["x0", "middle"]]
"""Whose tensor it is: (layer, carrier); (table, "token"); (0, "x0"), the residual stream at the start; (layer,
"middle"), that after a layer, for a backout."""
Outgoing = dict[Key, Tensor]
"""What has been passed on so far, beside the residual stream."""


def gate(
    kind: Gate, term: Callable[[HeadTensor], HeadTensor], outgoing: HeadTensor, gradient: float = 1.0
) -> HeadTensor:
    """Return what one connection adds: ``term(outgoing)`` past the gate.

    ``stop`` detaches the tensor that comes from the source layer, so no gradient reaches that layer, while the
    reader's own mixing parameters inside ``term`` go on learning. ``gradient-only`` has the value exactly 0 and the
    gradient of ``full``. That gradient, where it goes into ``outgoing``, is multiplied by ``gradient``.

    Source: the 2 x 2 of {forward, gradient} x {on, off}; gradients are cut by detaching, never by backward hooks.
    """
    if kind == "stop":
        return term(outgoing.detach())
    if kind == "off":
        return torch.zeros_like(outgoing)
    if gradient != 1:
        # The difference is exactly 0, so that the value stays to the bit.
        outgoing = outgoing.detach() + gradient * (outgoing - outgoing.detach())
    if kind == "full":
        return term(outgoing)
    value = term(outgoing)
    return value - value.detach()


def gate_heads(
    kinds: Sequence[Gate], term: Callable[[HeadTensor], HeadTensor], outgoing: HeadTensor, gradient: float = 1.0
) -> HeadTensor:
    """Return :func:`gate` with a kind of its own for every head of the reader."""
    different = sorted(set(kinds))
    if len(different) == 1:
        return gate(different[0], term, outgoing, gradient)
    total = torch.zeros_like(outgoing)
    for kind in different:
        mask = torch.tensor([k == kind for k in kinds], dtype=outgoing.dtype, device=outgoing.device)
        total = total + mask[:, None] * gate(kind, term, outgoing, gradient)
    return total


class Mix(Initialised):
    """The mixing rule of one reading layer for one carrier, with the rule's parameters.

    Hook points: ``hook_from_<source>`` (batch pos head d_head) for every connection, what this layer reads of that
    source layer's outgoing tensor, before gain, transform and gate.
    """

    def __init__(self, config: ModelConfig, stream: Stream, layer: int):
        super().__init__()
        self.layer = layer
        self.reads: Source = stream.reads
        self.sources = stream.topology.sources(layer)
        n = len(self.sources)
        self.carrier: Carrier = stream.carrier
        self.gain = GAINS[type(stream.gain)](stream.gain, config, n, stream.carrier)
        self.transform = TRANSFORMS[type(stream.transform)](stream.transform, config, n, stream.carrier)
        self.set_gates(config, stream)
        for name, (shape, start) in (self.gain.weights() | self.transform.weights()).items():
            self.learn(name, shape, start)
        for source in self.sources:
            self.add_module(f"hook_from_{source}", HookPoint())

    @property
    def needs(self) -> list[Key]:
        """What this layer reads of others."""
        return [(source, self.reads) for source in self.sources if self.reads == "token" or source != self.layer]

    def set_gates(self, config: ModelConfig, stream: Stream) -> None:
        """Take the gates of ``stream``, and what it multiplies gradients by; everything else about the rule stays."""
        self.gradient = stream.gradient
        heads = config.heads_of(self.carrier)
        self.gates = tuple(stream.head_gates(self.layer, source, heads) for source in self.sources)

    def gains(self, x: Tensor) -> Gains:
        """Return the gain of the layer's own tensor and that of every source, each fit to multiply a HeadTensor.

        ``x`` is the input that the carrier is projected from, (batch pos d_model) or (batch pos head d_model).
        """
        return self.gain(self, x)

    def incoming(self, outgoing: Sequence[HeadTensor], gains: Gains) -> HeadTensor:
        """Return the sum over sources of gate(gain * transform(outgoing)), what the stream adds to this layer."""
        read = [fork(self.point(source), tensor) for source, tensor in zip(self.sources, outgoing, strict=True)]
        terms = [
            gate_heads(kinds, self._term(i, gain), tensor, self.gradient)
            for i, (tensor, gain, kinds) in enumerate(zip(read, gains[1], self.gates, strict=True))
        ]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def point(self, source: int) -> HookPoint:
        """Return the hook point of the connection from the layer ``source``."""
        return self.get_submodule(f"hook_from_{source}")  # type: ignore[return-value] # every such one is a HookPoint

    def _term(self, i: int, gain: Tensor | float) -> Callable[[HeadTensor], HeadTensor]:
        return lambda outgoing: scaled(gain, self.transform(self, i, outgoing))


def scaled(gain: Tensor | float, tensor: Tensor) -> Tensor:
    """Return ``gain * tensor``, and ``tensor`` itself where the gain is the number 1."""
    return tensor if isinstance(gain, (int, float)) and gain == 1 else gain * tensor
