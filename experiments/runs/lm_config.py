"""What a run of a language model is: a task of tokens, a model, a training, a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from circuits import variants
from circuits.common.plain_data import content_hash, essence, from_plain, register_union, to_plain
from circuits.config.model import ModelConfig, TokenInputs
from circuits.common.errors import known, require
from circuits.common.fields import Checked, checked_value
from circuits.presets import LM_SIZES, lm_config
from experiments.runs.config import Adam, Every, RunConfig, Schedule, check_variant, shape_tags
from experiments.runs.looks import LM_EVERY, LM_QUESTIONS, LM_WINDOWS
from experiments.tasks.indirect_objects import IOIConfig
from experiments.tasks.nested_relations import NestedConfig
from experiments.tasks.repeated_tokens import RepeatsConfig
from experiments.tasks.stories import StoriesConfig
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokens.batches import TokenTask

TokenTaskConfig = StoriesConfig | IOIConfig | RepeatsConfig | NestedConfig | TextTaskConfig
GENERATED: dict[str, TokenTaskConfig] = {
    "stories": StoriesConfig(),
    "ioi": IOIConfig(),
    "repeats": RepeatsConfig(lag=24, shortest=4),
    "nested": NestedConfig(),
}
"""The tasks that need no corpus, by name; the other one is ``text``."""
TASKS = (*GENERATED, "text")


def make_task(config: TokenTaskConfig, seed: int, device: str = "cpu") -> TokenTask:
    """Return the task of a configuration, with the draws of a seed."""
    if isinstance(config, StoriesConfig):
        from experiments.tasks.stories import StoriesTask

        return StoriesTask(config, seed, device)
    if isinstance(config, IOIConfig):
        from experiments.tasks.indirect_objects import IOITask
        from experiments.tasks.sentences.tokenizer import plain_english

        tokenizer = plain_english()
        return IOITask(config, tokenizer, seed, device, opening=tokenizer.bos_token_id)
    if isinstance(config, RepeatsConfig):
        from experiments.tasks.repeated_tokens import RepeatsTask

        return RepeatsTask(config, seed, device)
    if isinstance(config, NestedConfig):
        from experiments.tasks.nested_relations import NestedTask

        return NestedTask(config, seed, device)
    from experiments.tasks.text.task import TextTask

    return TextTask(config, seed, device)


def task_name(config: TokenTaskConfig) -> str:
    """Return the name of a task's kind."""
    return next((name for name, some in GENERATED.items() if isinstance(config, type(some))), "text")


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


LMOptimizer = Adam | AdamW
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

for _union in (TokenTaskConfig, LMOptimizer):
    register_union(_union)


