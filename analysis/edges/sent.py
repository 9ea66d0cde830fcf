"""What every writer writes and every carried projection holds, in a run; and runs that go on from where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.edges.graph import Graph, Origin, Place
from analysis.edges.steered_forward import Control, after_layer, run
from analysis.pairs import without_padding
from circuits.common.errors import known
from circuits.config.streams import Carrier
from circuits.layers import Residual
from circuits.model import Embedded, HookedStreamTransformer, State
from circuits.streams.gains import Gains
from circuits.streams.transforms import HeadTensor

Writers = Float[Tensor, "batch pos writer d_model"]
Replacement = Literal["other run", "mean", "zero"]
REPLACEMENTS: dict[str, str] = {
    "other run": "what the pair's other input sends along the edge, example by example (resample ablation)",
    "mean": "its mean over the pair's other inputs, position by position",
    "zero": "nothing",
}


@dataclass(frozen=True)
class Sent:
    """What every writer writes, and every carried projection and table holds, in one run."""

    writers: Writers
    own: dict[Origin, HeadTensor]

    def replaced(self, by: Replacement) -> Sent:
        """Return what is sent along a cut edge, made from the other run's."""
        known("replacement", by, REPLACEMENTS)
        if by == "zero":
            return Sent(torch.zeros_like(self.writers), {k: torch.zeros_like(t) for k, t in self.own.items()})
        if by == "mean":
            return Sent(_mean(self.writers), {k: _mean(t) for k, t in self.own.items()})
        return self

    def without_padding(self, padding: Bool[Tensor, "batch pos"]) -> Sent:
        """Return what is sent with :func:`analysis.pairs.without_padding` at every place."""
        own = {place: without_padding(tensor, padding) for place, tensor in self.own.items()}
        return Sent(without_padding(self.writers, padding), own)

    def rows(self, rows: Int[Tensor, " batch"]) -> Sent:
        """Return what is sent for some of the examples, or for others in their place."""
        return Sent(self.writers[rows], {k: t[rows] for k, t in self.own.items()})


def _mean(tensor: Tensor) -> Tensor:
    return tensor.mean(0, keepdim=True).expand_as(tensor)


class Recorder(Control):
    """Keeps what every writer writes and every carried projection holds, as it comes along.

    Every state before the first layer is made of ``embedded``: its residual stream is what the input writes.
    """

    def __init__(self, model: HookedStreamTransformer, graph: Graph, embedded: Embedded):
        self.model, self.graph = model, graph
        self.written: list[Writers] = [embedded.residual[:, :, None]]
        self.projected: dict[Origin, HeadTensor] = dict(embedded.tables)  # type: ignore[arg-type] # tables' keys are origins
        self.gains: dict[Place, Gains] = {}
        self.coefficients = graph.coefficients(model)

    def own(self, layer: int, carrier: Carrier, projected: HeadTensor) -> HeadTensor:
        """Keep a projection that the stream carries."""
        if (layer, carrier) in self.graph.carried:
            self.projected[layer, carrier] = projected
        return projected

    def mixing(self, layer: int, carrier: Carrier, gains: Gains) -> None:
        """Keep the gains."""
        self.gains[layer, carrier] = gains

    def heads(self, layer: int, z: HeadTensor) -> None:
        """Keep what every head writes."""
        W_O = self.model.layers[layer].attn.W_O
        self.written.append(einsum(z, W_O, "batch pos head width, head width out -> batch pos head out"))

    def mlp(self, layer: int, out: Residual) -> None:
        """Keep what an MLP writes."""
        self.written.append(out[:, :, None])

    def so_far(self, state: State) -> Recorded:
        """Return what was kept before a state."""
        return Recorded(state, tuple(self.written), dict(self.projected), dict(self.gains))

    def go_on(self, before: Recorded) -> State:
        """Take what another run has kept before a state, and return the state."""
        self.written, self.projected, self.gains = list(before.written), dict(before.projected), dict(before.gains)
        return before.state

    @property
    def sent(self) -> Sent:
        """All that was kept."""
        return Sent(torch.cat(self.written, 2), self.projected)


@dataclass(frozen=True)
class Recorded:
    """A run up to some layer: the state before it, and what was recorded on the way."""

    state: State
    written: tuple[Tensor, ...]
    projected: dict[Origin, HeadTensor]
    gains: dict[Place, Gains]


def recorded(model: HookedStreamTransformer, graph: Graph, embedded: Embedded) -> list[Recorded]:
    """Return a run before every layer, and at its end, from which others can go on."""
    recorder, state = Recorder(model, graph, embedded), model.begin(embedded)
    found = [recorder.so_far(state)]
    for _ in range(model.config.n_layers):
        state = after_layer(model, state, recorder)
        found.append(recorder.so_far(state))
    return found


@torch.no_grad()
def send(model: HookedStreamTransformer, graph: Graph, inputs: Tensor) -> Sent:
    """Return what everyone sends in the run of ``inputs``."""
    embedded = model.embedded(inputs)
    recorder = Recorder(model, graph, embedded)
    run(model, model.begin(embedded), recorder)
    return recorder.sent
