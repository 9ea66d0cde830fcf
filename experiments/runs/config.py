"""What a run is: frozen, strict, serialisable; its hash is its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

from analysis.statistics.intervals import BOUNDED
from circuits.common.errors import known, require
from circuits.common.fields import Checked, checked_value
from circuits.common.plain_data import content_hash, essence, from_plain, to_plain
from circuits.config.model import ModelConfig
from circuits.config.parts import ReluStack, VectorInputs
from circuits.interventions.intervention import check_interventions
from circuits.presets import LM_SIZES, icl_config, lm_config
from circuits.streams import variants
from experiments.runs.levels import AtLevels
from experiments.runs.training_config import (
    SGD,
    Adam,
    AdamW,
    Every,
    NoTraining,
    TokenTraining,
    Training,
    TrainingConfig,
)
from experiments.tasks.imported import ImportedConfig
from experiments.tasks.in_context.batches import PRESETS, ICLTaskConfig
from experiments.tasks.kinds import TaskConfig, TokenTaskConfig, VectorTaskConfig, task_name
from experiments.tasks.registry import MADE_BY, make_task, named_tasks
from experiments.tasks.text.task import TextTaskConfig


def check_variant(variant: str, model: ModelConfig) -> None:
    """Refuse the name of a rule for a model with other streams: names are what comparisons are made by.

    Raises:
        ValueError: saying what the model could be called.
    """
    name = variants.name_of(model.streams, model.n_layers, variant)
    require(
        name == variant or variant not in variants.names(),
        f"{variant!r} is the name of a rule, and this model has other streams; call the variant {name!r}",
    )


def shape_tags(model: ModelConfig, usual: Mapping[str, int | bool]) -> str:
    """Return layers, heads and MLP as parts of a run's name, where they are not the usual ones: ``-3layers-mlp``."""
    tags = [f"{n}{what}" for what, n in (("layers", model.n_layers), ("heads", model.n_heads)) if n != usual[what]]
    has_mlp = model.mlp is not None
    tags += ["mlp" if has_mlp else "no-mlp"] * (has_mlp != usual["mlp"])
    return "".join(f"-{tag}" for tag in tags)


