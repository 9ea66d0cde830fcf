"""Runs of the in-context classifier: their directories, and lists of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.runs.config import RunConfig
from experiments.runs.directory import RunDirectory
from experiments.runs.names import table_of
from experiments.runs.record import FIRST_KIND, RunError
from experiments.tasks.in_context.task import ICLTask


class Run(RunDirectory[RunConfig]):
    """The directory of a run of the in-context classifier."""

    kind = FIRST_KIND
    what = "the in-context classifier"
    train_with = "valuestream train icl"
    logs = ("metrics", "gradients")

    @staticmethod
    def _config(plain: dict[str, Any]) -> RunConfig:
        return RunConfig.from_plain(plain)

    def task(self, device: str = "cpu") -> ICLTask:
        """Return the task, with this run's class and label vectors."""
        return ICLTask(self.config.task, seed=self.config.seed, device=device)

    def gradients(self) -> pd.DataFrame:
        """Return the gradient's split by route as it was logged so far.

        Columns: step, and those of :meth:`analysis.GradientSplit.to_frame`.

        Raises:
            RunError: if the run logs none, or none yet, or as :meth:`metrics`.
        """
        if not self.config.training.gradients_at:
            raise RunError(
                f"{self.path.name} logged no gradients; train with --gradients-every N (TrainingConfig.gradients_at), "
                f"or split them at its checkpoints with 'valuestream gradients'"
            )
        frame = self._logged("gradients")
        if frame.empty:
            raise RunError(f"{self.path.name} has logged no gradients yet; let it train on")
        return frame

    def _frames(self) -> dict[str, pd.DataFrame]:
        logged = {"gradients": self.gradients()} if self.config.training.gradients_at else {}
        return super()._frames() | logged


def list_runs(root: str | Path = "runs") -> list[Run]:
    """Return the runs of the in-context classifier under ``root``, by name."""
    return Run.under(root)


def runs_table(root: str | Path = "runs") -> pd.DataFrame:
    """Return one row a run: name, variant, preset, seed, status, the step on the disk, the last accuracy on ic."""
    return table_of(list_runs(root), _row)


def _row(run: Run) -> dict[str, Any]:
    config, (_, accuracy) = run.config, run.last("ic", "accuracy")
    return {
        "run": run.path.name,
        "variant": config.variant,
        "preset": config.preset,
        "seed": config.seed,
        "status": run.status,
        "step": run.step,
        "ic accuracy": round(accuracy, 4),
    }
