"""By which route a difference is carried: at every position before every layer, by residual stream, stream and both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.compared_runs import Direction
from analysis.metrics import Metric
from analysis.pairs import Pair, is_padding
from analysis.patching.patch import PatchResult, patch
from analysis.patching.site_search import listed_positions
from analysis.position_names import position_names
from analysis.result import columns, ends, largest_by, told
from analysis.resuming import KeptIn
from circuits.common.errors import require
from circuits.common.showing import ROWS
from circuits.model import HookedStreamTransformer
from circuits.sites import Site

MAP_ROUTES: dict[str, str] = {
    "residual": "the residual stream before the layer is the other run's, at the position",
    "stream": "what earlier layers pass to this one and later ones beside it is the other run's, there",
    "both": "both are: all that the layer and later ones depend on, there",
    "interaction": "both - residual - stream: what the two carry together and neither does alone",
}
_COMPONENTS = ("resid_pre", "stream", "state")
"""What is patched for the first three."""
Place = int | str
Values = Float[Tensor, " example"]


@dataclass(repr=False)
class RouteMap(PatchResult):
    """The effects of both routes, alone and together, per example; residual + stream + interaction = both in every row.

    As :class:`analysis.patching.patch.PatchResult`, with four rows (``MAP_ROUTES``) a layer and position, in double
    precision.
    """

    where = ("layer", "position", "token", "route")
    of = "effects"

    def finding(self) -> str:
        """Return where each route carries most, and what effects are shares of."""
        rows, first = self._rows, self._rows.iloc[0]
        most = (rows.loc[largest_by(rows[rows.route == route], "effect", 1).index[0]] for route in MAP_ROUTES)
        said = ", ".join(f"{row.route} {row.effect:.2f}{ends(row)} ({told(row, self.where[:-1])})" for row in most)
        assert self.beside is not None, "every question says what its effects are shares of"
        return (
            f"{rows.position.nunique()} positions before {rows.layer.nunique()} layers, {first.direction}; largest: "
            f"{said}; {self.beside.sentence(first.metric)}"
        )

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` largest effects, as many of each route; what does nothing is left out."""
        rows = largest_by(self._rows[self._rows.effect != 0], "effect", len(self._rows))
        turns = rows.groupby("route").cumcount()
        order = pd.DataFrame({"turn": turns, "of": rows.route.map(list(MAP_ROUTES).index)}).sort_values(["turn", "of"])
        return rows.loc[order.index, columns(rows, self.where, "effect low high p")].head(n)

    def notes(self) -> Sequence[str]:
        """Return what the pair is warned of, and that nothing comes beside the residual stream where that is so."""
        still = bool((self._rows[self._rows.route == "stream"].effect == 0).all())
        nothing = "nothing that differs is passed on beside the residual stream: both routes are the residual stream"
        return (*super().notes(), *([nothing] if still else []))

    def figure(self) -> Any:
        """Return the heat maps of the routes, with buttons that show one by itself (a plotly figure)."""
        from figures.models.route_map import route_heat_maps

        return route_heat_maps(self._rows)


def route_map(
    model: HookedStreamTransformer,
    pair: Pair,
    metric: str | Metric = "logit_difference",
    direction: Direction = "denoise",
    max_memory: int | None = None,
    progress: bool = False,
    positions: Iterable[Place] | None = None,
    kept: KeptIn | None = None,
) -> RouteMap:
    """Return the effect of patching either route alone and both together, at every position before every layer.

    Routes are those of ``MAP_ROUTES``, and residual + stream + interaction = both. ``positions`` are by default all of
    them, and the pair's roles where those stand elsewhere in each example, or texts differ in length. Sign, direction,
    normalisation, intervals, ``max_memory`` and ``kept`` as in :func:`analysis.patch`. Columns: layer, position, token
    (what stands there in all examples: clean, then corrupt if it differs, and roles), route, and those of a patch.

    Raises:
        ValueError: as :func:`analysis.patch`, and for texts of different lengths in a pair without roles.
    """
    sites = mapped_sites(model, pair, positions)
    found = patch(model, pair, sites, metric, direction, max_memory, progress, kept)
    return _result(found, dict(zip(sites, found.values.double(), strict=True)), position_names(model, pair))


def mapped_sites(model: HookedStreamTransformer, pair: Pair, positions: Iterable[Place] | None = None) -> list[Site]:
    """Return what :func:`route_map` patches, one at a time.

    Where nothing comes beside the residual stream, that is all there is.

    Raises:
        ValueError: for texts of different lengths in a pair without roles.
    """
    cells = product(range(model.config.n_layers), _places(model, pair, positions), _COMPONENTS)
    every = [Site(layer, component, position=place) for layer, place, component in cells]
    return [site for site in every if site.component == "resid_pre" or Site(site.layer, "stream").exists(model)]


def _places(model: HookedStreamTransformer, pair: Pair, positions: Iterable[Place] | None) -> list[Place]:
    if positions is not None:
        return listed_positions(positions)
    padding = is_padding(model, pair)
    alike = [bool((places == places[:1]).all()) for places in (padding, *pair.positions.values())]
    if all(alike):
        return (~padding[0]).nonzero()[:, 0].tolist()
    require(
        bool(pair.positions),
        "these prompts differ in length, so a position is not the same place in all of them: give the pair roles, as "
        "in Pair.from_text(..., roles={'S2': ('Mary', 2)}), or ask one prompt (pair[0])",
    )
    return list(pair.positions)


def _result(found: PatchResult, values: dict[Site, Values], names: Sequence[str]) -> RouteMap:
    assert found.baseline is not None, "patch() always stores a baseline"
    baseline = found.baseline.double()
    rows, index = list[Values](), list[dict[str, Any]]()
    for site, residual in values.items():
        if site.component != "resid_pre":
            continue
        stream = values.get(replace(site, component="stream"), baseline)
        both = values.get(replace(site, component="state"), residual)
        # As a metric that would have been measured, so that one result does the statistics of all four.
        rows += [residual, stream, both, both - residual - stream + 2 * baseline]
        token = names[site.position] if isinstance(site.position, int) else ""
        cell = {"layer": site.layer, "position": str(site.position), "token": token}
        index += [{**cell, "route": route} for route in MAP_ROUTES]
    changed = {
        "values": torch.stack(rows),
        "index_df": pd.DataFrame(index),
        "baseline": baseline,
        "target": found.target.double(),
        "sites": [],
    }
    return RouteMap(**{field.name: getattr(found, field.name) for field in fields(found)} | changed)
