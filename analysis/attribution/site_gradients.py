"""The metric's gradient at every activation of a run, and what a change of a site would do to first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.edges.graph import Place
from analysis.edges.recorded_activations import Activations, gains_of, kept_points
from analysis.edges.steered_forward import Entry, carry
from analysis.metrics import Metric, evaluate, require_gradient
from analysis.pairs import Pair
from circuits.config.streams import CARRIERS, Carrier
from circuits.model import Embedded, HookedStreamTransformer
from circuits.places import Places
from circuits.sites import PATTERN, STATES, Route, Site
from circuits.streams.gains import Gains
from circuits.streams.transforms import ByCarrier, HeadTensor

_ENTRIES: dict[Route, Entry] = {"own": "own", "residual": "used", "mixed": "used", "outgoing": "passed"}


@dataclass(frozen=True)
class Gradients:
    """The metric's gradient, example by example: at the embedded inputs, and at every hook point."""

    input: Embedded
    at: dict[str, Tensor]
    gains: dict[Place, Gains]
    some: bool
    """Whether the gradient is other than zero anywhere."""

    def along(self, start: Embedded, end: Embedded) -> Float[Tensor, " example"]:
        """Return what the gradient says of the whole change of the inputs."""
        parts = [(end.residual - start.residual) * self.input.residual]
        parts += [(end.tables[key] - start.tables[key]) * gradient for key, gradient in self.input.tables.items()]
        return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)


def linearised(
    model: HookedStreamTransformer, embedded: Embedded, pair: Pair, metric: tuple[str, Metric], drop: int | None = None
) -> Gradients:
    """Return the metric's gradient in the run of embedded inputs, which are leaves.

    With ``drop``, nothing goes back through what that layer adds to the residual stream and puts on the stream itself
    (GradDrop, Kramar et al., arXiv 2403.00745).
    """
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any) -> None:
        kept[hook.name] = activation

    names = [name for name in model.hook_dict if kept_points(model)(name)]
    hooks: Any = [(name, keep) for name in names]
    # After the others, so that what is dropped is kept first, and gets the gradient zero.
    hooks += [] if drop is None else _dropping(model, drop, kept)
    with model.hooks(fwd_hooks=hooks):
        logits = model.run_state(model.begin(embedded))
    name, function = metric
    values = require_gradient(name, evaluate(function, name, logits, pair))
    # Behind a closed gate nothing moves, so nothing has a gradient.
    moving = {name: tensor for name, tensor in kept.items() if tensor.requires_grad}
    wanted = [embedded.residual, *embedded.tables.values(), *moving.values()]
    first, *rest = torch.autograd.grad(values.sum(), wanted, allow_unused=True, materialize_grads=True)
    some = any(bool(gradient.any()) for gradient in (first, *rest))
    tables = {key: rest.pop(0) for key in embedded.tables}
    detached = {name: tensor.detach() for name, tensor in kept.items()}
    still = {name: torch.zeros_like(tensor) for name, tensor in detached.items() if name not in moving}
    at = dict(zip(moving, rest, strict=True)) | still
    return Gradients(Embedded(first, tables), at, gains_of(model, detached), some)


def _dropping(model: HookedStreamTransformer, layer: int, kept: dict[str, Tensor]) -> list[tuple[str, Any]]:
    def detach(activation: Tensor, hook: Any) -> Tensor:
        # A leaf: what comes after it still gets its gradient.
        return activation.detach().requires_grad_()

    def detach_own(outgoing: Tensor, hook: Any) -> Tensor:
        incoming = kept.get(hook.name.replace("_stream", "_residual"))
        return detach(outgoing, hook) if incoming is None else incoming + (outgoing - incoming).detach()

    attn, start = model.layers[layer].attn, f"blocks.{layer}."
    found: list[tuple[str, Any]] = [(f"{start}hook_attn_out", detach)]
    found += [(f"{start}hook_mlp_out", detach)] if model.config.mlp else []
    found += [(f"{start}attn.hook_{c}_stream", detach) for c in attn.passes_own]
    return found + [(f"{start}attn.hook_{c}_stream", detach_own) for c in attn.passes_mixed]


