"""Experiments that a plan declared: built, judged, drawn and told as their file in ``plans`` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.studies.contrasts import decided_picture, plan_blocks
from experiments.studies.plan import Plan
from experiments.studies.study import Arm, Block, Experiment, Picture, Size, only


@dataclass(frozen=True)
class Declared:
    """An experiment with its plan, its figure and what its page says of it."""

    plan: Plan
    experiment: Experiment

    @classmethod
    def of(
        cls, name: str, arm: Callable[[str, int], Arm] | None, of: str, split: str = "ic", measure: str = "accuracy"
    ) -> Declared:
        """Return the experiment of a plan's name: ``arm`` makes the run of one of its arms with one seed, ``of`` says
        of what task and size they are.

        Without ``arm`` it has no runs yet, as they wait for others (rates are tuned first). Nothing is said of fewer
        runs than were declared, so that a miniature has none either. ``split`` and ``measure`` are those that decide.

        Raises:
            ValueError: if the plan contradicts itself.
        """
        plan = Plan.read(name)

        def build(size: Size) -> list[Arm]:
            return [arm(label, seed) for seed in plan.seeds for label in plan.arms] if arm and size == "full" else []

        contrasts = only(*plan.pairs)
        return cls(
            plan,
            Experiment(name, build, plan.question, contrasts, split, measure, plan.primary, of, plan.n_runs),
        )

    @property
    def picture(self) -> Picture:
        """The figure of the contrasts of two arms at the threshold that decides."""
        return decided_picture(self.experiment.name.replace("-", "_"), self.plan, self.experiment)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What was found, the same by threshold, and the plan with what departed from it."""
        return plan_blocks(self.plan, self.experiment)
