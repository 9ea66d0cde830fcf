"""Everything that happens in the blocks in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.edges.graph import Place
from circuits.config.streams import CARRIERS, Carrier
from circuits.layers import Residual
from circuits.model import Embedded, HookedStreamTransformer
from circuits.streams.gains import Gains
from circuits.streams.mixing import Key, Outgoing
from circuits.streams.transforms import ByCarrier, HeadTensor

_MIDDLE = "backout.hook_middle"


@dataclass(frozen=True)
class Activations:
    """All activations of the blocks in one run, by hook name, and the gains that layers mixed with."""

    at: dict[str, Tensor]
    gains: dict[Place, Gains]
    given: Outgoing
    """What is passed on before the first layer."""
    middle: Key | None
    """Of which layer's end the readout takes a part off."""

    def residual(self, layer: int) -> Residual:
        """Return the residual stream before a layer."""
        return self.at[f"blocks.{layer}.hook_resid_pre"]

    def own(self, layer: int) -> ByCarrier:
        """Return a layer's own projections."""
        names: dict[Carrier, str] = {c: f"blocks.{layer}.attn.hook_{c}" for c in CARRIERS}
        return {c: self.at[name] for c, name in names.items() if name in self.at}

    def use_point(self, layer: int, carrier: Carrier) -> str:
        """Return the name of the hook point of what a layer's attention uses."""
        mixed = f"blocks.{layer}.attn.hook_{carrier}_mixed"
        return mixed if mixed in self.at else f"blocks.{layer}.attn.hook_{carrier}"

    def used(self, layer: int, carrier: Carrier) -> HeadTensor:
        """Return what a layer's attention uses."""
        return self.at[self.use_point(layer, carrier)]

    def passed(self, layer: int) -> Outgoing:
        """Return what the layers before ``layer`` have passed on."""
        names: dict[Key, str] = {(j, c): f"blocks.{j}.attn.hook_{c}_stream" for j in range(layer) for c in CARRIERS}
        found = {key: self.at[name] for key, name in names.items() if name in self.at}
        middle: Outgoing = {key: self.at[_MIDDLE] for key in [self.middle] if key and key[0] < layer}
        return {**self.given, **found, **middle}


def kept_points(model: HookedStreamTransformer) -> Callable[[str], bool]:
    """Return which hook points are kept: those from the first block on, as far as they fire."""
    return lambda name: name.startswith(("blocks.", "backout.")) and model.can_fire(name)


@torch.no_grad()
def record(model: HookedStreamTransformer, embedded: Embedded) -> Activations:
    """Return the activations of the run of embedded inputs."""
    state = model.begin(embedded)
    _, cache = model.run_with_cache(
        state.residual,
        start_at_layer=0,
        outgoing=state.outgoing,
        names_filter=kept_points(model),
        return_cache_object=False,
    )
    middle = next(iter(model.enters(model.config.n_layers)), None)
    return Activations(cache, gains_of(model, cache), state.outgoing, middle)


@torch.no_grad()
def gains_of(model: HookedStreamTransformer, at: dict[str, Tensor]) -> dict[Place, Gains]:
    """Return the gains that layers mixed with, from a run's activations."""
    found: dict[Place, Gains] = {}
    for layer, block in enumerate(model.layers):
        normalised = block.ln1(at[f"blocks.{layer}.hook_resid_pre"])
        found |= {(layer, carrier): mix.gains(normalised) for carrier, mix in block.attn.mixes()}
    return found


def between(start: Embedded, end: Embedded, fraction: float) -> Embedded:
    """Return embedded inputs between two, as leaves that gradients are asked for."""

    def leaf(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a.detach(), b.detach(), fraction).requires_grad_()

    tables = {key: leaf(tensor, end.tables[key]) for key, tensor in start.tables.items()}
    return Embedded(leaf(start.residual, end.residual), tables)
