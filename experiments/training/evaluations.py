"""When a run is evaluated: at fixed steps, and at those that follow from what it saw before."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from experiments.runs.levels import AtLevels
from experiments.runs.training_config import Evaluation, scheduled


class Evaluations:
    """The evaluations that a run has made, the values of what is watched that they saw, and the step of the next.

    All steps follow from the values, so a run that goes on from saved values is evaluated as if it had never stopped.
    """

    def __init__(self, schedules: Sequence[Evaluation], total: int):
        self.at_levels = [schedule for schedule in schedules if isinstance(schedule, AtLevels)]
        fixed = scheduled((schedule for schedule in schedules if not isinstance(schedule, AtLevels)), total)
        self.fixed = sorted(fixed | {0} if self.at_levels else fixed)
        self.steps, self.values = list[int](), list[float]()
        self.next = self.fixed[0]

    def add(self, value: float) -> None:
        """Take what the evaluation at the step ``next`` saw."""
        self.steps.append(self.next)
        self.values.append(value)
        fixed = self.fixed[bisect_right(self.fixed, self.next) :][:1]
        self.next = min(fixed + [schedule.after(self.steps, self.values) for schedule in self.at_levels], default=-1)

    def saved(self) -> list[float | None]:
        """Return the values as JSON can hold them."""
        return [None if math.isnan(value) else value for value in self.values]

    def resume(self, about: dict[str, Any]) -> None:
        """Take the values of a saved state; states of version 0.1 call them otherwise."""
        if "evaluations" in about:
            loss = [about["loss"]] if about["evaluations"] else []
            values = [None] * (about["evaluations"] - len(loss)) + loss
        else:
            values = about["values"] if "values" in about else about["accuracies"]
        for value in values:
            self.add(math.nan if value is None else value)
