"""Where an activation is: layer, component, route, head, position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from circuits.errors import known
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
