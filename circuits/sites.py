"""Where an activation is: layer, component, route, head, position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from circuits.canonical import register_plain_union
from circuits.config import ModelConfig
from circuits.errors import known
from circuits.model import HookedStreamTransformer
from circuits.stream_config import CARRIERS, Carrier

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
        return self.exists_in(model.config)

    def exists_in(self, config: ModelConfig) -> bool:
        """Return whether a model of this configuration has this site."""
        if not 0 <= self.layer < config.n_layers or not 0 <= (self.head or 0) < config.n_heads:
            return False
        if self.component in ("resid_mid", "mlp_out"):
            return config.mlp is not None
        return self.component not in CARRIERS or self._carried(config)

    def _carried(self, config: ModelConfig) -> bool:
        carrier: Carrier = self.component  # type: ignore[assignment] # the caller has seen that it is one
        if self.route == "own":
            return config.has_own(self.layer, carrier)
        if self.route == "mixed":
            return config.stream_into(carrier) is not None
        return bool((config.sources if self.route == "residual" else config.readers)(self.layer, carrier))


register_plain_union(int | str | None)


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
        if site.layer not in range(config.n_layers) or (site.head or 0) not in range(config.n_heads):
            raise ValueError(f"{site}: the model has {config.n_layers} layers of {config.n_heads} heads")
        known("site", site.hook_name, _hook_names(config))
    return sites


def _hook_names(config: ModelConfig) -> Iterator[str]:
    kinds: list[tuple[str, Route]] = [(c, "own") for c in COMPONENTS if c not in ("state", *CARRIERS)]
    for route in ROUTES:
        kinds.extend((c, route) for c in CARRIERS)
    for layer in range(config.n_layers):
        sites = (Site(layer, component, route) for component, route in kinds)
        yield from (site.hook_name for site in sites if site.exists_in(config))
