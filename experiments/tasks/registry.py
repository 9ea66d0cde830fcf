"""The tasks by name, ours and registered ones, and each of them made of its configuration."""

from __future__ import annotations

from typing import Any, TypeVar

from circuits.common.errors import require, whole
from circuits.common.families import Family
from circuits.common.plain_data import store_family
from experiments.devices import checked_device
from experiments.tasks.checks import check_methods, check_task
from experiments.tasks.imported import ImportedConfig
from experiments.tasks.in_context.batches import ICLTaskConfig
from experiments.tasks.in_context.task import ICLTask
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.kinds import TaskConfig, TokenTaskConfig, VectorTaskConfig, task_name
from experiments.tasks.nested_relations import NestedConfig, NestedTask
from experiments.tasks.repeated_tokens import RepeatsConfig, RepeatsTask
from experiments.tasks.sentences.tokenizer import plain_english
from experiments.tasks.stories import StoriesConfig, StoriesTask
from experiments.tasks.text.books.task import BooksConfig, BooksTask
from experiments.tasks.text.task import TextTask, TextTaskConfig

AConfig = TypeVar("AConfig", bound=TaskConfig)


class PlainIOITask(IOITask):
    """The task in the words of generated sentences, each text opened by their beginning token."""

    def __init__(self, config: IOIConfig, seed: int = 0, device: str = "cpu"):
        tokenizer = plain_english()
        super().__init__(config, tokenizer, seed, device, opening=tokenizer.bos_token_id)


MADE_BY: dict[type[TaskConfig], Any] = {
    ICLTaskConfig: ICLTask,
    StoriesConfig: StoriesTask,
    IOIConfig: PlainIOITask,
    RepeatsConfig: RepeatsTask,
    NestedConfig: NestedTask,
    TextTaskConfig: TextTask,
    BooksConfig: BooksTask,
}
"""The class of a configuration's task, which is made of it, a seed and a device."""
TASK_KINDS = Family("task", TaskConfig, *MADE_BY, ImportedConfig)
store_family(TASK_KINDS)
USUAL: dict[str, TaskConfig] = {
    "icl": ICLTaskConfig(),
    "stories": StoriesConfig(),
    "ioi": IOIConfig(),
    "repeats": RepeatsConfig(lag=24, shortest=4),
    "nested": NestedConfig(),
}
"""The configurations that names alone stand for; a text and books have none, as they need a corpus."""


def register_task(kind: type[AConfig], task: Any) -> type[AConfig]:
    """Return the configuration's class of a task of one's own, registered with the class that makes it.

    ``kind`` is a frozen dataclass made from :class:`TokenTaskConfig` or :class:`VectorTaskConfig`, ``task`` is called
    with one, a seed and a device; :class:`TokenTask` and :class:`VectorTask` have all but ``sample``. The task's name
    is that of ``kind`` in small letters, without ``Config``; where ``kind`` needs no arguments, the name alone stands
    for it. Its source, and that of ``task``, are part of what names a run.

    Raises:
        ValueError: if the name is taken, ``kind`` is no such dataclass, ``task`` lacks a method (which), or a source
            cannot be read; or if what the task gives is not what it should be: see
            :func:`experiments.tasks.checks.check_task`.
    """
    require(
        isinstance(kind, type) and issubclass(kind, (TokenTaskConfig, VectorTaskConfig)),
        f"a task's configuration is made from TokenTaskConfig or VectorTaskConfig, which say what its model reads; got "
        f"{kind!r}",
    )
    name = task_name(kind.__name__)
    there = {other.__name__ for other in MADE_BY} - {kind.__name__}
    alike = [other for other in there if task_name(other) == name]
    require(not alike, f"{kind.__name__} would be the task {name!r}, as {', '.join(alike)} is; give it another name")
    check_methods(name, task)
    try:
        usual: Any = kind()
    except TypeError:  # it needs arguments, and is given as a value
        usual = None
    else:
        check_task(task(usual, 0, "cpu"))
    TASK_KINDS.register(kind, task)
    for before in [other for other in MADE_BY if other.__name__ == kind.__name__]:
        del MADE_BY[before]
    MADE_BY[kind] = task
    USUAL.pop(name, None)
    USUAL.update({} if usual is None else {name: usual})
    return kind


def named_tasks(kind: type[TaskConfig]) -> dict[str, Any]:
    """Return the configurations of tokens, or of vectors, that names alone stand for."""
    return {name: config for name, config in USUAL.items() if isinstance(config, kind)}


def make_task(config: TaskConfig, seed: int, device: str = "cpu") -> Any:
    """Return the task of a configuration, with the draws of a seed.

    Raises:
        ValueError: for what is no task's configuration, a seed that is no whole number, a device that this machine does
            not have, or if a registered task gives something else than it should.
    """
    require(
        type(config) in MADE_BY,
        f"a task is made of its configuration, such as IOIConfig(), got {config!r}",
    )
    checked_device(device)
    task = MADE_BY[type(config)](config, whole("seed", seed, None), device)
    if type(config).__name__ in TASK_KINDS.origins:
        check_task(task)
    return task
