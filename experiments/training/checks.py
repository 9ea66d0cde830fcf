"""What a training is refused for; none of it needs a model, so it is asked before a run is made where it can be."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from circuits.checkpoint import load_checkpoint
from circuits.common.errors import known, require
from circuits.interventions.other_models import check_taken
from experiments.runs.config import RunConfig
from experiments.runs.record import RunError


def check_start(config: RunConfig, checkpoints: Container[str]) -> None:
    """Check that a run that starts from the weights that a model had has them, which is as its checkpoint of step 0.

    Raises:
        RunError: if it does not.
    """
    if config.weights is not None and "0" not in checkpoints:
        raise RunError(
            f"{config.name} starts from weights that a model had, and its directory has none at step 0; give the model "
            f"to train(model, task, training), which puts them there"
        )


def check_end(config: RunConfig, sets: Any) -> None:
    """Check that the evaluation sets of a run's task measure what the run stops by, if it stops early.

    Raises:
        UnknownNameError: for a set or a measure that is not there (nearest suggested).
    """
    stop = config.training.stop_at
    if stop is not None:
        measured = sets.measured
        known("measure to stop by", stop.measure, measured[known("set", stop.split, measured)])


def check_interventions_taken(config: RunConfig) -> None:
    """Check that the checkpoints that a run's interventions take from have what is taken.

    Raises:
        FileNotFoundError, CheckpointError: for a checkpoint that is missing or damaged.
        ValueError: for one without the place, or where it has other sizes.
    """
    for intervention in config.training.interventions:
        if isinstance(intervention.taken_from, str):
            there = load_checkpoint(Path(intervention.taken_from))
            check_taken(intervention, config.model, there.config)


def check_shared(config: RunConfig) -> None:
    """Check that several processes can train a run's model together.

    Raises:
        ValueError: for a task of vectors, or interventions.
    """
    require(
        config.of_tokens,
        f"{config.name} is of a task of vectors, and several processes train one model of tokens; train it in one",
    )
    require(
        not config.training.interventions,
        f"{config.name} has interventions, which act on whole activations, and in several processes each has some "
        f"rows; train it in one process",
    )
