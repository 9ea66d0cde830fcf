"""Where an activation is: layer, component, route, head, position; and which such sites a model has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from circuits.errors import UnknownNameError, known
from circuits.model import HookedStreamTransformer
from circuits.stream_config import CARRIERS

Route = Literal["own", "residual", "mixed", "outgoing"]
ROUTES: dict[Route, str] = {
    "own": "the layer's own projection: it goes to the layer's attention and, through the stream, to later layers",
    "residual": "what comes in through the stream",
    "mixed": "what the layer's attention uses",
    "outgoing": "what the layer passes on through the stream",
}
_SUFFIX: dict[Route, str] = {"own": "", "residual": "_residual", "mixed": "_mixed", "outgoing": "_stream"}

BLOCK = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
HEAD = ("z", *CARRIERS)
PATTERN = ("attn_scores", "pattern")
COMPONENTS: tuple[str, ...] = ("state", *BLOCK, *HEAD, *PATTERN)
"""``state`` is all that a layer and later ones depend on: the residual stream before it *and* what earlier layers pass
to them through the stream. Patching it everywhere gives the other run exactly; patching ``resid_pre`` does not."""


@dataclass(frozen=True)
class Site:
    """One activation, or a part of one; ``None`` for head or position means all of them."""

    layer: int
    component: str
    route: Route = "own"
    """For q, k and v only."""
    head: int | None = None
    position: int | str | None = None
    """An index, or a role in a pair's ``positions``. For a pattern: the query's position."""

    def __post_init__(self) -> None:
        known("component", self.component, COMPONENTS)
        known("route", self.route, ROUTES)
        if self.route != "own" and self.component not in CARRIERS:
            raise ValueError(f"{self.component} has no routes; only q, k and v have")
        if self.head is not None and not self.has_heads:
            raise ValueError(f"{self.component} has no heads; leave head out")

    @property
    def has_heads(self) -> bool:
        """Whether the activation has a head axis."""
        return self.component in (*HEAD, *PATTERN)

    @property
    def hook_name(self) -> str:
        """The hook point; a ``state`` has none, it is where a run is taken up again."""
        if self.component in BLOCK:
            return f"blocks.{self.layer}.hook_{self.component}"
        return f"blocks.{self.layer}.attn.hook_{self.component}{_SUFFIX[self.route]}"

    def exists(self, model: HookedStreamTransformer) -> bool:
        """Return whether the model has this site."""
        if not 0 <= self.layer < model.config.n_layers:
            return False
        if self.head is not None and not 0 <= self.head < model.config.n_heads:
            return False
        return self.component == "state" or self.hook_name in model.hook_dict


def check_sites(model: HookedStreamTransformer, wanted: Iterable[Site]) -> list[Site]:
    """Return ``wanted`` if the model has every one of them.

    Raises:
        UnknownNameError: naming the first that does not exist and the nearest hook points that do.
        ValueError: for a layer or head beyond the model's.
    """
    sites = list(wanted)
    for site in sites:
        if site.exists(model):
            continue
        config = model.config
        if site.layer not in range(config.n_layers) or (site.head or 0) not in range(config.n_heads):
            raise ValueError(f"{site}: the model has {config.n_layers} layers of {config.n_heads} heads")
        known("site", site.hook_name, model.hook_dict)
    return sites


def find_sites(
    model: HookedStreamTransformer,
    components: Sequence[str] = ("v",),
    routes: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    heads: Literal["all", "each"] | Sequence[int] = "all",
    positions: Sequence[int | str] | None = None,
) -> list[Site]:
    """Return the sites of a product of layers, components, routes, heads and positions that the model has.

    Routes apply to q, k and v (default: all that exist); ``heads="all"`` takes them together, ``"each"`` one by one;
    ``positions=None`` takes all together. Sites that an architecture cannot have (what comes in at layer 0, say) are
    left out; a component or route that it has nowhere is an error.

    Raises:
        UnknownNameError: for an unknown component or route, or one that the model has nowhere.
    """
    for component in components:
        known("component", component, COMPONENTS)
    for route in routes or ():
        known("route", route, ROUTES)
    places: Sequence[int | str | None] = [None] if positions is None else positions
    of_layers = range(model.config.n_layers) if layers is None else layers
    found: list[Site] = []
    for component, layer in product(components, of_layers):
        for route in _routes(component, routes):
            for head in _heads(model, component, heads):
                found += [Site(layer, component, route, head, place) for place in places]
    there = [site for site in found if site.exists(model)]
    missing = {(s.component, s.route) for s in found} - {(s.component, s.route) for s in there}
    if missing and (routes is not None or {c for c, _ in missing} - {s.component for s in there}):
        names = sorted(f"{component} ({route})" for component, route in missing)
        have = sorted({f"{s.component} ({s.route})" for s in there})
        raise UnknownNameError(
            f"this model ({model.config.name}) has nowhere: {', '.join(names)}; of what was asked it has "
            f"{', '.join(have) or 'nothing'}"
        )
    return there


def _routes(component: str, routes: Sequence[str] | None) -> list[Route]:
    wanted: list[Route] = [route for route in ROUTES if routes is None or route in routes]
    return wanted if component in CARRIERS else ["own"]


def _heads(
    model: HookedStreamTransformer, component: str, heads: Literal["all", "each"] | Sequence[int]
) -> Sequence[int | None]:
    if component not in (*HEAD, *PATTERN) or heads == "all":
        return [None]
    return range(model.config.n_heads) if heads == "each" else list(heads)  # type: ignore[arg-type] # not a string here
