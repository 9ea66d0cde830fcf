"""What a run is asked: pairs and sequences of its task, whichever kind of run it is."""

from __future__ import annotations

from inspect import signature
from typing import Any

from analysis.pairs import Pair
from circuits.common.errors import known, require
from experiments.runs.run import Run
from experiments.tasks.in_context.batches import SPLITS as ICL_SPLITS
from experiments.tasks.indirect_objects import IOIConfig, IOITask
from experiments.tasks.stories import StoriesConfig, StoriesTask
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokenizers import opening_tokens


def ioi_task(run: Run, device: str = "cpu") -> IOITask:
    """Return the task on indirect objects in the tokens of a run, its prompts opened as its training texts are.

    Raises:
        ValueError: for a task of numbers, or a tokenizer in which a name is several tokens.
    """
    learned = run.config.task
    require(
        run.config.of_tokens,
        f"{run.path.name} is a run of the in-context classifier, which reads no text; name a run of a language model",
    )
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


def questioner(run: Run) -> Any:
    """Return the task that asks a run, with ``pairs`` and ``head_scores``: its own, or of corpora that on indirect
    objects."""
    if not run.config.of_tokens:
        return run.task()
    of_corpora = isinstance(run.config.task, StoriesConfig | TextTaskConfig)
    return ioi_task(run) if of_corpora else run.task()


def first_corruption(run: Run) -> str:
    """Return the corruption that a run's task is asked with where none is named."""
    if not run.config.of_tokens:
        return "labels"
    return signature(questioner(run).pairs).parameters["corruption"].default


def pairs(run: Run, n: int, corruption: str | None = None) -> Pair:
    """Return ``n`` clean/corrupt pairs of a run's task; ``None`` takes the task's first corruption.

    Raises:
        UnknownNameError: for a corruption that the task does not know (nearest suggested).
    """
    return questioner(run).pairs(n, corruption or first_corruption(run))


def first_split(run: Run) -> str:
    """Return the split that a run is asked on where none is named."""
    return "ic" if not run.config.of_tokens else signature(questioner(run).pairs).parameters["split"].default


def sequences(run: Run, n: int, split: str | None = None, seed: int = 1) -> Pair:
    """Return ``n`` sequences of a split, as the clean side of a pair.

    ``None`` is ic, or the first split of a language model's questions.

    Raises:
        UnknownNameError: for a split that the task does not know (nearest suggested).
    """
    split = split or first_split(run)
    if not run.config.of_tokens:
        batch = run.task().sample(n, known("split", split, ICL_SPLITS), seed)
        return Pair.one_sided(batch.inputs, batch.labels)
    return questioner(run).pairs(n, seed=seed, split=split)