@dataclass(frozen=True)
class LMTraining(Checked):
    """How a language model is trained and how often it is looked at. Step s means that s updates have been made."""

    steps: int
    optimizer: LMOptimizer = field(default_factory=AdamW)
    batch_size: int = 32
    """Windows in one update, of all processes together."""
    accumulate: int = 1
    """In so many parts, one after the other, whose gradients add up to that of the whole."""
    precision: Precision = "float32"
    """``bfloat16`` computes products so where the device has it; weights stay float32."""
    clip: float | None = 1.0
    """The largest norm of the gradient; ``None`` for any."""
    evaluate_at: tuple[Schedule, ...] = (Every(LM_EVERY),)
    checkpoint_at: tuple[Schedule, ...] = ()
    """The last step always has both."""
    n_eval: int = LM_WINDOWS
    """Windows that the validation loss is a mean over."""
    n_questions: int = LM_QUESTIONS
    """Prompts in every set of questions."""

    def __post_init__(self) -> None:
        # First, as it names the nearest.
        if isinstance(self.precision, str):
            known("precision", self.precision, PRECISIONS)
        super().__post_init__()
        for name in ("steps", "batch_size", "accumulate", "n_eval", "n_questions"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        require(
            self.batch_size % self.accumulate == 0,
            f"{self.batch_size} windows do not divide into {self.accumulate} parts; choose numbers that do",
        )
        require(self.clip is None or self.clip > 0, f"clip must be positive or None, got {self.clip}")


@dataclass(frozen=True)
class LMRunConfig(Checked):
    """One run of a language model. ``variant`` and ``size`` are the names that the model was made from."""

    task: TokenTaskConfig
    model: ModelConfig
    training: LMTraining
    seed: int
    variant: str
    size: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            isinstance(self.model.inputs, TokenInputs),
            "a language model reads token numbers, and this model takes vectors; make it with lm_config",
        )
        require(
            self.task.n_ctx <= self.model.n_ctx,
            f"the task's windows have {self.task.n_ctx} tokens, the model only {self.model.n_ctx} positions; give the "
            f"model n_ctx={self.task.n_ctx}, or the task shorter windows",
        )
        check_variant(self.variant, self.model)

    @property
    def preset(self) -> str:
        """The size, under the name by which other runs tell theirs."""
        return self.size

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update sees."""
        return self.training.batch_size * self.task.n_ctx

    @property
    def id(self) -> str:
        """Return the first 12 digits of the hash of the configuration, without the fields that have their defaults and
        without where local files lie."""
        plain = essence(self)
        if isinstance(self.task, TextTaskConfig):
            plain["task"] = {"type": type(self.task).__name__, **self.task.identity()}
        return content_hash(plain)[:12]

    @property
    def name(self) -> str:
        """Return the name of the run's directory."""
        size = LM_SIZES.get(self.size)
        usual = {"layers": size.n_layers, "heads": size.n_heads, "mlp": True} if size else None
        shape = shape_tags(self.model, usual) if usual else ""
        return f"lm-{task_name(self.task)}-{self.variant}-{self.size}{shape}-s{self.seed}-{self.id}"

    @property
    def usual(self) -> bool:
        """Whether task, model and training are those of its task's, variant's and size's names alone."""
        name = task_name(self.task)
        named = self.variant in variants.names() and self.size in LM_SIZES and name in GENERATED
        return named and self == lm_run(self.size, name, self.variant, self.seed)

    def to_plain(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> LMRunConfig:
        """Return the configuration that :meth:`to_plain` wrote; an unknown field is an error."""
        return from_plain(cls, data)


AnyConfig = RunConfig | LMRunConfig
"""Of a run of either kind."""

LM_TRAINING: dict[str, LMTraining] = {
    "0.2m": LMTraining(steps=3_000, optimizer=AdamW(rate=3e-3), checkpoint_at=(Every(500),)),
    "1m": LMTraining(steps=2_000, optimizer=AdamW(rate=2e-3), checkpoint_at=(Every(500),)),
    "3m": LMTraining(steps=1_500, optimizer=AdamW(rate=1e-3), checkpoint_at=(Every(500),)),
    # Three epochs of TinyStories, as published.
    "8m": LMTraining(
        steps=99_300,
        optimizer=Adam(1e-3, (0.9, 0.95)),
        batch_size=64,
        clip=None,
        evaluate_at=(Every(1_000),),
        checkpoint_at=(Every(10_000),),
    ),
    "1b": LMTraining(
        steps=50_000,
        optimizer=AdamW(rate=3e-4, warmup=2_000),
        batch_size=256,
        accumulate=8,
        precision="bfloat16",
        evaluate_at=(Every(500),),
        checkpoint_at=(Every(5_000),),
    ),
}


def lm_run(
    size: str = "0.2m",
    task: str | TokenTaskConfig = "stories",
    variant: str = "value",
    seed: int = 0,
    training: LMTraining | None = None,
    d_vocab: int | None = None,
    **model: Any,
) -> LMRunConfig:
    """Return the configuration of one run; ``model`` overrides fields of the model.

    The run's variant is the model's name, which follows overridden streams
    (:func:`circuits.streams.variants.icl_config`).
    The vocabulary is that of the task's tokenizer, if the model is one of the small ones; ``8m`` and ``1b`` have
    GPT-2's; ``d_vocab`` gives another. A task of several kinds of text is given as its configuration.

    Raises:
        UnknownNameError: for an unknown size, task, variant or field (nearest suggested).
        ValueError: for configurations that contradict each other, or a tokenizer with more tokens than the model.
    """
    known("size", size, LM_SIZES)
    if isinstance(task, str):
        require(
            known("task", task, TASKS) != "text",
            "the task 'text' needs a corpus and a tokenizer; give task=TextTaskConfig(corpus=..., tokenizer=...)",
        )
        task = GENERATED[task]
    # Here, as its tokens are counted before the configuration is made.
    checked_value(task, TokenTaskConfig, "task")
    if isinstance(task, TextTaskConfig):
        task = task.identified()
    n_tokens = vocabulary_size(task)
    own = None if LM_SIZES[size].n_ctx > 1024 else n_tokens
    fields: dict[str, Any] = {} if LM_SIZES[size].n_ctx >= task.n_ctx and own is None else {"n_ctx": task.n_ctx}
    config = lm_config(size, variant, own if d_vocab is None else d_vocab, **(fields | model))
    inputs = config.inputs
    require(
        isinstance(inputs, TokenInputs) and inputs.d_vocab >= n_tokens,
        f"the task's tokenizer has {n_tokens} tokens, the model only {getattr(inputs, 'd_vocab', 0)}; give d_vocab",
    )
    return LMRunConfig(task, config, training or LM_TRAINING[size], seed, config.name, size)


def vocabulary_size(task: TokenTaskConfig) -> int:
    """Return how many tokens a task's model must know."""
    return make_task(task, 0).d_vocab
