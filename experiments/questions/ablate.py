"""Ablation: what breaks without each head, the stream, its value or its gradient, or without edges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import analysis
from experiments.options import option
from experiments.output import say, show
from experiments.questions.cost import Cost, Work, cost_of, spread
from experiments.questions.question import Model, OfSequences, Run, Sequences, Step, check_other


@dataclass(frozen=True)
class Ablate(OfSequences):
    """Take away each head, whole and in halves, the stream, its value, its gradient; write and draw what breaks."""

    n: Sequences = 512
    step: Step = -1
    method: Annotated[
        tuple[Literal["zero", "mean", "resample"], ...],
        option("what comes in place: zero, the mean over sequences, or another sequence's activation"),
    ] = ("zero", "mean")
    from_run: Annotated[
        str | None,
        option(
            "also put in place what another run's model, at its last checkpoint whatever --step says, has there on the "
            "same sequences"
        ),
    ] = None
    edges: Annotated[
        tuple[str, ...], option("edges to cut together, as in 'L0H0.v > L1H0.v (stream)', or 'each' one by itself")
    ] = ()

    def named_steps(self) -> tuple[int, ...]:
        """Return the checkpoint that is named, -1 being the last."""
        return (self.step,)

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> analysis.Ablations:
        """Return what breaks: a row an ablation, of parts or, where edges are named, of those.

        Raises:
            RunError: if there is no checkpoint at the step.
            UnknownNameError: for an unknown split, or an edge that the model does not have (nearest suggested).
            ValueError: for another run that is this one, whose classes and labels are others, or whose model lacks
                what is taken from it.
        """
        model, asked, models = self._models(run)
        if self.edges:
            return self._of_edges(model, asked, next(iter(models.values()), None), progress, kept)
        wanted = self._ablations(model, models)
        # A stream behind a closed gate is nothing already; the column ``changed`` says so.
        how: dict[str, Any] = {"allow_nothing": True, "progress": progress, "kept": kept}
        return analysis.ablate(model, asked, wanted, models=models, **how)

    def cost(self, run: Run) -> Cost:
        """Return what it takes: a pass forward and backward an ablation, or forward only where edges are cut."""
        model, asked, models = self._models(run)
        if self.edges:
            names = [edge.name for edge in analysis.Graph(model).edges]
            sets = (len(names) if self.edges == ("each",) else 1) * (len(self.method) + len(models))
            cut = Work(2 + sets, lambda n: analysis.ablate_edges(model, asked, spread(names, n), "zero"))
            return cost_of(model, asked, [cut], None)
        wanted = self._ablations(model, models)

        def ablated(n: int) -> Any:
            return analysis.ablate(model, asked, spread(wanted, n), models=models, allow_nothing=True)

        return cost_of(model, asked, [Work(1 + len(wanted), ablated, backward=True)], None, bounded=False)

    def _models(self, run: Run) -> tuple[Model, analysis.Pair, dict[str, Model]]:
        other = None if self.from_run is None else run.find(self.from_run, run.path.parent)
        if other is not None:
            check_other(run, other, self.file is not None)
        model = self.model(run, self.step)
        if self.file is not None:
            asked = self.file.pair(model)
        else:
            asked = self.asked(run.asker(self.device).sequences(self.n, self.of(run)))
        models = {} if other is None else {other.path.name: self.model(other)}
        for theirs in models.values():
            self._check_taken(model, theirs, models)
        return model, asked, models

    def _check_taken(self, model: Model, theirs: Model, models: dict[str, Model]) -> None:
        """Refuse another model that lacks what is taken from it, before anything is measured."""
        from analysis.edges.ablation import require_same_edges
        from circuits.interventions.other_models import check_taken

        if self.edges:
            require_same_edges(model, theirs)
            return
        taken = {i for ablation in self._ablations(model, models) for i in ablation.interventions if i.taken_from}
        for intervention in sorted(taken, key=str):
            check_taken(intervention, model.config, theirs.config)

    def _ablations(self, model: Model, models: dict[str, Model]) -> list[analysis.Ablation]:
        from circuits.interventions.intervention import FromRun

        return analysis.standard_ablations(model, [*self.method, *map(FromRun, models)])

    def _of_edges(self, model: Any, asked: analysis.Pair, theirs: Any, progress: bool, kept: Any) -> analysis.Ablations:
        import pandas as pd

        wanted = None if self.edges == ("each",) else [list(self.edges)]
        every: list[Any] = [*self.method, *([] if theirs is None else ["from run"])]
        how: dict[str, Any] = {"progress": progress, "kept": kept}
        found = [analysis.ablate_edges(model, asked, wanted, method, theirs, **how) for method in every]
        return analysis.Ablations(pd.concat([each.to_frame() for each in found], ignore_index=True))

    def tell(self, run: Run, found: analysis.Ablations) -> list[Path]:
        """Print, write and draw what breaks."""
        from figures.models.ablation import ablation_bars

        other = "" if self.from_run is None else run.find(self.from_run, run.path.parent).path.name
        taken = f", 'from run' is {other} at its last checkpoint" if other else ""
        say(f"{run.path.name}: ablations on {self.asked_of(run)}{taken}")
        show(found.frame.drop(columns=["n"]))
        return self.keep(run, "ablate_edges" if self.edges else "ablate", found.frame, ablation_bars)