class Estimator:
    """What changes of sites do to the metric, to first order in one run."""

    def __init__(
        self,
        model: HookedStreamTransformer,
        pair: Pair,
        source: Activations,
        base: Activations,
        gradients: Gradients,
        fixed: bool,
        drop: int | None = None,
    ):
        """``fixed``: attention patterns are recomputed exactly for changes of queries and keys. ``drop``: the layer
        that is dropped from the gradients."""
        self.model, self.pair, self.fixed, self.drop = model, pair, fixed, drop
        self.source, self.base, self.gradients = source, base, gradients
        self.products: dict[str, Tensor] = {}

    def scores(self, sites: Sequence[Site]) -> Float[Tensor, "site example"]:
        """Return by how much the metric of every example changes, for each of many sites."""
        return torch.stack([self._score(site) for site in sites])

    def _score(self, site: Site) -> Float[Tensor, " example"]:
        if site.component in STATES:
            residual = [f"blocks.{site.layer}.hook_resid_pre"] if site.component == "state" else []
            points = [*residual, *self._stream(site.layer)]
            return torch.stack([self._linear(name, site) for name in points]).sum(0)
        if self.fixed and site.component in CARRIERS:
            return self._fixed(site)
        return self._linear(site.hook_name, site)

    def _stream(self, layer: int) -> list[str]:
        """Where a layer and later ones read what was made before it, beside the residual stream."""
        model, points = self.model, list[str]()
        for reader in range(layer, model.config.n_layers):
            for carrier, mix in model.layers[reader].attn.mixes():
                earlier = (number for number, what in mix.needs if what == "token" or number < layer)
                points += [f"blocks.{reader}.attn.mix.{carrier}.hook_from_{number}" for number in earlier]
            if model.config.residual_scalars and reader > layer:
                points.append(f"blocks.{reader}.scalars.hook_x0")
        if model.config.backout and model.config.backout.layer < layer:
            points.append("backout.hook_middle")
        return points

    def _linear(self, name: str, site: Site) -> Float[Tensor, " example"]:
        products = self._product(name)
        products = products if site.head is None else products[:, :, site.head, None]
        return (products.sum(2) * self.pair.where(site.position)).sum(1)

    def _product(self, name: str) -> Float[Tensor, "example pos head"]:
        """Change times gradient of every head (or of what has no heads) at every position."""
        if name not in self.products:
            # Scores that the mask has at minus infinity on both sides do not change.
            change = (self.source.at[name] - self.base.at[name]).nan_to_num(0.0)
            product = (change * self.gradients.at[name]).sum(-1)
            if name.endswith(tuple(f"hook_{component}" for component in PATTERN)):
                product = product.transpose(1, 2)
            self.products[name] = product if product.ndim == 3 else product[:, :, None]
        return self.products[name]

    @torch.no_grad()
    def _fixed(self, site: Site) -> Float[Tensor, " example"]:
        heads = torch.arange(site.heads_in(self.model.config), device=self.pair.clean.device)
        chosen = torch.ones_like(heads).bool() if site.head is None else heads == site.head
        mask, name = self.pair.where(site.position)[:, :, None, None] & chosen[:, None], site.hook_name
        change = torch.where(mask, self.source.at[name] - self.base.at[name], 0.0)
        start: Place = (site.layer, site.component)  # type: ignore[assignment] # a carrier, as the caller asked
        # What a layer puts on the stream itself is dropped with it; what came in it passes on.
        last = site.layer if site.layer == self.drop and site.route != "residual" else None
        arrived = carry(self.model, start, change, self.gradients.gains, _ENTRIES[site.route], last)
        total = change.new_zeros(len(change))
        for layer in range(site.layer, self.model.config.n_layers):
            here: ByCarrier = {c: arrived[layer, c] for c in CARRIERS if (layer, c) in arrived}
            if "v" in here:
                total = total + (here["v"] * self._use_gradient(layer, "v")).sum((1, 2, 3))
            if "q" in here or "k" in here:
                total = total + self._pattern_change(layer, here)
        return total

    def _use_gradient(self, layer: int, carrier: Carrier) -> HeadTensor:
        """The gradient through the layer's attention alone, without what is passed on of the same tensor."""
        point, attn = self.base.use_point(layer, carrier), self.model.layers[layer].attn
        # What is used without being mixed is passed on by a running sum of another carrier, too.
        forks = {*attn.passes_mixed} if point.endswith("_mixed") else {*attn.passes_mixed, *attn.carries_own}
        passed = self.gradients.at[f"blocks.{layer}.attn.hook_{carrier}_stream"] if carrier in forks else 0.0
        return self.gradients.at[point] - passed

    def _pattern_change(self, layer: int, change: ByCarrier) -> Float[Tensor, " example"]:
        attn, start = self.model.layers[layer].attn, f"blocks.{layer}.attn."
        q, k = (self.base.at[self.base.use_point(layer, c)] + change.get(c, 0.0) for c in ("q", "k"))
        places = Places.whole(q.shape[1], q.device)
        moved = attn.pattern(*attn.compared(q, k, places), places) - self.base.at[f"{start}hook_pattern"]
        return (moved * self.gradients.at[f"{start}hook_pattern"]).sum((1, 2, 3))
