"""Many runs side by side, on one machine or on a cluster: one table of progress, one way to stop, one way to go on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Literal

import torch

from circuits.common.errors import known, require, several, whole
from circuits.common.families import registered_by_script
from circuits.common.screen import say
from experiments.devices import checked_device, one_thread
from experiments.plugins import Additions, script_path
from experiments.runs.config import RunConfig
from experiments.runs.directory import directory_of
from experiments.runs.folder import runs_folder
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.sweeps import ray_cluster
from experiments.sweeps.beforehand import check_beforehand
from experiments.sweeps.cost import Unkept
from experiments.sweeps.plan import Plan, cores, planned
from experiments.sweeps.processes import train_in_workers
from experiments.sweeps.progress import Progress
from experiments.sweeps.shared_engine import shared_engines
from experiments.sweeps.waiting_groups import Work, train_group
from experiments.training.stopping import told_to_stop

ENGINES = ("processes", "ray")


# Training takes gradients, whatever mode its caller is in.
@torch.inference_mode(False)
@torch.enable_grad()
def sweep(
    configs: Iterable[RunConfig],
    root: str | Path | None = None,
    workers: int | None = None,
    device: str = "cpu",
    *,
    engine: Literal["processes", "ray"] | str = "processes",
    compute: Literal["eager", "compiled", "stacked", "eager-onednn", "compiled-onednn"] | str | None = None,
    progress: bool = True,
    retries: int = 2,
    address: str | None = None,
    gpu_share: float = 0.25,
    ends: Mapping[str, int] | None = None,
    like: Sequence[str] = (),
) -> list[Run]:
    """Train every configuration that is not finished under ``root`` (default: :func:`runs_folder`), and return all
    their runs, in order.

    ``engine`` says where: in ``workers`` processes of this machine (default: one a core; with one, in this process), or
    in tasks of the Ray cluster at ``address``, each with one core and, on ``cuda``, a ``gpu_share`` of a GPU; ``root``
    must then be on a filesystem that all nodes share. ``compute`` is how new runs compute (default:
    what suits each, and multiplied as runs that they are compared with, under ``root`` or of the engines ``like``:
    :func:`experiments.sweeps.shared_engine.shared_engines`).

    Runs of one seed share their batches within a worker; on a GPU, seeds of one configuration train stacked.
    If a worker dies, its runs are tried again one by one, each up to ``retries`` times, from their last saved state. A
    run that fails stops no other. Ctrl-C, SIGTERM and SIGHUP let every run save itself first.

    With ``progress``, it says before it begins what it will take (:func:`sweep_plan`), and then how far it is. ``ends``
    are the steps at which runs, by id, are known to stop early, of an earlier training.

    Raises:
        KeyboardInterrupt: after an interrupt, with every run saved.
        RunError: once all others are finished, if a run diverged, is in use, or was given up because its workers died;
            before anything is trained, if Ray or its cluster is not there, or the local files of a run's corpus are not
            where they were: told once, of the first run that lacks them.
        UnknownNameError: for an unknown engine or way to compute, or an early end by what a task does not measure.
        ValueError: before anything is trained, for what is no list of configurations, a device that this machine does
            not have, a precision that the device does not, no workers, or if the script registers kinds and has no
            guard, so that workers would begin its sweep again.
    """
    root, configs = runs_folder(root), _configurations(configs)
    known("engine", engine, ENGINES)
    workers = None if workers is None else whole("workers", workers)
    require(retries >= 0, f"retries must be 0 or more, got {retries}")
    require(0 < gpu_share <= 1, f"gpu_share must be above 0 and at most 1 (a whole GPU), got {gpu_share}")
    if engine == "ray":
        ray_cluster.require_ray()
    check_beforehand(configs, root, None if engine == "ray" else device)
    engines = shared_engines(configs, root, device, compute, like)
    runs = [Run.at(root, config, str(engine)) for config, engine in zip(configs, engines, strict=True)]
    unfinished = [run for run in runs if not run.finished]
    for run in unfinished:
        run.require_corpus()
    pending = {run.path for run in unfinished}
    if pending and engine == "ray":
        additions = Additions.here()
        with ray_cluster.connected(address) as ray:
            most = workers or ray_cluster.room(ray, device, gpu_share)
            with _working(runs, most, device, retries, progress, ends) as (work, stop):
                ray_cluster.train_on_ray(ray, work, most, device, gpu_share, stop, additions)
    elif pending:
        most, additions = _room(min(workers or cores(), len(pending)))
        with _working(runs, most, device, retries, progress, ends) as (work, stop):
            if most == 1 or len(work.waiting) == 1:
                _train_here(work, device, stop)
            else:
                train_in_workers(work, most, device, stop, additions)
    return [Run.open(run.path) for run in runs]


@torch.inference_mode(False)
@torch.enable_grad()
def sweep_plan(
    configs: Iterable[RunConfig],
    root: str | Path | None = None,
    workers: int | None = None,
    device: str = "cpu",
    *,
    compute: Literal["eager", "compiled", "stacked", "eager-onednn", "compiled-onednn"] | str | None = None,
    ends: Mapping[str, int] | None = None,
    like: Sequence[str] = (),
) -> Plan:
    """Return what :func:`sweep` would take on this machine, from some seconds of measuring: its ``seconds`` and
    ``memory`` (bytes of a process), and ``sentence()``. Nothing is trained and nothing written.

    Raises:
        ValueError: for a device that this machine does not have.
    """
    root, configs = runs_folder(root), _configurations(configs)
    checked_device(device)
    engines = shared_engines(configs, root, device, compute, like)
    runs = [
        Run.open(path) if (path := directory_of(root, config)).exists() else Unkept(config, str(engine))
        for config, engine in zip(configs, engines, strict=True)
    ]
    pending = len({run.path for run in runs if not run.finished})
    return planned(runs, min(workers or cores(), max(1, pending)), device, ends)


def _configurations(given: Iterable[RunConfig]) -> list[RunConfig]:
    return several("configs", given, RunConfig, least=0, how="experiments.icl_run('value', 'small', 0) makes one")


def _room(most: int) -> tuple[int, Additions]:
    """How many processes train here, and what they load; this one alone where no other can learn what it knows."""
    if most > 1 and registered_by_script() and script_path() is None:
        say(
            f"{', '.join(sorted(registered_by_script()))}: registered at a prompt or in a notebook, which other "
            f"processes cannot read; the runs are trained one after another in this one",
            sys.stderr,
        )
        most = 1
    return most, Additions.here() if most > 1 else Additions()


@contextmanager
def _working(
    runs: Sequence[Run], workers: int, device: str, retries: int, progress: bool, ends: Mapping[str, int] | None
) -> Iterator[tuple[Work, Event]]:
    """The work of a sweep with its table, and an event that an interrupt sets; raises in the end what went wrong."""
    steps = {run.path.name: run.config.training.steps for run in runs}
    tokens = {run.path.name: run.config.tokens_per_step for run in runs if run.config.of_tokens}

    def stopping() -> None:
        say("\nstopping after this step; every run saves itself ...", sys.stderr)

    with told_to_stop(say=stopping, once=True) as stop:
        plan = planned(runs, workers, device, ends, progress, stop.is_set)
        if plan.measured:
            say(plan.sentence(), sys.stderr)
        with Progress(steps, progress, tokens, plan.forecast) as shown:
            for run in runs:
                shown.set(run.path.name, "done" if run.finished else "waiting")
            work = Work(plan.groups, retries, shown)
            yield work, stop
    if stop.is_set():
        raise KeyboardInterrupt
    work.conclude()


def _train_here(work: Work, device: str, stop: Event) -> None:
    while work.waiting:
        group = work.next()
        try:
            with one_thread():
                train_group(group, device, work.progress.report, stop.is_set)
        except RunError as error:
            work.ended(group, error)
        else:
            work.ended(group)
