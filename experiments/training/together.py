"""Training to the end: runs of one seed share their batches, and each can be stopped and resumed at any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch

from circuits.common.errors import require
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.training.one_process import Alone
from experiments.training.trainer import Trainer

Report = Callable[[str, int, float], None]
"""Called with a run's name, its step and the last value of what is watched; how progress bars learn of progress."""


def silent(_run: str, _step: int, _value: float) -> None:
    """Report nothing."""


def never() -> bool:
    """Return that training is not to stop."""
    return False


def train(
    runs: Sequence[Run],
    device: str = "cpu",
    report: Report = silent,
    stop: Callable[[], bool] = never,
    group: Alone | None = None,
) -> None:
    """Train runs that share task, seed and batch size to their ends; those that are finished cost nothing.

    Every batch is drawn once and given to all runs that are at its step. ``group`` is this process among several that
    share one model. ``stop`` is asked between steps; once it says so, every run is saved and ``KeyboardInterrupt``
    raised. However a run ends, the same call goes on from the last saved state and finishes with the same bytes.

    Raises:
        ValueError: before anything is trained, if the runs cannot share their batches, or a tokenizer, corpus or
            precision does not fit.
        RunError: if another process trains one of them, or, after the others have ended, if one diverged or could not
            be written.
    """
    group = group or Alone()
    runs = unfinished(runs)
    if not runs:
        return
    require(
        len({run.config.batches for run in runs}) == 1,
        "runs that train together must share task, seed, batch size and evaluation sets",
    )
    with ExitStack() as locks:
        if group.rank == 0:
            for run in runs:
                locks.enter_context(run.locked())
        left = unfinished(runs)
        if group.agreed(not left):
            return
        task = left[0].task(device)
        sets = task.evaluation_sets(left[0].config.training)
        trainers = [Trainer(run, task, sets, device, group) for run in left]
        train_together(trainers, _update_each, report, lambda: group.agreed(stop()))


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are still to be trained; of the others, drop what a kill at their very end left behind."""
    for run in runs:
        if run.finished:
            run.tidy()
    return [run for run in runs if not run.finished]


GoesOn = Callable[[Trainer, Callable[[], None]], bool]
"""Does something for a run and says whether the run goes on: one that fails leaves the others alone."""
Update = Callable[[Sequence[Trainer], GoesOn], None]
"""Makes one update of runs that are all at the same step."""


def _update_each(here: Sequence[Trainer], goes_on: GoesOn) -> None:
    batch = here[0].draw()
    for trainer in here:
        goes_on(trainer, partial(trainer.update, batch))


def train_together(active: list[Trainer], update: Update, report: Report, stop: Callable[[], bool]) -> None:
    """Bring runs to their ends, those that are behind first; a run that ends leaves the list ``active``. Random numbers
    of whoever calls are as they were.

    Raises:
        KeyboardInterrupt: once ``stop`` says so, with every run saved.
        RunError: as :func:`train`.
    """
    failed: list[RunError] = []

    def goes_on(trainer: Trainer, doing: Callable[[], None]) -> bool:
        try:
            doing()
        except RunError as error:
            failed.append(error)
            active.remove(trainer)
            return False
        return True

    # Dropout draws from the generators that all share.
    devices = {trainer.device for trainer in active if trainer.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        while active:
            if stop():
                for trainer in active:
                    trainer.close()
                raise KeyboardInterrupt
            step = min(trainer.step for trainer in active)
            for trainer in [trainer for trainer in active if trainer.step == step]:
                if not goes_on(trainer, trainer.observe):
                    continue
                report(trainer.run.path.name, step, trainer.value)
                if trainer.done and goes_on(trainer, trainer.close):
                    active.remove(trainer)
            here = [trainer for trainer in active if trainer.step == step]
            if here:
                update(here, goes_on)
    if failed:
        raise failed[0]
