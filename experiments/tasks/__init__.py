"""Tasks: data with its splits, clean/corrupt pairs and position labels. One file a task."""

from experiments.tasks.icl import ICLBatch, ICLTask, ICLTaskConfig

__all__ = ["ICLBatch", "ICLTask", "ICLTaskConfig"]
