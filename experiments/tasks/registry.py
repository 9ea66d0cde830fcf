"""The tasks by name, and each of them made of its configuration."""

from __future__ import annotations

from typing import Any

from circuits.common.plain_data import register_union
from experiments.tasks.in_context.batches import ICLTaskConfig
from experiments.tasks.in_context.task import ICLTask
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.nested_relations import NestedConfig, NestedTask
from experiments.tasks.repeated_tokens import RepeatsConfig, RepeatsTask
from experiments.tasks.sentences.tokenizer import plain_english
from experiments.tasks.stories import StoriesConfig, StoriesTask
from experiments.tasks.text.task import TextTask, TextTaskConfig

TokenTaskConfig = StoriesConfig | IOIConfig | RepeatsConfig | NestedConfig | TextTaskConfig
TaskConfig = ICLTaskConfig | TokenTaskConfig

register_union(TaskConfig)

GENERATED: dict[str, TokenTaskConfig] = {
    "stories": StoriesConfig(),
    "ioi": IOIConfig(),
    "repeats": RepeatsConfig(lag=24, shortest=4),
    "nested": NestedConfig(),
}
"""The tasks of tokens that need no corpus, by name; the other one is ``text``."""
TASKS = (*GENERATED, "text")
_NAMES: dict[type, str] = {ICLTaskConfig: "icl", **{type(config): name for name, config in GENERATED.items()}}
_MADE_BY: dict[type, Any] = {
    ICLTaskConfig: ICLTask,
    StoriesConfig: StoriesTask,
    RepeatsConfig: RepeatsTask,
    NestedConfig: NestedTask,
    TextTaskConfig: TextTask,
}


def make_task(config: TaskConfig, seed: int, device: str = "cpu") -> Any:
    """Return the task of a configuration, with the draws of a seed."""
    if isinstance(config, IOIConfig):
        tokenizer = plain_english()
        return IOITask(config, tokenizer, seed, device, opening=tokenizer.bos_token_id)
    return _MADE_BY[type(config)](config, seed, device)


def task_name(config: TaskConfig) -> str:
    """Return the name of a task's kind."""
    return _NAMES.get(type(config), "text")
