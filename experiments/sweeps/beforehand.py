"""What is asked of configurations before anything of their runs is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.devices import checked_device
from experiments.runs.config import RunConfig
from experiments.runs.directory import directory_of
from experiments.runs.run import Run
from experiments.tasks.registry import make_task
from experiments.tasks.text.task import TextTaskConfig
from experiments.training.checks import check_end, check_interventions_taken, check_start
from experiments.training.precision import check_precision


def check_beforehand(configs: Sequence[RunConfig], root: str | Path, device: str | None) -> None:
    """Check that new runs can be trained, on a device of this machine or (``None``) of others. What a corpus measures
    is asked by its trainer, as making its task is to read it.

    Raises:
        UnknownNameError: for an early end by what the task does not measure (nearest suggested).
        ValueError: for a device that this machine does not have, or a precision that the device does not.
            Likewise for a checkpoint that an intervention takes from and that lacks what is taken.
        FileNotFoundError, CheckpointError: for one that is missing or damaged.
        RunError: for weights of a model to start from that are not in the run's directory.
    """
    if device is not None:
        checked_device(device)
        for config in configs:
            check_precision(config.training, device)
    new: list[RunConfig] = []
    for config in configs:
        path = directory_of(root, config)
        there = path.exists()
        check_start(config, Run.open(path).record["checkpoints"] if config.weights and there else ())
        new += [] if there else [config]
    # What many configurations share is asked once.
    for config in {(c.training.interventions, c.model): c for c in new}.values():
        check_interventions_taken(config)
    ending = [c for c in new if c.training.stop_at and not isinstance(c.task, TextTaskConfig)]
    for config in {(c.task, c.training.stop_at): c for c in ending}.values():
        few = replace(config.training, n_eval=1)
        check_end(config, make_task(config.task, config.seed).evaluation_sets(few))
