"""Attribution: the effect of every edge or site estimated from gradients, beside exact patches of some."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import analysis
from circuits.common.errors import known, require
from experiments.options import option
from experiments.output import say, show
from experiments.questions.cost import ESTIMATING, Cost, Work, cost_of, spread
from experiments.questions.patch import PATCHED
from experiments.questions.question import Components, Effects, Heads, Model, Run, beside


@dataclass(frozen=True)
class Attribute(Effects):
    """Estimate the effect of every edge or site from gradients, both routes included; say how well it agrees."""

    method: Annotated[str, option("of edges: EAP, EAP-IG, exact; of sites: AtP, AtP+QK, 'AtP*', IG")] = "EAP-IG"
    steps: Annotated[int, option("inputs between the two runs, for EAP-IG and IG")] = 5
    check: Annotated[int, option("edges or sites that are patched exactly, to compare")] = 64
    components: Components = PATCHED
    heads: Heads = "all"

    def validate(self) -> None:
        """Refuse options with which nothing can be asked, before work starts.

        Raises:
            UnknownNameError: for an unknown method (nearest suggested).
            ValueError: as :meth:`OfInputs.validate`, and for options that say nothing to the method.
        """
        from analysis.attribution.of_edges import EDGE_METHODS
        from analysis.attribution.of_sites import METHODS

        super().validate()
        method = known("method", self.method, {**EDGE_METHODS, **METHODS})
        unheard = ["components", "heads"] if method in EDGE_METHODS else []
        unheard += ["check"] if method == "exact" else []
        unheard += ["steps"] if method not in ("EAP-IG", "IG") else []
        told = ", ".join(self.given(*unheard))
        require(not told, f"{told}: of that the method {method} makes nothing; leave it out, or take another --method")

    def ask(
        self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None
    ) -> analysis.EdgeScores | analysis.SiteScores:
        """Return the scores of edges (EAP, EAP-IG, exact) or of sites (AtP, AtP+QK, AtP*, IG).

        Raises:
            RunError: if there is no checkpoint at the step.
            UnknownNameError, ValueError: as :meth:`validate`.
        """
        from analysis.attribution.of_edges import EDGE_METHODS

        method: Any = self.method
        model = self.model(run, self.step)
        pair = self.pair(run, model)
        rest: dict[str, Any] = {"steps": self.steps, "check": self.check, "max_memory": self.max_memory}
        rest |= {"progress": progress, "kept": kept}
        if method in EDGE_METHODS:
            return analysis.attribute_edges(model, pair, self.metric, method, self.direction, **rest)
        sites = analysis.find_sites(model, self.components, heads=self.heads, positions=list(pair.positions) or None)
        return analysis.attribute(model, pair, sites, self.metric, method, self.direction, **rest)

    def cost(self, run: Run) -> Cost:
        """Return what it takes: passes forward and backward for the estimates, and forward for what is patched."""
        from analysis.attribution.of_edges import EDGE_METHODS

        model = self.model(run, self.step)
        pair = self.pair(run, model)
        if self.method in EDGE_METHODS:
            return cost_of(model, pair, edge_works(model, pair, self.method, self.steps, self.check), self.max_memory)
        sites = analysis.find_sites(model, self.components, heads=self.heads, positions=list(pair.positions) or None)
        estimates = {"IG": self.steps, "AtP*": 1 + model.config.n_layers}.get(self.method, 1)
        exact = Work(2 + min(self.check, len(sites)), lambda n: analysis.patch(model, pair, spread(sites, n)))
        return cost_of(model, pair, [Work(estimates, None, True, ESTIMATING), exact], self.max_memory)

    def tell(self, run: Run, found: analysis.EdgeScores | analysis.SiteScores) -> list[Path]:
        """Print the largest scores with how well they agree with exact patching, write and draw all."""
        from figures.models.edges import edge_drawing
        from figures.models.patching import patch_heat_map

        frame, of_edges = found.to_frame(), isinstance(found, analysis.EdgeScores)
        what = "edges" if of_edges else "sites"
        say(f"{run.path.name}: {found.method} of {len(frame)} {what}, {self.asked_of(run)}, {found.metric}; largest:")
        say(beside(frame))
        of_sites = ["layer", "component", "route", "head", "position", "effect"]
        show(self.largest(frame)[["edge", "effect", "stderr"] if of_edges else of_sites])
        exact = found.agreement
        if exact.checked:
            say(
                f"against exact patching of {exact.checked} {what}: rank correlation {exact.rank_correlation:.3f}, "
                f"worst error {exact.worst_error:.3f}; the whole input is estimated at {found.total:.3f} of what it "
                f"does"
            )
        if isinstance(found, analysis.EdgeScores) and not math.isnan(found.sum_error):
            say(f"sums over a node's edges miss its own score by at most {found.sum_error:.1e} of the largest")
        return (
            self.keep(run, "attribute", frame, edge_drawing)
            if of_edges
            else self.keep(run, "attribute_sites", frame, patch_heat_map)
        )


def edge_works(model: Model, pair: analysis.Pair, method: str, steps: int, check: int) -> list[Work]:
    """Return the passes that scores of edges take: forward and backward for estimates, and forward with an edge cut for
    each that is patched exactly."""
    names = [edge.name for edge in analysis.Graph(model).edges]
    exact = len(names) if method == "exact" else min(check, len(names))
    cut = Work(2 + exact, lambda n: analysis.ablate_edges(model, pair, spread(names, n), "zero"))
    return [cut] if method == "exact" else [Work(steps if method == "EAP-IG" else 1, None, True, ESTIMATING), cut]
