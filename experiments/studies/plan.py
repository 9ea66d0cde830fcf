"""Plans: what a study asks, of what, how often and by which rule, written down before it is run."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.common.errors import require

PLANS = Path(__file__).parent / "plans"


@dataclass(frozen=True)
class Contrast:
    """A comparison that was declared: two arms, as (variant, reference), or four, of whose two ratios the ratio is."""

    what: str
    of: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.of) in (2, 4), f"a contrast is of two arms or of four, got {list(self.of)}")


@dataclass(frozen=True)
class Plan:
    """What was declared before a study was run, as its file in ``plans`` says it."""

    question: str
    declared: str
    """The day."""
    why: str
    preset: str
    first_seed: int
    n_seeds: int
    arms: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    thresholds: tuple[float, ...]
    primary: float
    """The threshold that decides."""
    smallest_of_interest: float
    """The smallest ratio that would matter; within it two are called the same."""
    stop_rule: str
    analysis: str
    core_hours: float
    """What it was to cost, measured on one run of every arm."""
    least_reached: float = 0.0
    """The share of an arm's runs of which fewer than get to a threshold, no ratio is told of the arm there."""

    def __post_init__(self) -> None:
        named = {arm for contrast in self.contrasts for arm in contrast.of}
        require(
            named <= {*self.arms}, f"contrasts are of arms of the plan; these are none: {sorted(named - {*self.arms})}"
        )
        require(self.primary in self.thresholds, f"the threshold that decides is one of {list(self.thresholds)}")

    @classmethod
    def read(cls, name: str) -> Plan:
        """Return the plan of a study.

        Raises:
            ValueError: if a contrast is of an arm that the plan does not have.
        """
        given: dict[str, Any] = tomllib.loads((PLANS / f"{name}.toml").read_text("utf-8"))
        seeds, contrasts = given.pop("seeds"), given.pop("contrasts")
        texts = {key: " ".join(given.pop(key).split()) for key in ("why", "analysis")}
        lists = {key: tuple(given.pop(key)) for key in ("arms", "thresholds")}
        found = tuple(Contrast(c["what"], tuple(c["of"])) for c in contrasts)
        return cls(first_seed=seeds["first"], n_seeds=seeds["count"], contrasts=found, **texts, **lists, **given)

    @property
    def seeds(self) -> range:
        """Return the seeds that were declared."""
        return range(self.first_seed, self.first_seed + self.n_seeds)

    @property
    def n_runs(self) -> int:
        """Return how many runs were declared."""
        return len(self.arms) * self.n_seeds

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the contrasts of two arms, as (variant, reference)."""
        return tuple((c.of[0], c.of[1]) for c in self.contrasts if len(c.of) == 2)
