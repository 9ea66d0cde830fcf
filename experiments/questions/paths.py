"""Direct paths from head to head by route, and every head's effect split by route."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import analysis
from circuits.common.errors import require
from experiments.options import option
from experiments.output import say, show
from experiments.questions.cost import Cost, Work, cost_of, spread
from experiments.questions.question import Effects, Model, Run, beside

if TYPE_CHECKING:
    from analysis.edges.graph import Edge
else:
    Edge = Any

_HEAD = re.compile(r"L(\d+)H(\d+)")


@dataclass(frozen=True)
class Paths(Effects):
    """Patch every direct path from head to head, by route, and split every head's effect by route; write and draw."""

    senders: Annotated[tuple[str, ...], option("heads, as in L0H0", "all")] = ()
    receivers: Annotated[tuple[str, ...], option("as in L1H0.v, MLP1, logits", "all")] = ()
    routes: Annotated[tuple[str, ...], option("residual, stream")] = ("residual", "stream")

    def ask(
        self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None
    ) -> tuple[analysis.PathResult, analysis.HeadShares]:
        """Return the effects of the direct paths, and every head's shares.

        Raises:
            RunError: if there is no checkpoint at the step.
            ValueError: for a sender that is not like L0H1, for no route, or only the stream's of a model without one,
                and as :func:`analysis.patch_paths`.
        """
        model, pair, paths = self._paths(run)
        found = self._patch(model, pair, paths, progress, kept)
        asked = (self.metric, self.direction, self.max_memory, progress, kept)
        return found, analysis.head_shares(model, pair, None, *asked)

    def cost(self, run: Run) -> Cost:
        """Return what it takes: a forward pass a path, and three a head and carrier for its shares."""
        from analysis.edges.graph import carried

        model, pair, paths = self._paths(run)
        carriers = len({carrier for _, carrier in carried(model)}) or 1
        shares = 3 * carriers * model.config.n_layers * model.config.n_heads
        works = [Work(2 + len(paths), lambda n: self._patch(model, pair, spread(paths, n))), Work(2 + shares)]
        return cost_of(model, pair, works, self.max_memory)

    def _paths(self, run: Run) -> tuple[Model, analysis.Pair, list[Edge]]:
        senders = heads_named(self.senders) or None
        model = self.model(run, self.step)
        routes = [route for route in self.routes if route != "stream" or model.config.streams]
        there = "residual, stream or both" if model.config.streams else "residual, as it has no stream"
        named = " ".join(self.routes) or "without a name"
        require(
            bool(routes),
            f"--routes {named}: no path of {run.path.name} goes by that; name {there}",
        )
        return model, self.pair(run, model), analysis.find_paths(model, senders, list(self.receivers) or None, routes)

    def _patch(
        self,
        model: Model,
        pair: analysis.Pair,
        paths: list[Edge],
        progress: bool = False,
        kept: analysis.KeptIn | None = None,
    ) -> analysis.PathResult:
        asked = (self.metric, self.direction, self.max_memory, progress, kept)
        return analysis.patch_paths(model, pair, paths, *asked)

    def tell(self, run: Run, found: tuple[analysis.PathResult, analysis.HeadShares]) -> list[Path]:
        """Print the largest paths and every head's shares, write and draw both."""
        from figures.models.paths import path_heat_maps, share_bars

        frame, shares = found[0].to_frame(), found[1].to_frame()
        say(f"{run.path.name}: {len(frame)} direct paths, {self.asked_of(run)}, {frame.metric[0]}; largest effects:")
        say(beside(frame))
        show(self.largest(frame)[["sender", "receiver", "route", "effect", "low", "high", "p"]])
        say("\neffect of every head's projection: its own layer, the stream, both (own + stream + interaction = total)")
        wide = shares.pivot(index=["layer", "head", "carrier"], columns="share", values="effect").reset_index()
        show(wide[["layer", "head", "carrier", "own", "stream", "interaction", "total"]])
        return [*self.keep(run, "paths", frame, path_heat_maps), *self.keep(run, "shares", shares, share_bars)]


def heads_named(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (layer, head) of heads by name.

    Raises:
        ValueError: for a name that is not like L0H1.
    """
    found = []
    for name in names:
        match = _HEAD.fullmatch(name)
        if not match:
            raise ValueError(f"a sender is a head, as in L0H1, not {name!r}")
        found.append((int(match[1]), int(match[2])))
    return found
