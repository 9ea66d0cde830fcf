"""The map of routes: every position before every layer, by the residual stream, by the stream, and by both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import analysis
from experiments.options import option
from experiments.output import say, show
from experiments.questions.cost import Cost, Work, cost_of, spread
from experiments.questions.question import Effects, Model, Run

if TYPE_CHECKING:
    from circuits.sites import Site
else:
    Site = Any


@dataclass(frozen=True)
class MapRoutes(Effects):
    """Patch every position before every layer by residual stream, stream and both; write and draw the map."""

    row: Annotated[int | None, option("of the pairs, one alone (from 0): its tokens one by one")] = None

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> analysis.RouteMap:
        """Return the effects of both routes, alone and together.

        Raises:
            RunError: if there is no checkpoint at the step.
            ValueError: as :func:`analysis.route_map`, and for a row that the pairs do not have.
        """
        model = self.model(run, self.step)
        rows = self._rows(run, model)
        return analysis.route_map(model, rows, self.metric, self.direction, self.max_memory, progress, kept=kept)

    def cost(self, run: Run) -> Cost:
        """Return what the map takes: a forward pass a position, layer and route, of which what comes after is made."""
        from analysis.patching.route_map import mapped_sites

        model = self.model(run, self.step)
        pair = self._rows(run, model)
        sites = mapped_sites(model, pair)

        def sample(n: int) -> Any:
            return analysis.patch(model, pair, spread(sites, n), self.metric, self.direction, self.max_memory)

        return cost_of(model, pair, [Work(2 + len(sites), sample)], self.max_memory)

    def _rows(self, run: Run, model: Model) -> analysis.Pair:
        pair = self.pair(run, model)
        return pair if self.row is None else pair[self.row]

    def tell(self, run: Run, found: analysis.RouteMap) -> list[Path]:
        """Print the largest effects of each route, write and draw all."""
        from figures.models.route_map import route_heat_maps

        row = "" if self.row is None else f"row {self.row} of "
        say(f"{run.path.name}, {row}{self.asked_of(run)}: {found.finding()}")
        show(found.largest(self.top))
        return self.keep(run, "route_map", found.to_frame(), route_heat_maps)
