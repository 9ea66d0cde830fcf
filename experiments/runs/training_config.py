"""How a model is trained and when it is looked at: schedules, optimizers, changes of gates, and all of it together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from circuits.common.errors import known, require
from circuits.common.fields import Checked, counted_from_zero
from circuits.common.plain_data import register_union
from circuits.config.streams import CARRIERS, GATES, Carrier, Gate
from circuits.interventions.intervention import Intervention
from experiments.runs.levels import AtLevels
from experiments.runs.looks import ICL_EVERY, ICL_SEQUENCES, LM_EVERY, LM_QUESTIONS, LM_WINDOWS

# --- when something happens -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Every(Checked):
    """At steps first, first + n, ... up to last (default: the run's end)."""

    n: int
    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n <= 0:
            raise ValueError(f"Every({self.n}): the distance must be positive")
        counted_from_zero(self, "first", "last")
        require(
            self.last is None or self.first <= self.last,
            f"{self} is never: first must not come after last; exchange them, or leave last out",
        )

    def steps(self, total: int) -> set[int]:
        """Return the steps of a run of ``total`` steps."""
        return set(range(self.first, min(total, total if self.last is None else self.last) + 1, self.n))


@dataclass(frozen=True)
class At(Checked):
    """At the listed steps."""

    listed: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        early = [step for step in self.listed if step < 0]
        require(not early, f"steps count from 0, got {early}; leave them out")

    def steps(self, total: int) -> set[int]:
        """Return the steps of a run of ``total`` steps."""
        return {step for step in self.listed if 0 <= step <= total}


@dataclass(frozen=True)
class LogLinear(Checked):
    """Step 0, then ``per_doubling`` evenly spaced steps between each power of two and the next."""

    per_doubling: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.per_doubling >= 1, f"per_doubling must be 1 or more, got {self.per_doubling}")

    def steps(self, total: int) -> set[int]:
        """Return the steps of a run of ``total`` steps."""
        octaves = range(int(math.log2(max(total, 1))) + 1)
        each = range(self.per_doubling)
        return {0} | {s for k in octaves for i in each if (s := 2**k + i * 2**k // self.per_doubling) <= total}


Schedule = Every | At | LogLinear
Evaluation = Every | At | LogLinear | AtLevels
"""Evaluations alone can follow a run's curve: checkpoints and gradients are compared between runs step by step."""


def scheduled(schedules: Iterable[Schedule], total: int) -> set[int]:
    """Return the steps of several schedules together, always with the last step."""
    return {total}.union(*(schedule.steps(total) for schedule in schedules))


def most_evaluations(schedules: Iterable[Evaluation], total: int) -> int:
    """Return how often a run of ``total`` steps is evaluated at most."""
    return len(scheduled((Every(s.n) if isinstance(s, AtLevels) else s for s in schedules), total))


@dataclass(frozen=True)
class SGD(Checked):
    """theta <- (1 - decay) theta - rate * gradient; the decay hits every parameter, not multiplied by the rate."""

    rate: float = 0.01
    decay: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rate > 0 and 0 <= self.decay < 1):
            raise ValueError(f"SGD needs a positive rate and a decay from 0 to below 1, got {self.rate}, {self.decay}")


@dataclass(frozen=True)
class Adam(Checked):
    """Adam without weight decay (Kingma & Ba, arXiv 1412.6980)."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rate > 0 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(f"Adam needs a positive rate and betas from 0 to below 1, got {self.rate}, {self.betas}")


@dataclass(frozen=True)
class AdamW(Checked):
    """Adam with decoupled decay of matrices (biases and norms are spared), a linear warm-up and a cosine to the end.

    The rate rises over ``warmup`` updates and then falls towards ``final`` times its height at the end.

    Source: Loshchilov & Hutter, arXiv 1711.05101.
    """

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.1
    warmup: int = 100
    final: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.rate > 0 and all(0 <= beta < 1 for beta in self.betas) and self.decay >= 0
        require(fits, f"AdamW needs a positive rate, betas from 0 to below 1 and a decay of 0 or more, got {self}")
        require(self.warmup >= 0 and 0 <= self.final <= 1, f"warm-up must be 0 or more and final a share, got {self}")


Optimizer = SGD | Adam | AdamW
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

for _union in (Schedule, Evaluation, Optimizer):
    register_union(_union)


@dataclass(frozen=True)
class Rate(Checked):
    """The parameters whose names begin so learn at ``factor`` times the optimizer's rate."""

    begins: str
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.factor >= 0, f"a rate's factor must be 0 or more, got {self.factor}")


@dataclass(frozen=True)
class GateChange(Checked):
    """From ``step`` on, the stream that feeds ``carrier`` (``None``: every stream) has this gate."""

    step: int
    gate: Gate
    carrier: Carrier | None = None

    def __post_init__(self) -> None:
        # First, as they name the nearest.
        if isinstance(self.gate, str):
            known("gate", self.gate, GATES)
        if isinstance(self.carrier, str):
            known("carrier", self.carrier, CARRIERS)
        super().__post_init__()
        counted_from_zero(self, "step")


