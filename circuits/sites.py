"""Where an activation is: layer, component, route, head, position."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from circuits.common.errors import known, require
from circuits.common.fields import Checked, checked_value, shown
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, Carrier
from circuits.model import HookedStreamTransformer

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
HEADED = (*HEAD, *PATTERN)
_ASKED: dict[str, Any] = {
    "layer": int,
    "component": str,
    "route": str,
    "head": int | None,
    "position": int | str | None,
}
"""Of what types a site's fields are; which components and routes there are is said in other words."""
STATES = ("state", "stream")
"""``state`` is all that a layer and later ones depend on: the residual stream before it *and* what earlier layers pass
to them beside it, which alone is ``stream``. Patching the state everywhere gives the other run exactly; patching
``resid_pre`` does not. Both are where a run is taken up again, and no single activation."""
COMPONENTS: tuple[str, ...] = (*STATES, *BLOCK, *HEAD, *PATTERN)


@dataclass(frozen=True)
class Site(Checked):
    """One activation, or a part of one; ``None`` for head or position means all of them."""

    layer: int
    component: str
    route: Route = "own"
    """For q, k and v only."""
    head: int | None = None
    position: int | str | None = None
    """An index, or a role in a pair's ``positions``. For a pattern: the query's position."""

    def __post_init__(self) -> None:
        # Sites are made by the thousand: what is of the right types already is not held against annotations.
        if not (
            type(self.layer) is int
            and (self.head is None or type(self.head) is int)
            and (self.position is None or type(self.position) in (int, str))
            and type(self.component) is type(self.route) is str
        ):
            self._check_types()
        if self.layer < 0 or (self.head or 0) < 0:
            what, value = ("layer", self.layer) if self.layer < 0 else ("head", self.head)
            raise ValueError(f"{what}s count from 0, got {what} = {value}; give the {what}'s own number")
        if self.component not in COMPONENTS or self.route not in ROUTES:
            known("component", self.component, COMPONENTS)
            known("route", self.route, ROUTES)
        if self.route != "own" and self.component not in CARRIERS:
            raise ValueError(f"{self.component} has no routes; only q, k and v have")
        if self.head is not None and self.component not in HEADED:
            raise ValueError(f"{self.component} has no heads; leave head out")

    def _check_types(self) -> None:
        place = self.position
        require(
            place is None or (isinstance(place, (str, Integral)) and not isinstance(place, bool)),
            f"a site's position is one index, a role in a pair's positions (their numbers, one row an example), or "
            f"None for all, got {shown(place)}; a mask is no position: give the numbers of what it marks "
            f"(mask.nonzero()), one site each, or a role",
        )
        for name, annotation in _ASKED.items():
            object.__setattr__(self, name, checked_value(getattr(self, name), annotation, f"a site's {name}"))

    @property
    def has_heads(self) -> bool:
        """Whether the activation has a head axis."""
        return self.component in HEADED

    @property
    def hook_name(self) -> str:
        """The hook point; what is ``STATES`` has none, it is where a run is taken up again."""
        if self.component in BLOCK:
            return f"blocks.{self.layer}.hook_{self.component}"
        return f"blocks.{self.layer}.attn.hook_{self.component}{_SUFFIX[self.route]}"

    def exists(self, model: HookedStreamTransformer) -> bool:
        """Return whether the model has this site."""
        return self.exists_in(model.config)

    def exists_in(self, config: ModelConfig) -> bool:
        """Return whether a model of this configuration has this site."""
        if not 0 <= self.layer < config.n_layers or not 0 <= (self.head or 0) < self.heads_in(config):
            return False
        if self.component in ("resid_mid", "mlp_out"):
            return config.mlp is not None
        if self.component == "stream":
            return _reads_beside(config, self.layer)
        return self.component not in CARRIERS or self._carried(config)

    def heads_in(self, config: ModelConfig) -> int:
        """Return how many heads there are at such a place in a model: keys and values may have fewer."""
        return config.heads_of("v") if self.component in ("k", "v") else config.n_heads

    def sizes_in(self, config: ModelConfig) -> tuple[int, ...]:
        """Return the sizes of the activation at such a place in a model, beside batch and positions: heads, heads and
        their width, or the width of the residual stream."""
        if self.component in PATTERN:
            return (config.n_heads,)
        return (self.heads_in(config), config.d_head) if self.component in HEAD else (config.d_model,)

    def _carried(self, config: ModelConfig) -> bool:
        carrier: Carrier = self.component  # type: ignore[assignment] # the caller has seen that it is one
        if self.route == "own":
            return config.has_own(self.layer, carrier)
        if self.route == "mixed":
            return config.stream_into(carrier) is not None
        return bool((config.sources if self.route == "residual" else config.readers)(self.layer, carrier))


def _reads_beside(config: ModelConfig, layer: int) -> bool:
    """Whether a layer, or one after it, reads what was made before it beside the residual stream."""
    later = range(layer, config.n_layers)
    read = ((stream, source) for stream in config.streams for at in later for source in stream.topology.sources(at))
    return (
        any(stream.reads == "token" or source < layer for stream, source in read)
        or (config.residual_scalars is not None and layer + 1 < config.n_layers)
        or (config.backout is not None and config.backout.layer < layer)
    )


def check_sites(model: HookedStreamTransformer | ModelConfig, wanted: Iterable[Site]) -> list[Site]:
    """Return ``wanted`` if the model, or one of that configuration, has every one of them.

    Raises:
        UnknownNameError: naming the first that does not exist and the nearest hook points that do.
        ValueError: for a layer or head beyond the model's.
    """
    config = model if isinstance(model, ModelConfig) else model.config
    sites = list(wanted)
    for site in sites:
        if site.exists_in(config):
            continue
        heads = site.heads_in(config)
        if site.layer not in range(config.n_layers) or (site.head or 0) not in range(heads):
            raise ValueError(f"{site}: the model has {config.n_layers} layers of {heads} heads there")
        require(
            site.component != "stream",
            f"{site}: nothing is passed to layer {site.layer} or later ones beside the residual stream before it",
        )
        kinds: list[tuple[str, Route]] = [(c, "own") for c in COMPONENTS if c not in (*STATES, *CARRIERS)]
        kinds.extend((c, route) for route in ROUTES for c in CARRIERS)
        every = (Site(layer, *kind) for layer in range(config.n_layers) for kind in kinds)
        known("site", site.hook_name, [other.hook_name for other in every if other.exists_in(config)])
    return sites
