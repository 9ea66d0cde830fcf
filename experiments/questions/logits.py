"""What adds up to the answer's logit, by component and route, and what the model would say after every layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import analysis
from experiments.options import option
from experiments.output import say, show
from experiments.questions.question import OfPairs, Run


@dataclass(frozen=True)
class Logits(OfPairs):
    """Direct logit attribution, a head's share by route, and the logit lens with what streams still carry."""

    of: Annotated[
        Literal["logit_difference", "answer"], option("of the answer and the wrong one, or the answer's logit alone")
    ] = "logit_difference"
    top: Annotated[int, option("rows to print")] = 15

    def ask(
        self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None
    ) -> tuple[analysis.LogitAttribution, analysis.LogitLens]:
        """Return the parts of the logit (difference), and a metric of the lens before every layer.

        Raises:
            RunError: if there is no checkpoint at the step.
            ValueError: for a model whose readout is not linear.
        """
        model = self.model(run, self.step)
        pair = self.pair(run, model)
        parts = analysis.attribute_logits(model, pair, self.of, self.max_memory)
        return parts, analysis.logit_lens(model, pair, self.metric, self.max_memory)

    def tell(self, run: Run, found: tuple[analysis.LogitAttribution, analysis.LogitLens]) -> list[Path]:
        """Print the largest parts, sums by route and the lens; write and draw all."""
        from figures.models.logits import logit_attribution_bars, logit_lens_curves

        parts, lens = (each.to_frame() for each in found)
        by_route = parts.groupby("route", sort=False)["value"].sum()
        sums = ", ".join(f"{route} {value:.3f}" for route, value in by_route.items())
        say(f"{run.path.name}: {self.of} {parts.value.sum():.4g}, {self.asked_of(run)}; by route: {sums}; largest:")
        order = parts.value.abs().sort_values(ascending=False, kind="stable").index
        show(parts.loc[order].head(self.top)[["component", "layer", "head", "route", "source", "value", "low", "high"]])
        say(f"logit lens ({self.metric}) before every layer, and at the end:")
        show(lens.pivot(index="layer", columns="route", values="value")[list(dict.fromkeys(lens.route))].reset_index())
        drawn = self.keep(run, "logit_attribution", parts, logit_attribution_bars)
        return [*drawn, *self.keep(run, "logit_lens", lens, logit_lens_curves)]
