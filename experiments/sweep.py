"""Many runs side by side: one single-threaded process a core, one progress bar, one way to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from experiments.config import RunConfig
from experiments.runs import Run, RunError
from experiments.training import choose_engine, train


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sweep(
    configs: Sequence[RunConfig],
    root: str | Path = "runs",
    workers: int | None = None,
    device: str = "cpu",
    engine: str | None = None,
    progress: bool = True,
) -> list[Run]:
    """Train every configuration that is not finished under ``root``, and return all their runs, in order.

    Runs of one seed share their batches within a worker. An interrupt (Ctrl-C) lets every run save itself first.

    Raises:
        KeyboardInterrupt: after an interrupt, with every run saved.
        RunError: if a worker died, a run diverged or is in use; runs that finished are kept.
    """
    runs = [Run.at(root, config, engine or choose_engine(config)) for config in configs]
    pending = [run for run in runs if not run.finished]
    if pending:
        workers = min(workers or cores(), len(pending))
        groups = _groups(pending, workers)
        with _Bar(pending, progress) as bar, _interruptible() as stop:
            if workers == 1 or len(groups) == 1:
                _in_this_process(groups, device, bar, stop)
            else:
                _in_workers(groups, workers, device, bar, stop)
    return [Run.open(run.path) for run in runs]


def _groups(runs: Sequence[Run], workers: int) -> list[list[Run]]:
    """Runs that share their batches, cut small enough that all workers have something to do to the end."""
    together: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        training = run.config.training
        together[run.config.task, run.config.seed, training.batch_size, training.n_eval].append(run)
    most = max(1, len(runs) // (2 * workers))
    cut = ((group, -(-len(group) // most)) for group in together.values())
    return [group[part::parts] for group, parts in cut for part in range(parts)]


def _in_this_process(groups: list[list[Run]], device: str, bar: _Bar, stop: Any) -> None:
    torch.set_num_threads(1)
    for group in groups:
        train(group, device, bar.report, stop.is_set)


# --- workers ------------------------------------------------------------------------------------------------------

_queue: Any = None
_stop: Any = None


def _start_worker(queue: Any, stop: Any) -> None:
    global _queue, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells workers to stop, so that they save between steps
    torch.set_num_threads(1)
    _queue, _stop = queue, stop


def _train_group(paths: list[Path], device: str) -> bool:
    reported: dict[str, int] = {}

    def report(name: str, step: int, accuracy: float) -> None:
        if step - reported.get(name, -10) >= 10 or step == 0:
            reported[name] = step
            _queue.put((name, step, accuracy))

    try:
        train([Run.open(path) for path in paths], device, report, _stop.is_set)
    except KeyboardInterrupt:
        return False
    return True


def _in_workers(groups: list[list[Run]], workers: int, device: str, bar: _Bar, stop: Any) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    with _one_thread_each(), ProcessPoolExecutor(workers, context, _start_worker, (queue, stop)) as pool:
        with _without_the_script():
            futures = [pool.submit(_train_group, [run.path for run in group], device) for group in groups]
        listening = threading.Thread(target=_listen, args=(queue, bar), daemon=True)
        listening.start()
        try:
            problems = _wait(futures)
        finally:
            queue.put(None)
            listening.join(timeout=5)
    if stop.is_set():
        raise KeyboardInterrupt
    if problems:
        raise problems[0]


def _wait(futures: list[Future[bool]]) -> list[Exception]:
    problems: list[Exception] = []
    for future in as_completed(futures):
        try:
            future.result()
        except BrokenProcessPool:
            stop_message = "a worker process died (out of memory, or killed); runs that finished are kept, the others "
            problems.append(RunError(stop_message + "resume from their last saved state: give the same command again"))
        except RunError as error:
            problems.append(error)
    return problems


def _listen(queue: Any, bar: _Bar) -> None:
    while (message := queue.get()) is not None:
        bar.report(*message)


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
def _interruptible() -> Iterator[Any]:
    """An event that Ctrl-C sets; a second Ctrl-C is the usual interrupt."""
    stop = multiprocessing.get_context("spawn").Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(_number: int, _frame: Any) -> None:
        print("\nstopping after this step; every run saves itself ...", file=sys.stderr)
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class _Bar:
    """One bar over all steps of all runs: steps a second, time left, and the run that spoke last with its accuracy."""

    def __init__(self, runs: Sequence[Run], show: bool):
        self.total = {run.path.name: run.config.training.steps for run in runs}
        self.at: dict[str, int] = {}
        quiet = not sys.stderr.isatty()
        self.bar: tqdm = tqdm(
            total=sum(self.total.values()),
            unit=" steps",
            disable=not show,
            mininterval=15 if quiet else 0.2,
            desc=f"{len(runs)} run{'s' if len(runs) > 1 else ''}",
            dynamic_ncols=True,
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def report(self, name: str, step: int, accuracy: float) -> None:
        """Take one run's progress."""
        if self.bar.disable:
            return
        if name not in self.at:  # what was done in an earlier sitting counts as done, and not as speed
            self.bar.initial += step
            self.bar.n += step
        else:
            self.bar.update(step - self.at[name])
        self.at[name] = step
        self.bar.set_postfix_str(f"{name.rsplit('-', 1)[0]} accuracy {accuracy:.3f}", refresh=False)