@dataclass(frozen=True)
class RunConfig(Checked):
    """One run: a task, a model, a training, a seed. ``variant`` and ``preset`` are the names they were made from; of a
    language model the preset is its size."""

    task: TaskConfig
    model: ModelConfig
    training: Training
    seed: int
    variant: str
    preset: str
    weights: str | None = None
    """The hash of the weights that training starts from (:func:`circuits.checkpoint.tensor_hash`), where those are not
    the seed's: the run has them as its checkpoint at step 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        (self._check_tokens if self.of_tokens else self._check_vectors)()
        require(
            not self.training.gates or bool(self.model.streams),
            "gates change on a model without a stream; choose a variant with one, or no gates",
        )
        fed = [stream.carrier for stream in self.model.streams]
        for change in self.training.gates:
            require(
                change.carrier is None or change.carrier in fed,
                f"{change} is of a stream into {change.carrier}, and this model's streams feed {fed}",
            )
        self._check_levels()
        check_variant(self.variant, self.model)
        check_interventions(self.model, self.training.interventions)

    def _check_vectors(self) -> None:
        task, model, training = self.task, self.model, self.training
        assert isinstance(task, VectorTaskConfig)
        require(
            type(training) is TrainingConfig,
            "a task of vectors, as the in-context classifier's, is trained by a TrainingConfig, whose defaults are its "
            "own; TokenTraining has those of language models",
        )
        require(
            training.accumulate == 1 and training.precision == "float32",
            "accumulate and precision are of language models; a task of vectors, as the in-context classifier's, takes "
            "whole batches in float32",
        )
        sizes, inputs = task.sizes, model.inputs
        places = sizes.one_hot or sizes.n_tokens
        fits = model.n_ctx == places if model.positions == "one-hot" else model.n_ctx >= sizes.n_tokens
        require(
            not inputs.are_tokens and inputs.rows == sizes.d_input and fits,
            f"the task's tokens have {places} positions and width {sizes.d_input}, the model has {model.n_ctx} and "
            f"{inputs.rows}; use the same preset for both, or VectorInputs({sizes.d_input}, project=True)",
        )
        require(
            model.readout.d_vocab_out == sizes.n_answers,
            f"{sizes.n_answers} labels, but the model has {model.readout.d_vocab_out} logits",
        )
        if training.stop_at is not None:
            known("split to stop at", training.stop_at.split, [s for s in MADE_BY[type(task)].splits if s != "train"])

    def _check_tokens(self) -> None:
        require(
            isinstance(self.training, TokenTraining),
            "a language model is trained by a TokenTraining, whose defaults are its own; TrainingConfig has those of "
            "the in-context classifier",
        )
        require(
            self.training.trains != isinstance(self.task, ImportedConfig),
            "a model that others trained has no task and no training here, and every other one has both: "
            "ImportedConfig and NoTraining go together",
        )
        require(
            self.model.inputs.are_tokens,
            "a language model reads token numbers, and this model takes vectors; make it with lm_config",
        )
        n_tokens = self.task.n_tokens
        require(
            n_tokens <= self.model.n_ctx,
            f"the task's windows have {n_tokens} tokens, the model only {self.model.n_ctx} positions; give the "
            f"model n_ctx={n_tokens}, or the task shorter windows",
        )

    def _check_levels(self) -> None:
        schedules = [schedule for schedule in self.training.evaluate_at if isinstance(schedule, AtLevels)]
        beyond = [level for schedule in schedules for level in schedule.levels if not 0 <= level <= 1]
        # A model that others trained has no levels, and no task that is watched.
        if beyond and self.watched[1] in BOUNDED:
            raise ValueError(
                f"the run is watched by its {self.watched[1]}, which lies between 0 and 1; so must the levels that it "
                f"is evaluated at, got {beyond}"
            )

    @property
    def watched(self) -> tuple[str, str]:
        """The set and the measure that tell how far the training is: those that it stops by, or else its task's."""
        stop = self.training.stop_at
        return (stop.split, stop.measure) if stop else MADE_BY[type(self.task)].watched

    @property
    def of_tokens(self) -> bool:
        """Whether the task is one of tokens, and the model a language model."""
        return isinstance(self.task, TokenTaskConfig)

    @property
    def kind(self) -> str:
        """What a run's record calls the kind of its task: ``lm`` of tokens, ``icl`` that in context, ``vectors`` others
        of vectors."""
        return "lm" if self.of_tokens else "icl" if isinstance(self.task, ICLTaskConfig) else "vectors"

    @property
    def task_name(self) -> str:
        """What the task is called."""
        return task_name(type(self.task).__name__)

    @property
    def batches(self) -> tuple[TaskConfig, int, int, int, int]:
        """What runs have in common that can be trained and evaluated on the same sequences."""
        training = self.training
        return self.task, self.seed, training.batch_size, training.n_eval, training.n_questions

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update sees."""
        return self.training.batch_size * self.task.n_tokens

    @property
    def id(self) -> str:
        """Return the first 12 digits of the hash of the configuration, without the fields that have their defaults and
        without where local files lie."""
        plain = self.essence()
        if isinstance(self.task, TextTaskConfig):
            plain["task"] = {"type": type(self.task).__name__, **self.task.identity()}
        return content_hash(plain)[:12]

    @property
    def name(self) -> str:
        """Return the name of the run's directory."""
        if not self.of_tokens:
            shape = shape_tags(self.model, {"layers": 2, "heads": 1, "mlp": False})
            return f"{self.task_name}-{self.variant}-{self.preset}{shape}-s{self.seed}-{self.id}"
        size = LM_SIZES.get(self.preset)
        usual = {"layers": size.n_layers, "heads": size.n_heads, "mlp": True} if size else None
        shape = shape_tags(self.model, usual) if usual else ""
        return f"lm-{self.task_name}-{self.variant}-{self.preset}{shape}-s{self.seed}-{self.id}"

    @property
    def usual(self) -> bool:
        """Whether task, model and training are those of the names of task, variant and preset alone."""
        if self.variant not in variants.names():
            return False
        name, seed = self.task_name, self.seed
        if not self.of_tokens:
            named = self.preset in PRESETS and name in named_tasks(VectorTaskConfig)
            return named and self == icl_run(self.variant, self.preset, seed, task=name)
        named = self.preset in LM_SIZES and name in named_tasks(TokenTaskConfig)
        return named and self == lm_run(self.preset, name, self.variant, seed)

    def essence(self) -> dict[str, Any]:
        """Return :meth:`to_plain` without the fields that have their defaults."""
        return _stored(essence(self), self.of_tokens)

    def to_plain(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        return _stored(to_plain(self), self.of_tokens)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> RunConfig:
        """Return the configuration that :meth:`to_plain` wrote; an unknown field is an error."""
        return from_plain(cls, _read(data))


def _stored(plain: dict[str, Any], of_tokens: bool) -> dict[str, Any]:
    """Plain data as run records have it. Ids are its hashes, so it is what it was when there were two kinds of runs:
    vectors had one task and no need of its name, and a language model's preset is its size."""
    task, training = dict(plain["task"]), dict(plain["training"])
    del training["type"]
    if task["type"] == ICLTaskConfig.__name__:
        del task["type"]
    rest = {"size" if of_tokens and name == "preset" else name: value for name, value in plain.items()}
    return rest | {"task": task, "training": training}


def _read(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(stored, Mapping) or not all(isinstance(stored.get(n), Mapping) for n in ("task", "training")):
        return stored
    of_tokens = "size" in stored
    task, training = dict(stored["task"]), dict(stored["training"])
    if not of_tokens:
        task = {"type": ICLTaskConfig.__name__, **task}
    imported = task.get("type") == ImportedConfig.__name__
    training["type"] = (NoTraining if imported else TokenTraining if of_tokens else TrainingConfig).__name__
    rest = {"preset" if name == "size" else name: value for name, value in stored.items()}
    return rest | {"task": task, "training": training}


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
"""How the classifier is trained, by preset: ``paper`` as published, ``small`` in seconds."""


LM_TRAINING: dict[str, TokenTraining] = {
    "0.2m": TokenTraining(steps=3_000, optimizer=AdamW(rate=3e-3), checkpoint_at=(Every(500),)),
    "1m": TokenTraining(steps=2_000, optimizer=AdamW(rate=2e-3), checkpoint_at=(Every(500),)),
    "3m": TokenTraining(steps=1_500, optimizer=AdamW(rate=1e-3), checkpoint_at=(Every(500),)),
    # Three epochs of TinyStories, as published.
    "8m": TokenTraining(
        steps=99_300,
        optimizer=Adam(1e-3, (0.9, 0.95)),
        batch_size=64,
        clip=None,
        evaluate_at=(Every(1_000),),
        checkpoint_at=(Every(10_000),),
    ),
    "1b": TokenTraining(
        steps=50_000,
        optimizer=AdamW(rate=3e-4, warmup=2_000),
        batch_size=256,
        accumulate=8,
        precision="bfloat16",
        evaluate_at=(Every(500),),
        checkpoint_at=(Every(5_000),),
    ),
}
"""How a language model is trained, by its size; ``8m`` as published."""


def icl_run(
    variant: str = "value",
    preset: Literal["paper", "small"] | str = "paper",
    seed: int = 0,
    training: TrainingConfig | None = None,
    task: str | VectorTaskConfig = "icl",
    **model: Any,
) -> RunConfig:
    """Return the configuration of one in-context learning run; ``model`` overrides fields of the model.

    The run's variant is the model's name, which follows overridden streams
    (:func:`circuits.presets.icl_config`).
    Another ``task`` of vectors is learned by the preset's model with inputs and logits as the task has them: vectors
    are projected into the residual stream, and positions are learned.

    Raises:
        UnknownNameError: for an unknown variant, preset, task or field (nearest suggested).
        ValueError: for configurations that contradict each other.
    """
    known("preset", preset, PRESETS)
    if isinstance(task, str):
        tasks = named_tasks(VectorTaskConfig)
        task = PRESETS[preset] if known("task", task, tasks) == "icl" else tasks[task]
    task = cast(VectorTaskConfig, checked_value(task, VectorTaskConfig, "task"))
    if not isinstance(task, ICLTaskConfig):
        sizes = task.sizes
        model = {
            "n_ctx": sizes.n_tokens,
            "inputs": VectorInputs(sizes.d_input, project=True),
            "readout": ReluStack(sizes.n_answers),
            "positions": "learned",
        } | model
    config = icl_config(variant, preset, **model)
    return RunConfig(task, config, training or TRAINING[preset], seed, config.name, preset)


def lm_run(
    size: str = "0.2m",
    task: str | TokenTaskConfig = "stories",
    variant: str = "value",
    seed: int = 0,
    training: TokenTraining | None = None,
    d_vocab: int | None = None,
    **model: Any,
) -> RunConfig:
    """Return the configuration of one run; ``model`` overrides fields of the model.

    The run's variant is the model's name, which follows overridden streams
    (:func:`circuits.presets.icl_config`).
    The vocabulary is that of the task's tokenizer, if the model is one of the small ones; ``8m`` and ``1b`` have
    GPT-2's; ``d_vocab`` gives another. A task of several kinds of text is given as its configuration.

    Raises:
        UnknownNameError: for an unknown size, task, variant or field (nearest suggested).
        ValueError: for configurations that contradict each other, or a tokenizer with more tokens than the model.
    """
    known("size", size, LM_SIZES)
    if isinstance(task, str):
        tasks = named_tasks(TokenTaskConfig)
        require(
            known("task", task, [*tasks, "text", "books"]) in tasks,
            "the task 'text' needs a corpus and a tokenizer; give task=TextTaskConfig(corpus=..., tokenizer=...), and "
            "for 'books' task=BooksConfig.in_folder(...)",
        )
        task = tasks[task]
    # Here, as its tokens are counted before the configuration is made.
    task = cast(TokenTaskConfig, checked_value(task, TokenTaskConfig, "task"))
    if isinstance(task, TextTaskConfig):
        task = task.identified()
    n_tokens = vocabulary_size(task)
    own = None if LM_SIZES[size].n_ctx > 1024 else n_tokens
    fields: dict[str, Any] = {} if LM_SIZES[size].n_ctx >= task.n_ctx and own is None else {"n_ctx": task.n_ctx}
    config = lm_config(size, variant, own if d_vocab is None else d_vocab, **(fields | model))
    inputs = config.inputs
    require(
        inputs.are_tokens and inputs.rows >= n_tokens,
        f"the task's tokenizer has {n_tokens} tokens, the model only {inputs.rows if inputs.are_tokens else 0}; "
        "give d_vocab",
    )
    return RunConfig(task, config, training or LM_TRAINING[size], seed, config.name, size)


@lru_cache(maxsize=64)
def vocabulary_size(task: TokenTaskConfig) -> int:
    """Return how many tokens a task's model must know."""
    return make_task(task, 0).d_vocab
