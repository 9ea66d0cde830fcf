"""What the commands on language models do once they are called: make runs, measure, print short tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from circuits import Intervention
from circuits.common.errors import known, require
from circuits.common.text_table import as_text
from experiments.commands.lm_cli import TrainLM
from experiments.questions.indirect_objects import body_of, measured, other_body
from experiments.questions.ioi_tables import OWN, By, model_name, paper_table, summary
from experiments.runs.config import LM_TRAINING, RunConfig, lm_run
from experiments.runs.pooling import require_seeds
from experiments.runs.run import Run, runs_table
from experiments.runs.training_config import Adam, AdamW, Every, TokenTraining
from experiments.studies.wording import interval, rows_of
from experiments.sweeps.sweep import chosen_compute, sweep
from experiments.tasks.registry import GENERATED, TASKS, TokenTaskConfig
from experiments.tasks.stories import StoriesTask, statistics
from experiments.tasks.text.task import TextTaskConfig
from figures.files import write_figure
from figures.trainings.indirect_objects import ioi_by_sentence

SHOWN = ("probability", "wrong_probability", "logit_difference", "accuracy")


def train(what: TrainLM) -> None:
    """Train variants x seeds and list how each ended, or only prepare their directories."""
    configs = _configs(what)
    compute = None if what.compute == "auto" else what.compute
    if what.prepare:
        for config in configs:
            print(Run.at(what.root, config, compute or chosen_compute(config, what.device)).path)
        return
    done = sweep(configs, what.root, what.workers, what.device, compute=compute)
    table = runs_table(what.root)
    print(as_text(table[table.run.isin([run.path.name for run in done])]))


def _configs(what: TrainLM) -> list[RunConfig]:
    known("size", what.size, LM_TRAINING)
    task, training = _task(what), _training(what)
    model: dict[str, Any] = {} if what.dropout is None else {"dropout": what.dropout}
    return [
        lm_run(what.size, task, variant, seed, training, **model)
        for seed in what.seeds or (what.seed,)
        for variant in what.variants or (what.variant,)
    ]


def _task(what: TrainLM) -> TokenTaskConfig:
    known("task", what.task, TASKS)
    window: dict[str, Any] = {} if what.window is None else {"n_ctx": what.window}
    if what.task != "text":
        require(
            what.corpus is None and what.tokenizer is None,
            f"the task {what.task!r} makes its own texts and words; leave out --corpus and --tokenizer, or take --task "
            f"text",
        )
        return replace(GENERATED[what.task], **window)
    require(
        what.corpus is not None and what.tokenizer is not None,
        "the task text needs --corpus (a file, a folder or a name on the hub) and --tokenizer (likewise)",
    )
    return TextTaskConfig.of(str(what.corpus), str(what.tokenizer), column=what.column, **window)


def _training(what: TrainLM) -> TokenTraining:
    base = LM_TRAINING[what.size]
    optimizer = {None: base.optimizer, "adam": Adam(1e-3, (0.9, 0.95)), "adamw": AdamW()}[what.optimizer]
    changes: dict[str, Any] = {
        "steps": what.steps,
        "optimizer": optimizer if what.rate is None else replace(optimizer, rate=what.rate),
        "batch_size": what.batch,
        "accumulate": what.accumulate,
        "precision": what.precision,
        "evaluate_at": None if what.evaluate_every is None else (Every(what.evaluate_every),),
        "gradients_at": None if what.gradients_every is None else (Every(what.gradients_every),),
        "interventions": None if what.interventions is None else read_interventions(what.interventions),
        "checkpoint_at": None if what.checkpoint_every is None else (Every(what.checkpoint_every),),
    }
    return replace(base, **{name: value for name, value in changes.items() if value is not None})


def read_interventions(file: Path) -> tuple[Intervention, ...]:
    """Return the interventions that a JSON file lists."""
    try:
        stored = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON ({error}); 'valuestream train --help' shows what is wanted") from error
    if not isinstance(stored, list):
        raise ValueError(f"{file} holds no list of interventions; put brackets around: [{{...}}, {{...}}]")
    return tuple(Intervention.from_plain(data) for data in stored)


def ioi(names: Sequence[str], n: int, step: int, body: str | None, transplant: bool, by: By, root: Path) -> None:
    """Measure runs, print every set and the paper's table, keep each run's numbers, and draw."""
    require(bool(names), "name one run or more; 'valuestream runs' lists them")
    runs = [Run.find(name, root) for name in names]
    require_seeds(runs)
    # Another architecture is refused here, before anything is measured.
    bodies = [_bodies(run, body, transplant) for run in runs]
    frames = [measured(run, n, step, of) for run, of in zip(runs, bodies, strict=True)]
    prompts = pd.concat(frames, ignore_index=True)
    print(f"indirect-object identification, {n} prompts a set, evaluation mode, mean [95 % interval]:")
    print(as_text(_wide(summary(prompts, by), by)))
    table = paper_table(prompts)
    print("\nthe paper's four prompts, both choices of the subject: probability of the right and of the wrong name")
    print(as_text(_paper(table)))
    figure = ioi_by_sentence(table, [run.path.name for run in runs])
    written = [run.write_result("ioi", frame) for run, frame in zip(runs, frames, strict=True)]
    target = written[0].with_suffix("") if len(runs) == 1 else runs[0].path.parent / "ioi"
    written += write_figure(figure, target, shared=runs[0].path.parent)
    print("wrote " + ", ".join(map(str, written)))


def _bodies(run: Run, body: str | None, transplant: bool) -> list[str]:
    if body is None:
        return [OWN, *([other_body(run.config.variant)] if transplant else [])]
    body_of(run.config.model, body, allowed=transplant)
    return [body]


def _wide(table: pd.DataFrame, by: By) -> pd.DataFrame:
    kept = table[table.measure.isin(SHOWN)]
    text = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(kept)]
    index = ["variant", "size", "body", "set", *([] if by == "set" else [by]), "n", "over"]
    wide: Any = kept.assign(text=text).pivot(index=index, columns="measure", values="text")
    return wide.loc[list(dict.fromkeys(map(tuple, kept[index].to_numpy().tolist()))), list(SHOWN)].reset_index()


def _paper(table: pd.DataFrame) -> pd.DataFrame:
    text = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(table)]
    named = table.assign(text=text, model=[model_name(r.variant, r.body) for r in rows_of(table)])
    wide: Any = named.pivot(index=["sentence", "model"], columns="answer", values="text")
    return wide[["right", "wrong"]].reset_index()


def corpus(n: int, seed: int, show: int) -> None:
    """Print some windows of the generated stories, and what they are made of."""
    task = StoriesTask(seed=seed)
    for tokens in task.sample(show, "train", seed=1).tokens:
        print(task.tokenizer.decode(tokens) + "\n")
    print(as_text(statistics(task, n).assign(value=lambda t: t.value.map("{:.4g}".format))))
