"""The engine on one machine: worker processes, one thread each. One that is killed takes only its own runs along.

The standard library's pool breaks as a whole when one of its processes is killed, and cannot say which; so every worker
has a pipe of its own here. A pipe ends with the process at its other end: so the parent learns of a killed worker, and
workers learn of a killed parent, save their runs and end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Event
from typing import Any

import torch

from experiments.plugins import Additions
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.sweeps.waiting_groups import Work, outcome
from experiments.training.stopping import told_to_stop

REPORT_SECONDS = 0.25
"""How often a worker reports each of its runs."""
LISTEN_SECONDS = 0.05
"""How often it asks whether it shall stop; asking at every step of a small model would cost a percent of its time."""
END_SECONDS = 30.0
"""How long a worker whose pipe was closed may take to save its runs and end before it is killed."""
WORKER = (
    "import sys; from multiprocessing.connection import Connection; pipe = Connection(int(sys.argv[1])); "
    "sys.path = pipe.recv(); pipe.recv().load(); serve, device = pipe.recv(); serve(pipe, device)"
)
"""What a worker runs. Not a process of ``multiprocessing``, which would run the main script again, and its sweep."""


@dataclass(frozen=True)
class AtStep:
    """What a worker sends of a run in training."""

    name: str
    step: int
    accuracy: float


@dataclass(frozen=True)
class Idle:
    """What a worker sends when it has nothing to do: at its beginning, and when its group ended, with an error or
    none."""

    error: Exception | None = None


# --- in the worker ----------------------------------------------------------------------------------------------------


def _serve(parent: Connection, device: str) -> None:
    """Train one group after another, until the parent sends ``None`` or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells workers to stop, so that they save between steps
    torch.set_num_threads(1)
    with told_to_stop((signal.SIGTERM, signal.SIGHUP)) as told, suppress(EOFError, OSError):
        parent.send(Idle())
        while (paths := parent.recv()) is not None:
            error = _train(paths, parent, device, told)
            if told.is_set():
                # Its runs are saved; the parent learns that it ended, and lets another go on with them.
                sys.exit(128 + signal.SIGTERM)
            parent.send(Idle(error))


def _train(paths: list[Path], parent: Connection, device: str, told: Event) -> Exception | None:
    reported: dict[str, float] = {}
    listened = 0.0

    def report(name: str, step: int, accuracy: float) -> None:
        now = time.monotonic()
        if now - reported.get(name, -1.0) >= REPORT_SECONDS:
            reported[name] = now
            with suppress(OSError):  # the parent is gone: before the next step, training stops
                parent.send(AtStep(name, step, accuracy))

    def stop() -> bool:
        nonlocal listened
        now = time.monotonic()
        if now - listened < LISTEN_SECONDS:
            return told.is_set()
        listened = now
        # While a group is trained, all that can come is the wish to stop, or the parent's end.
        return told.is_set() or parent.poll()

    return outcome(paths, device, report, stop)


# --- in the parent ----------------------------------------------------------------------------------------------------


class _Worker:
    """A worker process, as the parent sees it."""

    def __init__(self, device: str, additions: Additions):
        self.pipe, theirs = multiprocessing.Pipe()
        self.group: list[Run] = []
        self.ready = False
        number = theirs.fileno()
        # Two threads on matrices of this size are many times slower than one, and workers already use every core.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with theirs, _interrupts_blocked():
            command = [sys.executable, "-P", "-c", WORKER, str(number)]
            self.process = subprocess.Popen(command, pass_fds=[number], env=os.environ | threads)
        self.send(sys.path)
        self.send(additions)
        self.send((_serve, device))

    def send(self, value: Any) -> None:
        """Send it a group's paths, or ``None`` to let it save its runs and end."""
        with suppress(OSError):  # it ended, which is seen when it is next listened to
            self.pipe.send(value)

    def end(self) -> str:
        """Close its pipe, wait for its end, and return how it ended."""
        self.pipe.close()
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code < 0:
            return f"by {signal.Signals(-code).name}" + (", as happens when memory runs out" if code == -9 else "")
        return f"with exit code {code}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    # A process inherits what is blocked: Ctrl-C reaches no worker, not even one that is still importing. Here it waits.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Workers:
    """All workers, and the work that they share."""

    def __init__(self, work: Work, most: int, device: str, stop: Event, additions: Additions):
        self.work, self.most, self.device, self.stop, self.additions = work, most, device, stop, additions
        self.running: list[_Worker] = []
        self.never_ready = 0

    def start(self) -> None:
        """Start a worker for every waiting group that no idle one will take, as far as there is room."""
        while len(self.running) < self.most and not self.stop.is_set():
            if sum(not worker.group for worker in self.running) >= len(self.work.waiting):
                break
            self.running.append(_Worker(self.device, self.additions))

    def listen(self, seconds: float) -> None:
        """Take what workers send within this time, and act on it."""
        sending = wait([worker.pipe for worker in self.running], seconds)
        for worker in [worker for worker in self.running if worker.pipe in sending]:
            try:
                message: AtStep | Idle = worker.pipe.recv()
            except (EOFError, OSError):
                self._ended(worker)
                continue
            if isinstance(message, AtStep):
                self.work.progress.report(message.name, message.step, message.accuracy)
            else:
                self._next(worker, message.error)

    def _next(self, worker: _Worker, error: Exception | None) -> None:
        group, worker.group, worker.ready = worker.group, [], True
        self.work.ended(group, error)
        if self.work.waiting and not self.stop.is_set():
            worker.group = self.work.next()
            worker.send([run.path for run in worker.group])
        else:
            self.running.remove(worker)
            worker.end()

    def _ended(self, worker: _Worker) -> None:
        self.running.remove(worker)
        how = worker.end()
        if worker.ready:
            self.work.died(worker.group, how)
            return
        self.never_ready += 1
        if self.never_ready > self.work.retries and not self.stop.is_set():
            raise RunError(
                f"{self.never_ready} worker processes ended before they could begin, the last {how}; their messages "
                f"are above. Use workers=1 to train in this process"
            )


def train_in_workers(work: Work, most: int, device: str, stop: Event, additions: Additions) -> None:
    """Train all work in at most so many processes, which load the ``additions`` first; once ``stop`` is set, let every
    run save itself, and return.

    Raises:
        RunError: if worker processes cannot begin.
    """
    workers, told = _Workers(work, most, device, stop, additions), False
    try:
        workers.start()
        while workers.running:
            workers.listen(seconds=0.25)
            if stop.is_set() and not told:
                told = True
                for worker in workers.running:
                    worker.send(None)
            workers.start()
            work.look(worker.group for worker in workers.running)
            work.progress.refresh()
    finally:
        # After an error here, a closed pipe tells a worker to save its runs and end.
        for worker in workers.running:
            worker.pipe.close()
        for worker in workers.running:
            worker.end()
