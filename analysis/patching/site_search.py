"""Which sites a model has, by a product of layers, components, routes, heads and positions; and those of a question."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.pairs import Pair, is_padding
from circuits.common.errors import UnknownNameError, known, require, several
from circuits.common.fields import all_different
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS
from circuits.model import HookedStreamTransformer
from circuits.sites import COMPONENTS, HEAD, PATTERN, ROUTES, Route, Site

Patched = Site | tuple[Site, ...]
"""What is patched at once: a site, or several together."""


def find_sites(
    model: HookedStreamTransformer,
    components: Iterable[str] = ("v",),
    routes: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    heads: Literal["all", "each"] | Iterable[int] = "all",
    positions: Iterable[int | str] | None = None,
) -> list[Site]:
    """Return the sites of a product of layers, components, routes, heads and positions that the model has.

    Routes apply to q, k and v (default: all that exist); ``heads="all"`` takes them together, ``"each"`` one by one;
    ``positions=None`` takes all together. Sites that an architecture cannot have (what comes in at layer 0, say) are
    left out; a component or route that it has nowhere is an error.

    Raises:
        UnknownNameError: for an unknown component or route, or one that the model has nowhere.
        ValueError: for a layer or head that the model does not have, or something that is given twice.
    """
    n_layers = model.config.n_layers
    of_layers = range(n_layers) if layers is None else _numbers("layers", layers, n_layers)
    components = [known("component", component, COMPONENTS) for component in several("components", components, str)]
    if routes is not None:
        routes = [known("route", route, ROUTES) for route in several("routes", routes, str)]
    most = max(Site(0, component).heads_in(model.config) for component in components)
    wanted = known("heads", heads, ("all", "each")) if isinstance(heads, str) else _numbers("heads", heads, most)
    places: list[Any] = [None] if positions is None else listed_positions(positions)
    found: list[Site] = []
    for component, layer in product(components, of_layers):
        for route in _routes(component, routes):
            for head in _heads(model, component, wanted):
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


def listed_positions(positions: Any) -> list[int | str]:
    """Return positions, by their numbers or roles, as a list.

    Raises:
        ValueError: for one instead of several, none, something else, or one that is given twice.
    """
    given = several("positions", positions, int, np.integer, str)
    places = [place if isinstance(place, str) else int(place) for place in given]
    all_different("positions", places)
    return places


def _numbers(what: str, numbers: Iterable[int], n: int) -> list[int]:
    given = [int(number) for number in several(what, numbers, int, np.integer, least=0)]
    all_different(what, given)
    odd = [number for number in given if number not in range(n)]
    require(not odd, f"{what} {odd}: the model has {n}, numbered from 0 to {n - 1}")
    return given


def _routes(component: str, routes: Sequence[str] | None) -> list[Route]:
    wanted: list[Route] = [route for route in ROUTES if routes is None or route in routes]
    return wanted if component in CARRIERS else ["own"]


def _heads(model: HookedStreamTransformer, component: str, heads: str | Sequence[int]) -> Sequence[int | None]:
    if component not in (*HEAD, *PATTERN) or heads == "all":
        return [None]
    return range(Site(0, component).heads_in(model.config)) if isinstance(heads, str) else heads


def listed_sites(sites: Any) -> list[Any]:
    """Return sites, and tuples of them, as a list."""
    told = "sites are a list of Site, or of tuples of them to patch together; analysis.find_sites(model, ...) makes one"
    if isinstance(sites, (Site, str)) or not isinstance(sites, Iterable):
        raise ValueError(f"{told}; got {sites!r}")
    wanted: list[Any] = list(sites)
    parts = [part for site in wanted for part in (site if isinstance(site, tuple) else (site,))]
    odd = [part for part in parts if not isinstance(part, Site)]
    require(not odd, f"{told}; it holds {odd[:1]}")
    return wanted


def listed_heads(what: str, heads: Any, config: ModelConfig) -> list[tuple[int, int]]:
    """Return (layer, head) pairs, of Python or numpy, as a list.

    Raises:
        ValueError: for one pair instead of several, none, or a head that the model does not have.
    """
    told = f"{what} are (layer, head) pairs of {config.n_layers} layers of {config.n_heads} heads"
    try:
        pairs = [tuple(operator.index(number) for number in pair) for pair in heads]
    except TypeError:
        raise ValueError(f"{told}, got {heads!r}") from None
    every = {*product(range(config.n_layers), range(config.n_heads))}
    odd = [pair for pair in pairs if pair not in every]
    require(bool(pairs) and not odd, f"{told}, got {odd[:3] or 'none'}")
    return [(layer, head) for layer, head in pairs]


def check_positions(model: HookedStreamTransformer, wanted: Sequence[Site], pair: Pair) -> None:
    """Refuse sites at positions that a pair does not have, or that are padding in some example."""
    padding = is_padding(model, pair)
    for site in wanted:
        if isinstance(site.position, str):
            known("position role", site.position, pair.positions)
        elif site.position is not None and not -pair.n_pos <= site.position < pair.n_pos:
            raise ValueError(f"{site}: the pair has {pair.n_pos} positions")
    for position in dict.fromkeys(site.position for site in wanted if site.position is not None):
        there = (pair.where(position) & padding).any(1)
        if bool(there.any()):
            raise ValueError(
                f"position {position!r} is padding in {int(there.sum())} of {len(pair)} examples; name a role of the "
                f"pair, which has a place of its own in each (it has {list(pair.positions) or 'none'})"
            )


def together(site: Patched) -> tuple[Site, ...]:
    """Return the sites that are patched at once."""
    return site if isinstance(site, tuple) else (site,)


def frame_of(wanted: Sequence[Patched]) -> pd.DataFrame:
    """Return where every site is: layer, component, route, head, position.

    Of sites that are patched together, what they share stands once, and the rest is joined by " + "; ``layer`` is the
    first of their layers.
    """
    return pd.DataFrame([_row(together(site)) for site in wanted])


def _row(sites: Sequence[Site]) -> dict[str, int | str]:
    one_layer = len({site.layer for site in sites}) == 1
    parts = {
        "component": [site.component if one_layer else f"L{site.layer} {site.component}" for site in sites],
        "route": [site.route if site.component in CARRIERS else "-" for site in sites],
        "head": ["all" if site.head is None else str(site.head) for site in sites],
        "position": ["all" if site.position is None else str(site.position) for site in sites],
    }
    joined = {name: words[0] if len(set(words)) == 1 else " + ".join(words) for name, words in parts.items()}
    return {"layer": min(site.layer for site in sites), **joined}
