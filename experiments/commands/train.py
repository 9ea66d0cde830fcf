"""The command that trains: the in-context classifier or a language model, one run or variants x seeds side by side."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, subcommand

from circuits.common.errors import known, require, whole
from circuits.common.fields import all_different
from experiments.options import NAMED, THERE, Device, Options, Root, Workers, option
from experiments.output import Tables, answer, show

if TYPE_CHECKING:
    from circuits import Intervention
    from experiments.runs.config import RunConfig
else:
    Intervention = RunConfig = Any


INTERVENTION = (
    '{"site": {"layer": 0, "component": "pattern"}, "operation": {"type": "Attend", "to": "previous"}, '
    '"strength": 1.0, "first": 0, "last": 500}'
)
"""What a file of interventions lists."""


@dataclass(frozen=True)
class Training(Options):
    """What every training can be told."""

    variant: Annotated[str, option("a named mixing rule; 'valuestream variants' lists them")] = "value"
    variants: Annotated[tuple[str, ...], option("several of them, instead of --variant")] = ()
    seed: Annotated[int, option("of weights and data; equal seeds pair variants")] = 0
    seeds: Annotated[tuple[int, ...], option("several of them, instead of --seed")] = ()
    steps: Annotated[int | None, option("updates", "the preset's")] = None
    evaluate_every: Annotated[int | None, option("steps between evaluations", "the preset's")] = None
    evaluate_levels: Annotated[
        tuple[float, ...],
        option(
            "values of what is watched, such as 0.5 0.95 (accuracy) or 2.5 2 (loss): evaluations gather where it "
            "nears them, and are no more than with --evaluate-every"
        ),
    ] = ()
    checkpoint_every: Annotated[int | None, option("steps between checkpoints", "the preset's")] = None
    rate: Annotated[float | None, option("learning rate", "the preset's")] = None
    batch: Annotated[int | None, option("sequences, or windows of tokens, in an update", "the preset's")] = None
    gradients_every: Annotated[int | None, option("steps between splits of the gradient by route")] = None
    interventions: Annotated[
        Path | None,
        THERE,
        option(
            f"a JSON list of what is done to activations, each like {INTERVENTION}; types: Zero, Mean, Clamp (value), "
            "Attend (to), Resample (seed), FromRun (checkpoint), Freeze, CutForward, CutGradient, Without (layer, "
            "component: what it wrote is cut out of a later q, k or v)"
        ),
    ] = None
    compute: Annotated[
        Literal["auto", "eager", "compiled", "eager-onednn", "compiled-onednn"],
        option(
            "auto compiles what repays it (long runs, or all on a GPU), and multiplies by oneDNN where that is "
            "faster; the others are as named, without oneDNN or with it"
        ),
    ] = "auto"
    device: Device = "cpu"
    workers: Workers = None
    prepare: Annotated[
        bool,
        option("only make the run's directory and print it, for 'torchrun -m experiments.training.several_processes'"),
    ] = False
    root: Root = None

    def configs(self) -> list[RunConfig]:
        """Return the configurations of all variants x seeds.

        Raises:
            ValueError: for options that make none, saying which.
        """
        raise NotImplementedError

    def changes(self, base: Any) -> dict[str, Any]:
        """Return what the options say of a training other than ``base``, by field, and ``None`` where they say nothing.

        Raises:
            ValueError: for numbers that make no schedule.
        """
        from experiments.runs.levels import AtLevels
        from experiments.runs.training_config import Every

        self._check()
        every = None if self.evaluate_every is None else Every(self.evaluate_every)
        if self.evaluate_levels:
            # Every preset has one distance of evaluations.
            every = AtLevels(self.evaluate_levels, (every or base.evaluate_at[0]).n)
        return {
            "steps": self.steps,
            "optimizer": None if self.rate is None else replace(base.optimizer, rate=self.rate),
            "batch_size": self.batch,
            "evaluate_at": every and (every,),
            "checkpoint_at": None if self.checkpoint_every is None else (Every(self.checkpoint_every),),
            "gradients_at": None if self.gradients_every is None else (Every(self.gradients_every),),
            "interventions": None if self.interventions is None else read_interventions(self.interventions),
        }

    def _check(self) -> None:
        """Refuse numbers that say nothing, by the names that they are given here."""
        for name in ("steps", "batch", "evaluate_every", "checkpoint_every", "gradients_every"):
            if getattr(self, name) is not None:
                whole(f"--{name.replace('_', '-')}", getattr(self, name))
        rate = self.rate
        require(rate is None or 0 < rate < math.inf, f"--rate must be a number above 0, got {rate}")

    def each(self, make: Any) -> list[RunConfig]:
        """Return what ``make`` gives for every variant and seed.

        Raises:
            ValueError: for one variant or seed beside several, or one that is among them twice.
        """
        for name in ("variant", "seed"):
            one, several = getattr(self, name), getattr(self, f"{name}s")
            require(
                not several or not self.given(name),
                f"--{name} {one} beside --{name}s says nothing; leave it out, or put it among them",
            )
            all_different(f"--{name}s", several)
        seeds, variants = self.seeds or (self.seed,), self.variants or (self.variant,)
        return [make(variant, seed) for seed in seeds for variant in variants]


@dataclass(frozen=True)
class TrainICL(Training):
    """Train the in-context classifier, one run or all variants x seeds side by side."""

    preset: Annotated[str, option("'paper' (width 150, SGD) or 'small' (width 64, Adam, a minute)")] = "small"
    task: Annotated[str, option("icl, or another task of vectors that a plugin registers")] = "icl"
    layers: Annotated[int, option("attention layers")] = 2
    heads: Annotated[int, option("attention heads of a layer; they share its width")] = 1
    mlp: Annotated[int | None, option("width of an MLP behind every attention layer", "there is none")] = None

    def configs(self) -> list[RunConfig]:
        """Return the configurations of all variants x seeds.

        Raises:
            UnknownNameError: for an unknown variant or preset (nearest suggested).
            ValueError: for numbers that make no model or training, or a file that holds no interventions.
        """
        from circuits import MLP
        from circuits.presets import ICL_PRESETS
        from experiments.runs.config import TRAINING, icl_run
        from experiments.tasks.in_context.batches import PRESETS

        base = TRAINING[known("preset", self.preset, PRESETS)]
        training = replace(base, **_said(self.changes(base)))
        width = sum(ICL_PRESETS[self.preset].values())
        fitting = ", ".join(str(n) for n in range(1, width) if width % n == 0)
        require(
            whole("--heads", self.heads) <= width and width % self.heads == 0,
            f"--heads {self.heads}: heads share the width of the preset {self.preset!r}, which is {width}; there can "
            f"be {fitting}",
        )
        model: dict[str, Any] = {"n_layers": whole("--layers", self.layers), "n_heads": self.heads}
        if self.mlp is not None:
            model["mlp"] = MLP(whole("--mlp", self.mlp))
        return self.each(lambda variant, seed: icl_run(variant, self.preset, seed, training, self.task, **model))


@dataclass(frozen=True)
class TrainLM(Training):
    """Train a language model on generated stories or other tokens, or all variants x seeds side by side."""

    size: Annotated[str, option("0.2m, 1m, 3m (small vocabularies), 8m (as published) or 1b")] = "0.2m"
    task: Annotated[
        str, option("stories, ioi, repeats, nested, text (with --corpus and --tokenizer) or books (with --corpus)")
    ] = "stories"
    corpus: Annotated[
        str | None,
        NAMED,
        option(
            "for the task text: a .txt, .jsonl or .parquet file, a folder, or a name on the hub; for the task books: "
            "the folder that 'valuestream books' made"
        ),
    ] = None
    column: Annotated[str, option("the corpus' column of texts")] = "text"
    tokenizer: Annotated[
        str | None, NAMED, option("for the task text: a tokenizer.json, a folder, or a name on the hub")
    ] = None
    window: Annotated[int | None, option("tokens in a window", "the task's")] = None
    optimizer: Annotated[
        Literal["adam", "adamw"] | None,
        option(
            "adam: a constant rate, as published; adamw: warm-up and cosine; another than the size's needs --rate",
            "the size's",
        ),
    ] = None
    accumulate: Annotated[int | None, option("in so many parts, one after the other")] = None
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, option("of products, where the device has it", "the size's")
    ] = None
    dropout: Annotated[float | None, option("share of activations that are dropped", "the size's")] = None

    def configs(self) -> list[RunConfig]:
        """Return the configurations of all variants x seeds.

        Raises:
            UnknownNameError: for an unknown variant, size or task (nearest suggested).
            ValueError: for numbers that make no model or training, a file that holds no interventions, or a corpus or
                tokenizer that cannot be had or that the task does not read.
        """
        from experiments.runs.config import LM_TRAINING, lm_run

        base = LM_TRAINING[known("size", self.size, LM_TRAINING)]
        task, training = self._task(), replace(base, **_said(self.changes(base)))
        model: dict[str, Any] = {} if self.dropout is None else {"dropout": self.dropout}
        return self.each(lambda variant, seed: lm_run(self.size, task, variant, seed, training, **model))

    def changes(self, base: Any) -> dict[str, Any]:
        """Return what the options say of a training other than ``base``, by field, and ``None`` where they say nothing.

        Raises:
            ValueError: for numbers that make no schedule, or an optimizer of another kind than that of ``base`` without
                a rate.
        """
        from experiments.runs.training_config import Adam, AdamW

        named: dict[str, Any] = {"adam": Adam(1e-3, (0.9, 0.95)), "adamw": AdamW()}
        other = None if self.optimizer is None else named[self.optimizer]
        if other is not None and type(other) is not type(base.optimizer):
            require(
                self.rate is not None,
                f"--optimizer {self.optimizer}: the size {self.size} is trained by {type(base.optimizer).__name__}, "
                f"whose rate is not that of another; give --rate too",
            )
            base = replace(base, optimizer=other)
        return super().changes(base) | {"accumulate": self.accumulate, "precision": self.precision}

    def _task(self) -> Any:
        from experiments.tasks.kinds import TokenTaskConfig
        from experiments.tasks.registry import named_tasks
        from experiments.tasks.text.books.task import BooksConfig
        from experiments.tasks.text.task import TextTaskConfig

        tasks = named_tasks(TokenTaskConfig)
        known("task", self.task, [*tasks, "text", "books"])
        window: dict[str, Any] = {} if self.window is None else {"n_ctx": self.window}
        require(
            self.task == "text" or not self.given("column"),
            f"--column is of a corpus of the task text, and the task is {self.task}; leave it out",
        )
        if self.task == "books":
            require(
                self.corpus is not None and self.tokenizer is None,
                "the task books needs --corpus, the folder that 'valuestream books' made, which holds its tokenizer; "
                "leave out --tokenizer",
            )
            return BooksConfig.in_folder(str(self.corpus), **window)
        if self.task != "text":
            require(
                self.corpus is None and self.tokenizer is None,
                f"the task {self.task!r} makes its own texts and words; leave out --corpus and --tokenizer, or take "
                f"--task text",
            )
            return replace(tasks[self.task], **window)
        require(
            self.corpus is not None and self.tokenizer is not None,
            "the task text needs --corpus (a file, a folder or a name on the hub) and --tokenizer (likewise)",
        )
        return TextTaskConfig.of(str(self.corpus), str(self.tokenizer), column=self.column, **window)


def _said(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def read_interventions(file: Path) -> tuple[Intervention, ...]:
    """Return the interventions that a JSON file lists.

    Raises:
        ValueError: if there is no such file, it is not JSON, or no list of interventions.
    """
    from circuits import Intervention

    require(file.is_file(), f"there is no file of interventions at {file}; it holds a list, as [{INTERVENTION}]")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); it holds a list, as [{INTERVENTION}]") from error
    if not isinstance(stored, list):
        raise ValueError(f"{file} holds no list of interventions; put brackets around: [{{...}}, {{...}}]")
    return tuple(Intervention.from_plain(data) for data in stored)


def train(
    what: OmitArgPrefixes[
        Annotated[TrainICL, subcommand("icl", prefix_name=False)]
        | Annotated[TrainLM, subcommand("lm", prefix_name=False)]
    ],
) -> Tables:
    """Train one run, or all variants x seeds side by side. A finished run costs nothing, an interrupted one goes on."""
    import pandas as pd

    from experiments.runs.run import Run
    from experiments.runs.table import IN_NAME, in_words, row_of
    from experiments.sweeps.shared_engine import chosen_compute
    from experiments.sweeps.sweep import sweep
    from experiments.training.checks import check_shared

    configs = what.configs()
    compute = None if what.compute == "auto" else what.compute
    if what.prepare:
        require(
            not what.compute.endswith("-onednn"),
            f"several processes multiply by torch's default library; leave out --prepare or --compute {what.compute}",
        )
        for config in configs:
            check_shared(config)
        runs = [Run.at(what.root, config, compute or chosen_compute(config, what.device)) for config in configs]
        answer("\n".join(str(run.path) for run in runs))
    else:
        runs = sweep(configs, what.root, what.workers, what.device, compute=compute)
    table = pd.DataFrame([row_of(run.path) for run in runs])
    if not what.prepare:
        show(in_words(table), spare=IN_NAME)
    return {"runs": table}
