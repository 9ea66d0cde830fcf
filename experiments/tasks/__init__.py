"""Tasks: data with its splits, clean/corrupt pairs and position labels. One file a task."""

from experiments.tasks.amicl import AMICLBatch, AMICLTask, AMICLTaskConfig
from experiments.tasks.icl import ICLBatch, ICLTask, ICLTaskConfig

__all__ = ["AMICLBatch", "AMICLTask", "AMICLTaskConfig", "ICLBatch", "ICLTask", "ICLTaskConfig"]
