"""Tasks: data with its splits, clean/corrupt pairs and position labels. One file a task."""

from experiments.tasks.associative_memory import AMICLBatch, AMICLTask, AMICLTaskConfig
from experiments.tasks.in_context.batches import ICLBatch, ICLTaskConfig
from experiments.tasks.in_context.task import ICLTask

__all__ = ["AMICLBatch", "AMICLTask", "AMICLTaskConfig", "ICLBatch", "ICLTask", "ICLTaskConfig"]
