"""What a run is asked: pairs and sequences of its task, whichever kind of run it is."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from analysis.pairs import Pair
from circuits.common.errors import known, require
from experiments.runs.lm_run import KINDS, AnyRun, LMRun, open_run
from experiments.runs.names import the_one
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.tasks.in_context.task import SPLITS as ICL_SPLITS
from experiments.tasks.indirect_objects import IOIConfig, IOITask
from experiments.tasks.stories import StoriesConfig, StoriesTask
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokenizers import opening_tokens


def find_run(name: str | Path, root: str | Path = "runs") -> AnyRun:
    """Return a run of either kind by its path, or by its name, id or the beginning of either under ``root``.

    Raises:
        RunError: if there is no such run (nearest suggested), or more than one.
    """
    for path in (Path(name), Path(root) / name):
        if path.is_dir():
            return open_run(path)
    there: list[Any] = [run for kind in KINDS.values() for run in kind.under(root)]
    if not there:
        raise RunError(f"there are no runs of any kind in {root}; train one with '{Run.train_with}'")
    return the_one(str(name), there)


def ioi_task(run: LMRun, device: str = "cpu") -> IOITask:
    """Return the task on indirect objects in the tokens of a run, its prompts opened as its training texts are.

    Raises:
        ValueError: for a task of numbers, or a tokenizer in which a name is several tokens.
    """
    learned = run.config.task
    if isinstance(learned, TextTaskConfig):
        # Its corpus, which may be far away, is not asked for: the tokenizer tells how documents begin.
        tokenizer = run.tokenizer()
        config = IOIConfig(n_ctx=learned.n_ctx)
        return IOITask(config, tokenizer, run.config.seed, device, opening_tokens(tokenizer))
    task = run.task(device)
    if isinstance(task, IOITask):
        return task
    if isinstance(task, StoriesTask):
        return task.ioi
    require(
        task.tokenizer is not None,
        f"{run.path.name} was trained on numbers, which know no names; ask a run of stories, ioi, nested or text",
    )
    opening = getattr(task.tokenizer, "bos_token_id", None)
    return IOITask(IOIConfig(n_ctx=task.n_ctx), task.tokenizer, run.config.seed, device, opening)


def questioner(run: AnyRun) -> Any:
    """Return the task that asks a run, with ``pairs`` and ``head_scores``: its own, or of corpora that on indirect
    objects."""
    if isinstance(run, Run):
        return run.task()
    of_corpora = isinstance(run.config.task, StoriesConfig | TextTaskConfig)
    return ioi_task(run) if of_corpora else run.task()


def first_corruption(run: AnyRun) -> str:
    """Return the corruption that a run's task is asked with where none is named."""
    if isinstance(run, Run):
        return "labels"
    return signature(questioner(run).pairs).parameters["corruption"].default


def pairs(run: AnyRun, n: int, corruption: str | None = None) -> Pair:
    """Return ``n`` clean/corrupt pairs of a run's task; ``None`` takes the task's first corruption.

    Raises:
        UnknownNameError: for a corruption that the task does not know (nearest suggested).
    """
    return questioner(run).pairs(n, corruption or first_corruption(run))


def first_split(run: AnyRun) -> str:
    """Return the split that a run is asked on where none is named."""
    return "ic" if isinstance(run, Run) else signature(questioner(run).pairs).parameters["split"].default


def sequences(run: AnyRun, n: int, split: str | None = None, seed: int = 1) -> Pair:
    """Return ``n`` sequences of a split, as the clean side of a pair.

    ``None`` is ic, or the first split of a language model's questions.

    Raises:
        UnknownNameError: for a split that the task does not know (nearest suggested).
    """
    split = split or first_split(run)
    if isinstance(run, Run):
        batch = run.task().sample(n, known("split", split, ICL_SPLITS), seed)
        return Pair.one_sided(batch.inputs, batch.labels)
    return questioner(run).pairs(n, seed=seed, split=split)
