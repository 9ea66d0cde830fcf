"""What a run is: frozen, strict, serialisable; its hash is its name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from circuits import variants
from circuits.common.errors import known, require
from circuits.common.fields import Checked, counted_from_zero
from circuits.common.plain_data import content_hash, essence, from_plain, register_union, to_plain
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, GATES, Carrier, Gate
from circuits.interventions.intervention import Intervention, check_interventions
from circuits.presets import icl_config
from experiments.runs.looks import ICL_EVERY, ICL_SEQUENCES
from experiments.tasks.in_context.task import PRESETS, SPLITS, ICLTaskConfig

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


Optimizer = SGD | Adam

for _union in (Schedule, Optimizer):
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
    """End a run early, once a split's accuracy has been at least ``accuracy`` at so many evaluations in a row."""

    accuracy: float
    split: str = "ic"
    evaluations: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.accuracy <= 1, f"an accuracy lies between 0 and 1, got {self.accuracy}")
        require(self.evaluations >= 1, f"evaluations must be 1 or more, got {self.evaluations}")


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """How a model is trained and how often it is looked at. Step s means that s updates have been made."""

    steps: int
    optimizer: Optimizer
    batch_size: int = 128
    evaluate_at: tuple[Schedule, ...] = (Every(ICL_EVERY),)
    checkpoint_at: tuple[Schedule, ...] = ()
    """The last step always has both."""
    n_eval: int = ICL_SEQUENCES
    """Sequences in every evaluation set."""
    gates: tuple[GateChange, ...] = ()
    stop_at: StopAt | None = None
    gradients_at: tuple[Schedule, ...] = ()
    """When the loss's gradient is split by route, the last step included; empty: never."""
    rates: tuple[Rate, ...] = ()
    """Parameters that learn faster or slower than the others; of several that fit, the last one holds."""
    interventions: tuple[Intervention, ...] = ()
    """What is done to activations, each in its window of steps; evaluations see the model with what acts then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size", "n_eval"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
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
            self.batch_size >= intervention.operation.least_examples,
            f"{intervention} needs another example, and batch_size is 1",
        )


def check_variant(variant: str, model: ModelConfig) -> None:
    """Refuse the name of a rule for a model with other streams: names are what comparisons are made by.

    Raises:
        ValueError: saying what the model could be called.
    """
    if variant not in variants.names() or model.streams == variants.streams(variant, model.n_layers):
        return
    name = variants.name_of(model.streams, model.n_layers, variant)
    raise ValueError(f"{variant!r} is the name of a rule, and this model has other streams; call the variant {name!r}")


def shape_tags(model: ModelConfig, usual: Mapping[str, int | bool]) -> str:
    """Return layers, heads and MLP as parts of a run's name, where they are not the usual ones: ``-3layers-mlp``."""
    tags = [f"{n}{what}" for what, n in (("layers", model.n_layers), ("heads", model.n_heads)) if n != usual[what]]
    has_mlp = model.mlp is not None
    tags += ["mlp" if has_mlp else "no-mlp"] * (has_mlp != usual["mlp"])
    return "".join(f"-{tag}" for tag in tags)


@dataclass(frozen=True)
class RunConfig(Checked):
    """One run: a task, a model, a training, a seed. ``variant`` and ``preset`` are the names they were made from."""

    task: ICLTaskConfig
    model: ModelConfig
    training: TrainingConfig
    seed: int
    variant: str
    preset: str

    def __post_init__(self) -> None:
        super().__post_init__()
        width = self.task.n_ctx + self.task.d_content
        if (self.model.d_model, self.model.n_ctx) != (width, self.task.n_ctx):
            raise ValueError(
                f"the task's tokens have {self.task.n_ctx} positions and width {width}, the model has "
                f"{self.model.n_ctx} and {self.model.d_model}; use the same preset for both"
            )
        if self.model.readout.d_vocab_out != self.task.n_labels:
            raise ValueError(f"{self.task.n_labels} labels, but the model has {self.model.readout.d_vocab_out} logits")
        if self.training.gates and not self.model.streams:
            raise ValueError("gates change on a model without a stream; choose a variant with one, or no gates")
        check_variant(self.variant, self.model)
        self._check_splits_and_carriers()
        check_interventions(self.model, self.training.interventions)

    def _check_splits_and_carriers(self) -> None:
        if self.training.stop_at is not None:
            known("split to stop at", self.training.stop_at.split, [split for split in SPLITS if split != "train"])
        fed = [stream.carrier for stream in self.model.streams]
        for change in self.training.gates:
            require(
                change.carrier is None or change.carrier in fed,
                f"{change} is of a stream into {change.carrier}, and this model's streams feed {fed}",
            )

    @property
    def id(self) -> str:
        """Return the first 12 digits of the hash of the configuration, without the fields that have their defaults."""
        return content_hash(essence(self))[:12]

    @property
    def name(self) -> str:
        """Return the name of the run's directory."""
        shape = shape_tags(self.model, {"layers": 2, "heads": 1, "mlp": False})
        return f"icl-{self.variant}-{self.preset}{shape}-s{self.seed}-{self.id}"

    @property
    def usual(self) -> bool:
        """Whether it is what :func:`icl_run` makes of its variant, preset and seed alone."""
        named = self.variant in variants.names() and self.preset in PRESETS
        return named and self == icl_run(self.variant, self.preset, self.seed)

    def to_plain(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> RunConfig:
        """Return the configuration that :meth:`to_plain` wrote; an unknown field is an error."""
        return from_plain(cls, data)


TRAINING: dict[str, TrainingConfig] = {
    "paper": TrainingConfig(steps=75_000, optimizer=SGD(), checkpoint_at=(Every(5_000), Every(1_000, 15_000, 40_000))),
    "small": TrainingConfig(
        steps=2_000,
        optimizer=Adam(),
        evaluate_at=(Every(25),),
        checkpoint_at=(Every(100, 0, 1_500), Every(250)),
        n_eval=1_000,
    ),
}


def icl_run(
    variant: str = "value",
    preset: Literal["paper", "small"] | str = "paper",
    seed: int = 0,
    training: TrainingConfig | None = None,
    **model: Any,
) -> RunConfig:
    """Return the configuration of one in-context learning run; ``model`` overrides fields of the model.

    The run's variant is the model's name, which follows overridden streams
    (:func:`circuits.presets.icl_config`).

    Raises:
        UnknownNameError: for an unknown variant, preset or field (nearest suggested).
        ValueError: for configurations that contradict each other.
    """
    known("preset", preset, PRESETS)
    config = icl_config(variant, preset, **model)
    return RunConfig(PRESETS[preset], config, training or TRAINING[preset], seed, config.name, preset)