@dataclass(frozen=True)
class StopAt(Checked):
    """End a run early, once a measure of one evaluation set has been good enough at so many evaluations in a row.

    Accuracies, probabilities and differences must be at least ``accuracy``, a loss at most that.
    """

    # So called as it was first of accuracies only, and the ids of runs are made of names.
    accuracy: float
    split: str = "ic"
    evaluations: int = 3
    measure: str = "accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.measure != "accuracy" or 0 <= self.accuracy <= 1,
            f"an accuracy lies between 0 and 1, got {self.accuracy}",
        )
        require(self.evaluations >= 1, f"evaluations must be 1 or more, got {self.evaluations}")

    def reached(self, values: list[float]) -> bool:
        """Return whether the last of the values, one an evaluation, are all good enough."""
        recent = values[-self.evaluations :]
        good = (v <= self.accuracy if self.measure == "loss" else v >= self.accuracy for v in recent)
        return len(recent) == self.evaluations and all(good)


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """How a model is trained and how often it is looked at. Step s means that s updates have been made.

    The defaults are those of tasks of vectors; :class:`TokenTraining` has those of tasks of tokens.
    """

    trains: ClassVar[bool] = True

    steps: int
    optimizer: Optimizer
    batch_size: int = 128
    """Sequences in one update, of all processes together."""
    evaluate_at: tuple[Evaluation, ...] = (Every(ICL_EVERY),)
    checkpoint_at: tuple[Schedule, ...] = ()
    """The last step always has both."""
    n_eval: int = ICL_SEQUENCES
    """Sequences in every evaluation set; of tokens, windows that the validation loss is a mean over."""
    gates: tuple[GateChange, ...] = ()
    stop_at: StopAt | None = None
    gradients_at: tuple[Schedule, ...] = ()
    """When the loss's gradient is split by route, the last step included; empty: never. It is that of sequences of
    "train" on which no step trains, but of a corpus, which is finite, of windows that are trained on."""
    rates: tuple[Rate, ...] = ()
    """Parameters that learn faster or slower than the others; of several that fit, the last one holds."""
    interventions: tuple[Intervention, ...] = ()
    """What is done to activations, each in its window of steps; evaluations see the model with what acts then."""
    accumulate: int = 1
    """In so many parts, one after the other, whose gradients add up to that of the whole batch."""
    precision: Precision = "float32"
    """``bfloat16`` computes products so where the device has it; weights stay float32."""
    clip: float | None = None
    """The largest norm of the gradient; ``None`` for any."""
    n_questions: int = LM_QUESTIONS
    """Prompts in every set of questions, where a task has such."""

    def __post_init__(self) -> None:
        # First, as it names the nearest.
        if isinstance(self.precision, str):
            known("precision", self.precision, PRECISIONS)
        super().__post_init__()
        counts = ("steps", "batch_size", "n_eval", "accumulate", "n_questions")
        for name in counts[0 if self.trains else 1 :]:
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        require(
            self.batch_size % self.accumulate == 0,
            f"{self.batch_size} windows do not divide into {self.accumulate} parts; choose numbers that do",
        )
        require(self.clip is None or self.clip > 0, f"clip must be positive or None, got {self.clip}")
        for change in self.gates:
            require(
                change.step < self.steps,
                f"{change} comes when the run of {self.steps} steps has ended; give an earlier step, or more steps",
            )
        for intervention in self.interventions:
            self._check_intervention(intervention)

    def _check_intervention(self, intervention: Intervention) -> None:
        require(
            intervention.first < self.steps,
            f"{intervention} begins at step {intervention.first}, and the run ends at {self.steps}",
        )
        require(
            not isinstance(intervention.site.position, str),
            f"{intervention}: a batch in training has no position roles; give the position's index",
        )
        require(
            self.batch_size // self.accumulate >= intervention.operation.least_examples,
            f"{intervention} needs another example, and batch_size is {self.batch_size}"
            + (f" in {self.accumulate} parts" if self.accumulate > 1 else ""),
        )


@dataclass(frozen=True)
class TokenTraining(TrainingConfig):
    """How a language model is trained: the same fields, with other defaults."""

    optimizer: Optimizer = field(default_factory=AdamW)
    batch_size: int = 32
    evaluate_at: tuple[Evaluation, ...] = (Every(LM_EVERY),)
    n_eval: int = LM_WINDOWS
    clip: float | None = 1.0


@dataclass(frozen=True)
class NoTraining(TokenTraining):
    """None: the weights are those that others trained."""

    trains = False

    steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.steps == 0, f"where nothing is trained there are no steps, got {self.steps}")


Training = TrainingConfig | TokenTraining | NoTraining

register_union(Training)
