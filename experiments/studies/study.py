"""What a study is: a question, the runs that answer it, what is asked of them, its figures and tables, its verdict.

Each study is one module, or a folder if it asks models something: then its ``study`` holds all of this, and a module
beside it asks. No study knows torch until its runs are built or asked, so that figures are drawn without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from circuits.common.errors import known
from experiments.studies.committed_results import COMMITTED, Bundle
from figures.files import rounded

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from experiments.runs.config import RunConfig
else:
    RunConfig = Any

Size = Literal["full", "miniature"]
"""``full`` is what the committed results are made of, ``miniature`` the same with fewer seeds and nothing at paper
size."""
SIZES: tuple[Size, ...] = ("full", "miniature")
REFERENCE = "classic"


@dataclass(frozen=True)
class Arm:
    """One run of an experiment: its label in tables is the configuration's ``variant``."""

    config: RunConfig
    condition: str = "as in the paper"
    """What differs from the other conditions of the experiment; arms are compared within one."""

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.config.variant


Contrasts = Callable[[Iterable[str]], list[tuple[str, str]]]
"""From the variants that there are to the comparisons that answer a question, as (variant, reference)."""


def against_classic(variants: Iterable[str]) -> list[tuple[str, str]]:
    """Return every variant against classic."""
    return [(v, REFERENCE) for v in dict.fromkeys(variants) if v != REFERENCE]


def against_value(variants: Iterable[str]) -> list[tuple[str, str]]:
    """Return all against value, and value itself and those that are called after classic against classic too."""
    others = [v for v, _ in against_classic(variants)]
    alike = [(v, REFERENCE) for v in others if v == "value" or v.startswith(REFERENCE)]
    return alike + [(v, "value") for v in others if v != "value"]


def only(*pairs: tuple[str, str]) -> Contrasts:
    """Return what chooses those of the comparisons whose variants are there."""
    return lambda variants: [pair for pair in pairs if {*pair} <= {*variants}]


@dataclass(frozen=True)
class Experiment:
    """A question, what is trained to answer it, and which of it is compared.

    Within a condition, arms of one seed share data and initial weights.
    """

    name: str
    build: Callable[[Size], list[Arm]]
    asks: str = ""
    contrasts: Contrasts = against_classic
    split: str = "ic"
    measure: str = "accuracy"
    threshold: float = 0.95
    """A run has learned once this measure on this split is so high."""
    of: str = ""
    """Of what task and size its figures are, in words."""
    declared: int = 0
    """How many runs its plan declared, of fewer than which nothing is said; 0 without a plan."""

    def trained(self, bundle: Bundle) -> bool:
        """Return whether a bundle holds what is needed to say anything: some runs, or all that were declared."""
        return bundle.holds([self.name]) and len(bundle.experiment(self.name)) >= self.declared

    def waiting(self, bundle: Bundle) -> str:
        """Return what is said in the place of a table while runs that were declared are still to come; nothing once all
        are there."""
        if not self.declared or self.trained(bundle):
            return ""
        there = len(bundle.experiment(self.name)) if bundle.holds([self.name]) else 0
        return f"{there} of {self.declared} runs are trained; nothing is concluded of fewer than were declared."

    def arms(self, size: Size = "full") -> list[Arm]:
        """Return the runs; none where a size leaves the experiment out.

        Raises:
            UnknownNameError: for an unknown size.
        """
        return list(_built(self, known("size", size, SIZES)))  # type: ignore[arg-type] # a known size


@cache
def _built(experiment: Experiment, size: Size) -> tuple[Arm, ...]:
    """An experiment's arms, made once a process: to check some thousands of configurations takes seconds."""
    return tuple(experiment.build(size))


@dataclass(frozen=True)
class Asking:
    """Frames that no training logs: how they are computed, and of which experiments' runs (of none, where a model is
    asked that needs no training)."""

    frames: tuple[str, ...]
    compute: Callable[[Sequence[Path], Size], Mapping[str, pd.DataFrame]]
    experiments: tuple[Experiment, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One figure: ``arguments`` of the drawing, made from the bundle."""

    name: str
    drawing: Callable[..., go.Figure]
    arguments: Callable[[Bundle], dict[str, Any]]
    experiments: tuple[Experiment, ...] = ()
    frames: tuple[str, ...] = ()
    """Frames of analyses that it needs."""

    def drawable(self, bundle: Bundle) -> bool:
        """Return whether the bundle holds what lies behind it."""
        return all(e.trained(bundle) for e in self.experiments) and all(bundle.has(frame) for frame in self.frames)

    def draw(self, bundle: Bundle) -> go.Figure:
        """Return the figure, the same on every machine (see :func:`figures.files.rounded`)."""
        return rounded(self.drawing(**self.arguments(bundle)))


@dataclass(frozen=True)
class Block:
    """A table or paragraph of a page, which stands between markers of its name."""

    name: str
    text: Callable[[Bundle], str]
    heading: str
    experiments: tuple[Experiment, ...] = ()
    """Those behind it."""
    variants: tuple[str, ...] = ()
    """Those that it speaks of by name."""

    def tellable(self, bundle: Bundle) -> bool:
        """Return whether the bundle holds what it speaks of."""
        return all(
            experiment.trained(bundle) and {*self.variants} <= {*bundle.experiment(experiment.name).variant}
            for experiment in self.experiments
        )


@dataclass(frozen=True)
class Study:
    """A question with all that answers it, side by side."""

    name: str
    """That of its module and of its page."""
    question: str
    experiments: tuple[Experiment, ...] = ()
    asking: Asking | None = None
    pictures: tuple[Picture, ...] = ()
    blocks: tuple[Block, ...] = ()
    verdict: Callable[[Bundle], list[tuple[str, str, str, str]]] | None = None
    """What the paper claims, row by row: what it is of, what is claimed, what is found here, whether the two agree."""

    def asked(self, size: Size) -> Asking | None:
        """Return what is asked of runs of a size; nothing where that size has none of them, as of what was declared."""
        of = self.asking.experiments if self.asking else ()
        return self.asking if not of or any(experiment.arms(size) for experiment in of) else None

    @property
    def page(self) -> Path:
        """Where its text stands."""
        return COMMITTED.parent / f"{self.name}.md"
