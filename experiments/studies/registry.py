"""The named experiments: for each question, what is trained, as a plain list of configurations.

An experiment is a list of arms. An arm is a run with the label that tables give it and the condition under which it is
compared: within a condition, arms of one seed share data and initial weights, and every label is set against classic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from circuits.common.errors import known
from experiments.runs.config import RunConfig
from experiments.studies import arms, lm_arms
from experiments.studies.arms import SIZES, Arm, Size
from experiments.studies.times import ASKS


@dataclass(frozen=True)
class Experiment:
    """A question and what is trained to answer it."""

    name: str
    build: Callable[[Size], list[Arm]]

    @property
    def asks(self) -> str:
        """The question."""
        return ASKS[self.name]

    def arms(self, size: Size = "full") -> list[Arm]:
        """Return the runs; none where a size leaves the experiment out.

        Raises:
            UnknownNameError: for an unknown size.
        """
        return self.build(known("size", size, SIZES))  # type: ignore[arg-type] # a known size


EXPERIMENTS: dict[str, Experiment] = {
    e.name: e
    for e in (
        Experiment("streams-paper", arms.streams_paper),
        Experiment("streams", arms.streams),
        Experiment("gradient-paper", arms.gradient_paper),
        Experiment("gradient", arms.gradient),
        Experiment("windows", arms.windows),
        Experiment("windows-paper", arms.windows_paper),
        Experiment("controls", arms.controls),
        Experiment("connections", arms.connections),
        Experiment("data", arms.data),
        Experiment("optimisers", arms.optimisers),
        Experiment("mechanism", arms.mechanism),
        Experiment("lm", lm_arms.stories),
        Experiment("lm-sizes", lm_arms.sizes),
        Experiment("lm-nested", lm_arms.nested),
    )
}


def experiment(name: str) -> Experiment:
    """Return an experiment by name.

    Raises:
        UnknownNameError: for an unknown name (nearest suggested).
    """
    return EXPERIMENTS[known("experiment", name, EXPERIMENTS)]


def configs(names: Sequence[str], size: Size = "full") -> list[RunConfig]:
    """Return the configurations of several experiments, each once, in order."""
    return list(dict.fromkeys(arm.config for name in names for arm in experiment(name).arms(size)))
