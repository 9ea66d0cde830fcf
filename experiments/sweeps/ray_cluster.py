"""The engine on several machines: one Ray task a group. A lost node costs its runs a resume, or a rerun.

The runs' root must be on a filesystem that all nodes share, at the same path, and valuestream be installed on every
node. Progress is read from the run directories, so that a worker has nothing to report to.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import torch

from circuits.common.screen import say
from experiments.plugins import Additions
from experiments.runs.logs import last_line
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.table import WATCHED
from experiments.sweeps.waiting_groups import Work, outcome
from experiments.training.stopping import told_to_stop

CONNECT_SECONDS = 20.0
"""How long a cluster may take to say that it is there."""
LOOK_SECONDS = 1.0
"""How often the run directories are read for the table."""
LOCK_SECONDS = 60.0
"""How long a run that is tried again waits for the lock that its dead worker may still hold on a shared filesystem."""
SAVE_SECONDS = 120.0
"""How long tasks may take to save their runs after an interrupt."""


def require_ray() -> None:
    """Refuse, where Ray is not installed.

    Raises:
        RunError: saying how to install it.
    """
    if find_spec("ray") is None:
        raise RunError("Ray is not installed; it is an extra: pip install 'valuestream[ray]'")


# --- on the nodes -------------------------------------------------------------------------------------------------


def _train_group(paths: Sequence[str], device: str, again: bool, additions: Additions) -> Exception | None:
    """Train a group in a Ray task, and return what :func:`experiments.sweeps.waiting_groups.outcome` does."""
    torch.set_num_threads(1)
    runs = [Path(path) for path in paths]
    absent = [path for path in runs if not (path / "run.json").is_file()]
    if absent:
        return RunError(
            f"{absent[0]} is not there on the node {socket.gethostname()}: the runs' root must be on a filesystem that "
            f"all nodes share, at the same path"
        )
    try:
        additions.load()
    except (ValueError, OSError) as error:
        return RunError(f"on the node {socket.gethostname()}: {error}")
    if again:
        _wait_for_locks(runs)
    # Ray cancels a task as Ctrl-C would, anywhere in a step; runs save themselves between two.
    with told_to_stop((signal.SIGINT,)) as stop:
        return outcome(runs, device, lambda *_: None, stop.is_set)


def _wait_for_locks(paths: Sequence[Path]) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < until:
        try:
            with ExitStack() as locks:
                for path in paths:
                    locks.enter_context(Run.open(path).locked())
            return
        except RunError:
            time.sleep(1)


# --- on the machine that asks -------------------------------------------------------------------------------------


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to the cluster at an address and yield the module ``ray``; a connection that was there before stays.

    ``None`` is Ray's own choice: the cluster that ``RAY_ADDRESS`` names or that runs on this machine, else a new one.

    Raises:
        RunError: if there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that Ray is used
    import ray

    if ray.is_initialized():
        yield ray
        return
    _require_cluster(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_cluster(address: str | None) -> None:
    """Refuse where no cluster answers in time; ``ray.init`` itself tries for minutes, and cannot be stopped."""
    host, colon, port = (address or "").rpartition(":")
    if host.startswith("ray://"):
        raise RunError(f"{address} is for programs outside a cluster; sweep from one of its nodes, with its host:port")
    if not colon or not port.isdigit():
        return
    ask = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", f"{address}"]
    try:
        # Ray does not tell a port where nobody listens from a slow answer.
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=CONNECT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _no_cluster(address, TimeoutError("timed out")) from error
    except OSError as error:
        raise _no_cluster(address, error) from error
    if answer.returncode:
        raise _no_cluster(address, ConnectionError(answer.stderr.strip().rpartition("\n")[2]))


def _no_cluster(address: str | None, error: Exception) -> RunError:
    return RunError(
        f"there is no Ray cluster at {address or 'the address that Ray found'} ({error}); start one with 'ray start "
        f"--head' and give its host:port, or leave the address out to start Ray on this machine"
    )


def room(ray: Any, device: str, gpu_share: float) -> int:
    """Return how many groups the cluster trains at once, as it is now."""
    there = ray.cluster_resources()
    cores = int(there.get("CPU", 1))
    gpus = there.get("GPU", 0.0)
    if _on_gpu(device) and not gpus:
        say("the Ray cluster has no GPU at present; the runs wait until it has one", sys.stderr)
    return max(1, min(cores, int(gpus / gpu_share)) if _on_gpu(device) and gpus else cores)


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda")


class _Cluster:
    """Tasks under way on a Ray cluster."""

    def __init__(self, ray: Any, work: Work, device: str, gpu_share: float, additions: Additions):
        self.ray, self.work, self.device, self.additions = ray, work, device, additions
        # A group that dies is asked for again by the sweep, its runs one by one, and not by Ray as a whole.
        options = {"num_cpus": 1, "num_gpus": gpu_share if _on_gpu(device) else 0, "max_retries": 0}
        self.task = ray.remote(**options)(_train_group)
        self.tried: set[str] = set()
        self.going: dict[Any, list[Run]] = {}
        self.looked = 0.0

    def submit(self, most: int) -> None:
        while self.work.waiting and len(self.going) < most:
            group = self.work.next()
            paths = [str(run.path.resolve()) for run in group]
            again = not self.tried.isdisjoint(paths)
            self.tried.update(paths)
            self.going[self.task.remote(paths, self.device, again, self.additions)] = group

    def collect(self, seconds: float) -> None:
        """Take what ends within this time."""
        ended, _ = self.ray.wait(list(self.going), num_returns=1, timeout=seconds)
        errors = self.ray.exceptions
        for task in ended:
            group = self.going.pop(task)
            try:
                self.work.ended(group, self.ray.get(task))
            except errors.TaskCancelledError:
                self.work.ended(group)
            except errors.RayTaskError as error:
                self.work.ended(group, RunError(f"a Ray task could not begin; is valuestream on every node? {error}"))
            except errors.OutOfMemoryError:
                self.work.died(group, "because its node was out of memory and Ray ended it")
            except errors.RayError as error:
                self.work.died(group, f"with its process or its node ({type(error).__name__})")

    def look(self) -> None:
        """Read how far the runs are, now and then."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        self.work.look(self.going.values())
        for run in (run for group in self.going.values() for run in group):
            seen = last_seen(run)
            if seen is not None:
                self.work.progress.report(run.path.name, *seen)

    def cancel(self) -> None:
        """Let every run save itself, for as long as that may take."""
        for task in self.going:
            self.ray.cancel(task, force=False)
        until = time.monotonic() + SAVE_SECONDS
        while self.going and time.monotonic() < until:
            self.collect(1.0)


def last_seen(run: Run) -> tuple[int, float] | None:
    """Return the step of a run's last measurement, if there is one, and the value of what a list of runs shows."""
    rows = last_line(run.path / "metrics.jsonl")
    if rows is None:
        return None
    values = {(split, measure): value for _, split, measure, value in rows}
    return rows[0][0], values.get(WATCHED[run.config.kind], math.nan)


def train_on_ray(
    ray: Any, work: Work, most: int, device: str, gpu_share: float, stop: Event, additions: Additions
) -> None:
    """Train all work on a cluster, at most so many groups at once, in tasks that load the ``additions`` first;
    ``stop`` lets every run save itself, and returns."""
    cluster = _Cluster(ray, work, device, gpu_share, additions)
    while (work.waiting or cluster.going) and not stop.is_set():
        cluster.submit(most)
        cluster.collect(seconds=0.25)
        cluster.look()
        work.progress.refresh()
    if stop.is_set():
        cluster.cancel()
