"""What stands in the place of a task where there is none: the run holds a model that others trained."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.tasks.kinds import TokenTaskConfig


@dataclass(frozen=True)
class ImportedConfig(TokenTaskConfig):
    """No task. The model is asked with pairs of one's own."""

    ABOVE_ZERO = ("n_ctx",)

    n_ctx: int
    """The longest sequence that the model takes."""
