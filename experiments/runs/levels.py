"""Evaluations that gather where a run's own curve crosses levels, and are few where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from circuits.common.errors import require
from circuits.common.fields import Checked

# What runs are evaluated at follows from these two, and runs are named by their schedules: they never change. Chosen on
# the committed learning curves; tests/experiments/test_levels.py says how well they do.
OF_THE_WAY = 1 / 3
"""The next evaluation comes after this part of the time that the curve would take to the next level."""
WIDEST = 2
"""No two evaluations are further apart than so many times the mean distance."""


@dataclass(frozen=True)
class AtLevels(Checked):
    """Where what is watched crosses ``levels``, and never more often than ``Every(n)`` up to any step.

    A run is watched by the measure that it stops by, or else by its task's. Where its curve nears a level that it has
    not yet reached, from below or above, evaluations are as close as ``share`` of the present step; elsewhere they are
    few, and what is saved there is spent at the next level. A level that is reached sooner than saved evaluations last,
    or by a jump, is resolved less well. A run that ends after several good evaluations in a row ends sooner where they
    are close.
    """

    levels: tuple[float, ...]
    n: int
    """The least mean distance of evaluations, in steps."""
    share: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.levels) > 0, "AtLevels needs a level or more; without any, take Every(n)")
        require(self.n > 0, f"the mean distance of evaluations must be positive, got {self.n}")
        require(0 < self.share < 1, f"share is a part of the present step, between 0 and 1, got {self.share}")

    def after(self, steps: Sequence[int], values: Sequence[float]) -> int:
        """Return the step of the next evaluation, of the steps of all evaluations so far and the values seen there."""
        here = steps[-1]
        gap = min(WIDEST * self.n, max(int(self.share * here), self._towards_a_level(steps, values), 1))
        # By then Every(n) would have made one evaluation more than were made here.
        return max(here + gap, len(steps) * self.n)

    def _towards_a_level(self, steps: Sequence[int], values: Sequence[float]) -> int:
        """A part of the time to the nearest open level, by the faster of the last two slopes."""
        seen = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
        if len(seen) < 2:
            return self.n
        (here, value), highest, lowest = seen[-1], max(v for _, v in seen), min(v for _, v in seen)
        above = min((level for level in self.levels if level > highest), default=math.inf)
        below = max((level for level in self.levels if level < lowest), default=-math.inf)
        times = [
            ((above if value > before else below) - value) / (value - before) * (here - step)
            for step, before in seen[-3:-1]
            if value != before
        ]
        return int(min(OF_THE_WAY * min(times, default=math.inf), WIDEST * self.n))
