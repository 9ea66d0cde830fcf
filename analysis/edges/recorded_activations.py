"""Everything that happens in the blocks in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.edges.graph import Place
from circuits.config.streams import CARRIERS, Carrier
from circuits.layers import Residual
from circuits.model import HookedStreamTransformer
from circuits.streams.gains import Gains
from circuits.streams.mixing import Outgoing
from circuits.streams.transforms import HeadTensor


@dataclass(frozen=True)
class Activations:
    """All activations of the blocks in one run, by hook name, and the gains that layers mixed with."""

    at: dict[str, Tensor]
    gains: dict[Place, Gains]

    def residual(self, layer: int) -> Residual:
        """Return the residual stream before a layer."""
        return self.at[f"blocks.{layer}.hook_resid_pre"]

    def own(self, layer: int) -> dict[Carrier, HeadTensor]:
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
        names: dict[Place, str] = {(j, c): f"blocks.{j}.attn.hook_{c}_stream" for j in range(layer) for c in CARRIERS}
        return {place: self.at[name] for place, name in names.items() if name in self.at}


def kept_points(model: HookedStreamTransformer) -> Callable[[str], bool]:
    """Return which hook points are kept: those of the blocks, as far as they fire."""
    return lambda name: name.startswith("blocks.") and model.can_fire(name)


@torch.no_grad()
def record(model: HookedStreamTransformer, residual: Residual) -> Activations:
    """Return the activations of the run of a residual stream before the first layer."""
    _, cache = model.run_with_cache(
        residual, start_at_layer=0, names_filter=kept_points(model), return_cache_object=False
    )
    return Activations(cache, gains_of(model, cache))


@torch.no_grad()
def gains_of(model: HookedStreamTransformer, at: dict[str, Tensor]) -> dict[Place, Gains]:
    """Return the gains that layers mixed with, from a run's activations."""
    found: dict[Place, Gains] = {}
    for layer, block in enumerate(model.layers):
        normalised = block.ln1(at[f"blocks.{layer}.hook_resid_pre"])
        found |= {(layer, carrier): mix.gains(normalised) for carrier, mix in block.attn.mixes()}
    return found
