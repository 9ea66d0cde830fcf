"""The engine on one machine: worker processes, one thread each. One that dies takes nothing but its own runs along.

The standard library's pool breaks as a whole when one of its processes is killed, and cannot say which; so every worker
has its own pipe here, with no lock that a dying process could keep. The end of a pipe is the death of who held it: the
parent learns so of a dead worker, and workers of a dead parent, who then save their runs and end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Event

import torch

from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.sweeps.waiting_groups import Work, outcome
from experiments.training.stopping import told_to_stop

REPORT_SECONDS = 0.25
"""How often a worker speaks of each of its runs."""
LISTEN_SECONDS = 0.05
"""How often it hears whether it shall stop; asking at every step of a small model would cost a percent of its time."""
PATIENCE_SECONDS = 30.0
"""How long a worker whose pipe was closed may take to save its runs and end before it is killed."""


@dataclass(frozen=True)
class At:
    """A worker's word: a run is at a step."""

    name: str
    step: int
    accuracy: float


@dataclass(frozen=True)
class Free:
    """A worker's word: it has nothing to do, now that its group ended so."""

    error: Exception | None = None


# --- in the worker ------------------------------------------------------------------------------------------------


def _serve(parent: Connection, device: str) -> None:
    """Train one group after another, until the parent says ``None`` or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells workers to stop, so that they save between steps
    torch.set_num_threads(1)
    with told_to_stop((signal.SIGTERM, signal.SIGHUP)) as told:
        try:
            parent.send(Free())
            while (paths := parent.recv()) is not None:
                ended = _trained(paths, parent, device, told)
                if told.is_set():
                    # Its runs are saved; the parent hears that it is gone, and who goes on with them.
                    sys.exit(128 + signal.SIGTERM)
                parent.send(Free(ended))
        except (EOFError, OSError):
            return


def _trained(paths: list[Path], parent: Connection, device: str, told: Event) -> Exception | None:
    spoke: dict[str, float] = {}

    def report(name: str, step: int, accuracy: float) -> None:
        now = time.monotonic()
        if now - spoke.get(name, -1.0) < REPORT_SECONDS:
            return
        spoke[name] = now
        with suppress(OSError):  # the parent is gone: the next step begins with stopping
            parent.send(At(name, step, accuracy))

    listened = 0.0

    def stop() -> bool:
        nonlocal listened
        now = time.monotonic()
        if now - listened < LISTEN_SECONDS:
            return told.is_set()
        listened = now
        # While a group is trained, all that can come is the wish to stop, or the parent's end.
        return told.is_set() or parent.poll()

    return outcome(paths, device, report, stop)


# --- in the parent ------------------------------------------------------------------------------------------------


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, device: str):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, device), name="sweep worker")
        self.group: list[Run] = []
        self.ready = False
        with _one_thread_each(), _without_the_script(), _interrupts_kept():
            self.process.start()
        theirs.close()

    def hear(self) -> At | Free | None:
        """Return its word, or ``None`` if it is dead."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return None

    def tell(self, paths: list[Path] | None) -> None:
        """Give it a group, or (``None``) tell it to stop."""
        with suppress(OSError):  # it is dead, which is heard next
            self.pipe.send(paths)

    def end(self) -> str:
        """Part from it, and return how it ended."""
        self.pipe.close()
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            return f"by {signal.Signals(-code).name}" + (", as happens when memory runs out" if code == -9 else "")
        return f"with exit code {code}"


class _Crew:
    """The workers, and the work that they share."""

    def __init__(self, work: Work, most: int, device: str, stop: Event):
        self.work, self.most, self.device, self.stop = work, most, device, stop
        self.workers: list[_Worker] = []
        self.stillborn = 0

    def hire(self) -> None:
        """Start a worker for every waiting group that none of the idle will take, as far as there is room."""
        while len(self.workers) < self.most and self._idle() < len(self.work.waiting) and not self.stop.is_set():
            self.workers.append(_Worker(self.device))

    def _idle(self) -> int:
        return sum(not worker.group for worker in self.workers)

    def listen(self, seconds: float) -> None:
        """Hear whoever speaks within this time, and act on it."""
        speaking = wait([worker.pipe for worker in self.workers], seconds)
        for worker in [worker for worker in self.workers if worker.pipe in speaking]:
            word = worker.hear()
            if word is None:
                self._bury(worker)
            elif isinstance(word, At):
                self.work.progress.report(word.name, word.step, word.accuracy)
            else:
                self._next(worker, word.error)

    def _next(self, worker: _Worker, error: Exception | None) -> None:
        group, worker.group, worker.ready = worker.group, [], True
        self.work.ended(group, error)
        if self.work.waiting and not self.stop.is_set():
            worker.group = self.work.next()
            worker.tell([run.path for run in worker.group])
        else:
            self.workers.remove(worker)
            worker.end()

    def _bury(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        how = worker.end()
        if worker.ready:
            self.work.died(worker.group, how)
            return
        self.stillborn += 1
        if self.stillborn > self.work.retries and not self.stop.is_set():
            raise RunError(
                f"{self.stillborn} worker processes ended before they could begin, the last {how}; what they said is "
                f"above. Use workers=1 to train in this process"
            )

    def dismiss(self) -> None:
        """Tell all to save their runs and stop."""
        for worker in self.workers:
            worker.tell(None)

    def disband(self) -> None:
        """Part from those who are left, after an error here: the closed pipes tell them to save their runs and end."""
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.end()


def train_in_workers(work: Work, workers: int, device: str, stop: Event) -> None:
    """Train all work in so many processes; once ``stop`` is set, let every run save itself, and return.

    Raises:
        RunError: if worker processes cannot begin.
    """
    crew = _Crew(work, workers, device, stop)
    told = False
    try:
        crew.hire()
        while crew.workers:
            crew.listen(seconds=0.25)
            if stop.is_set() and not told:
                crew.dismiss()
                told = True
            crew.hire()
            work.look(worker.group for worker in crew.workers)
            work.progress.refresh()
    finally:
        crew.disband()


@contextmanager
def _without_the_script() -> Iterator[None]:
    # A spawned process first runs the main script again, which would start the sweep again; workers need none of it.
    main = sys.modules["__main__"]
    before = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # Two threads on matrices of this size are many times slower than one, and workers already use every core.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    # A process inherits what is blocked: Ctrl-C reaches no worker, not even one that is still importing. Here it waits.
    resource_tracker.ensure_running()  # which starting a process does too, and unblocks
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
