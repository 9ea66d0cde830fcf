"""What a sweep still has to do, whoever does it: groups that wait, what to try again, and what went wrong."""

from __future__ import annotations

import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.sweeps.progress import Progress, State
from experiments.training.stacked_seeds import stacks, train_stacked
from experiments.training.together import Report, train

LOOK_SECONDS = 5.0
ENDED: dict[str, State] = {"finished": "done", "failed": "failed"}
"""What the table calls a run that ended, by its status."""
STACK = 16
"""How many seeds train stacked in one process of an accelerator at most; drawing their batches bounds larger stacks."""


def accelerated(device: str) -> bool:
    """Return whether a device is one on which small models leave most idle, so that seeds are stacked."""
    return torch.device(device).type != "cpu"


def grouped(runs: Sequence[Run], workers: int, device: str = "cpu") -> list[list[Run]]:
    """Return groups of runs, small enough that all workers have something to do to the end.

    Those of a group share their batches; on an accelerator they are seeds of one configuration, to be stacked.
    A language model trains by itself.
    """
    alone = [[run] for run in runs if run.config.of_tokens]
    classifiers = [run for run in runs if not run.config.of_tokens]
    if accelerated(device):
        shared = stacks(classifiers, min(STACK, max(1, -(-len(classifiers) // workers))))
        return [*alone, *([*group] for group in shared)]
    together: dict[Any, list[Run]] = defaultdict(list)
    for run in classifiers:
        together[run.config.batches].append(run)
    most = max(1, len(classifiers) // (2 * workers))
    cut = ((group, -(-len(group) // most)) for group in together.values())
    return [*alone, *(group[part::parts] for group, parts in cut for part in range(parts))]


def train_group(group: Sequence[Run], device: str, report: Report, stop: Callable[[], bool]) -> None:
    """Train a group: stacked on an accelerator, else side by side; contract and errors are those of ``train``."""
    how = train_stacked if accelerated(device) and len(group) > 1 else train
    how(group, device, report, stop)


def outcome(paths: Sequence[Path], device: str, report: Report, stop: Callable[[], bool]) -> Exception | None:
    """Return what ended the training of a group in a worker: nothing (all are finished, or saved), or an error.

    The errors survive the way to another process: ``RunError``, ``MemoryError`` or ``RuntimeError``.
    """
    try:
        train_group([Run.open(path) for path in paths], device, report, stop)
    except KeyboardInterrupt:
        return None
    except RunError as error:
        return error
    except Exception as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return MemoryError(str(error))
        return RuntimeError("training failed in a worker:\n" + "".join(traceback.format_exception(error)))
    return None


class Work:
    """The groups of a sweep that wait. Whoever trains takes the next, and tells how it ended."""

    def __init__(self, groups: Iterable[Sequence[Run]], retries: int, progress: Progress):
        self.waiting = deque(list(group) for group in groups)
        self.retries, self.progress = retries, progress
        self.problems: list[Exception] = []
        self._looked = 0.0
        self._deaths = Counter[str]()

    def next(self) -> list[Run]:
        """Return the group to train now, as its runs stand on the disk."""
        group = self.waiting.popleft()
        for run in group:
            self.progress.set(run.path.name, "running")
        return group

    def look(self, groups: Iterable[Sequence[Run]]) -> None:
        """Count the runs that came to their end while others of their group still train; now and then."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for run in (run for group in groups for run in group):
            state = ENDED.get(Run.open(run.path).status)
            if state:
                self.progress.set(run.path.name, state)

    def ended(self, group: Sequence[Run], error: Exception | None = None) -> None:
        """Take the end of a group: all are finished, or saved after an interrupt, or there was an error."""
        if isinstance(error, MemoryError):
            self.died(group, f"out of memory ({error})")
            return
        unfinished = self._unfinished(group)
        if error is not None and len(unfinished) > 1:
            # One run's error says nothing of the others; each then has its own.
            self.waiting.extend([run] for run in unfinished)
        elif error is not None:
            self._fail(unfinished, error)

    def died(self, group: Sequence[Run], how: str) -> None:
        """Take the death of the process that trained a group: each run is tried again alone, so often and no more."""
        unfinished = self._unfinished(group)
        self._deaths.update(run.path.name for run in unfinished)
        for run in unfinished:
            name, times = run.path.name, self._deaths[run.path.name]
            if times <= self.retries:
                self.waiting.append([run])
                continue
            message = (
                f"{name} was given up: the process that trained it died {times} times, the last time {how}. It may "
                f"need more memory than there is: use fewer workers or a smaller n_eval, then give the same command "
                f"again; it goes on from its last saved state"
            )
            self._fail([run], RunError(message))

    def conclude(self) -> None:
        """Raise what went wrong, if anything did: the error, or one that lists them."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            same = Counter(map(str, self.problems))
            listed = "".join(f"\n- {why}" + f" ({n} runs)" * (n > 1) for why, n in same.items())
            raise RunError(f"{len(self.problems)} runs are not finished, the others are:{listed}")

    def _unfinished(self, group: Sequence[Run]) -> list[Run]:
        runs = [Run.open(run.path) for run in group]
        for run in runs:
            self.progress.set(run.path.name, "done" if run.finished else "waiting")
        return [run for run in runs if not run.finished]

    def _fail(self, runs: Sequence[Run], error: Exception) -> None:
        self.problems.append(error)
        for run in runs:
            self.progress.set(run.path.name, "failed")
