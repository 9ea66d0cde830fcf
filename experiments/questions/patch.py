"""Patching: every layer, position role, component and route of a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import analysis
from circuits.common.errors import require
from experiments.options import option
from experiments.output import say, show
from experiments.questions.cost import Cost, Work, cost_of, spread
from experiments.questions.question import Components, Effects, Heads, Model, Run, beside

if TYPE_CHECKING:
    from analysis.patching.site_search import Patched
else:
    Patched = Any

PATCHED = ("state", "resid_pre", "q", "k", "v", "z")


@dataclass(frozen=True)
class Patch(Effects):
    """Patch every layer x position role x component x route of a run's model; write and draw the effects."""

    components: Components = PATCHED
    routes: Annotated[tuple[str, ...], option("of q, k and v: own, residual, mixed, outgoing", "all")] = ()
    heads: Heads = "all"
    together: Annotated[tuple[str, ...], option("also this, patched at once, e.g. resid_pre v.residual")] = ()

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> analysis.PatchResult:
        """Return the effects of the patches.

        Raises:
            RunError: if there is no checkpoint at the step.
            ValueError: as :func:`analysis.patch` and :func:`patched_sites`.
        """
        model, pair, sites = self._sites(run)
        return self._patch(model, pair, sites, progress, kept)

    def cost(self, run: Run) -> Cost:
        """Return what patching takes: a forward pass a site, of which only what comes after the site is made."""
        model, pair, sites = self._sites(run)
        work = Work(2 + len(sites), lambda n: self._patch(model, pair, spread(sites, n)))
        return cost_of(model, pair, [work], self.max_memory)

    def _sites(self, run: Run) -> tuple[Model, analysis.Pair, list[Patched]]:
        model = self.model(run, self.step)
        pair = self.pair(run, model)
        positions = list(pair.positions) or None
        sites = patched_sites(model, self.components, self.routes or None, self.heads, positions, self.together)
        return model, pair, sites

    def _patch(
        self,
        model: Model,
        pair: analysis.Pair,
        sites: list[Patched],
        progress: bool = False,
        kept: analysis.KeptIn | None = None,
    ) -> analysis.PatchResult:
        return analysis.patch(model, pair, sites, self.metric, self.direction, self.max_memory, progress, kept)

    def tell(self, run: Run, found: analysis.PatchResult) -> list[Path]:
        """Print the largest effects, write and draw all."""
        from figures.models.patching import patch_heat_map

        frame = found.to_frame()
        asked = f"{self.asked_of(run)}, {self.metric}, {self.direction}"
        say(f"{run.path.name}: {len(frame)} sites, {asked}; largest effects:")
        say(beside(frame))
        show(self.largest(frame)[["layer", "component", "route", "head", "position", "effect", "low", "high", "p"]])
        return self.keep(run, "patch", frame, patch_heat_map)


def patched_sites(
    model: Model,
    components: Sequence[str] = PATCHED,
    routes: Sequence[str] | None = None,
    heads: Literal["all", "each"] = "all",
    positions: Sequence[int | str] | None = None,
    together: Sequence[str] = (),
) -> list[Patched]:
    """Return the sites of a patch sweep: layers x components x routes x position roles.

    What ``together`` names (``resid_pre``, ``v.residual``) is patched at once too, in every layer that has all of it.

    ``positions`` are the roles of the pair that is patched; ``None`` takes all positions together.

    Raises:
        UnknownNameError: for a component or route that the model has nowhere.
        ValueError: if no layer has all that is to be patched together.
    """
    sites = analysis.find_sites(model, components, routes, heads=heads, positions=positions)
    return [*sites, *(_joint_sites(model, together, positions) if together else [])]


def _joint_sites(model: Model, together: Sequence[str], positions: Sequence[int | str] | None) -> list[Patched]:
    parts = [name.partition(".") for name in together]
    of = [
        analysis.find_sites(model, [name], [route] if route else ["own"], positions=positions)
        for name, _, route in parts
    ]
    places: list[list[tuple[int, int | str | None]]] = [[(site.layer, site.position) for site in sites] for sites in of]
    joint: list[Patched] = [
        tuple(sites[at.index(place)] for sites, at in zip(of, places, strict=True))
        for place in places[0]
        if all(place in at for at in places)
    ]
    require(bool(joint), f"no layer of this model ({model.config.name}) has all of {', '.join(together)}")
    return joint
