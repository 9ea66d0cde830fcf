"""What a run costs, in seconds and bytes, measured on a few of its steps before it begins.

Runs that differ in what costs nothing (the seed, rates, how long they train) are of one kind and are measured once in a
process. A measurement trains a model of the kind for some steps by the real trainer, on a run that is kept nowhere: so
it writes nothing, and it leaves random states as they were. Kinds for which there is no time are told from their sizes,
by the speed of those that were measured.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil
import torch

from experiments.devices import checked_device, one_thread
from experiments.runs.config import RunConfig
from experiments.runs.run import Run
from experiments.runs.training_config import At, most_evaluations, scheduled
from experiments.tasks.repeated_tokens import RepeatsConfig
from experiments.tasks.text.task import TextTaskConfig
from experiments.training.engines import Engine
from experiments.training.together import never
from experiments.training.trainer import Trainer

STEPS = 8
"""That are trained to measure one: two with an evaluation before them, one with a split, the last with hooks."""
COMPILED, COMPILE_SECONDS, COMPILE_BYTES = 0.8, 30.0, 400_000_000
"""A compiled step and evaluation in eager ones, and what compiling takes, as measured at paper size. It takes longer
than measuring may, so kinds that will be compiled are measured eager."""


@dataclass(frozen=True)
class Cost:
    """Seconds of every part of a run's training, on a core of its own, and bytes of a process that trains it."""

    setup: float
    """Of the task, its evaluation sets, and compiling; once for all runs that share them."""
    draw: float
    """Of one batch, which runs that train together share."""
    update: float
    hooked: float
    """Of an update in which interventions act."""
    look: float
    """Of one evaluation."""
    split: float
    """Of one split of the gradient by route."""
    memory: int = 0
    """Of the process, at its peak; 0 where it was not measured."""
    beside: int = 0
    """What another run that trains in the same process adds."""
    share: float = 1.0
    """How much of a core the process got while it was measured: less than all where others keep every core busy."""

    def times(self, factor: float) -> Cost:
        """Return the cost where everything takes ``factor`` times as long; its memory is not known."""
        setup, draw, update, hooked, look, split = (
            factor * part for part in (self.setup, self.draw, self.update, self.hooked, self.look, self.split)
        )
        return Cost(setup, draw, update, hooked, look, split)

    def compiled(self) -> Cost:
        """Return the cost of a compiled run, where this is that of an eager one."""
        parts = {"update": COMPILED * self.update, "look": COMPILED * self.look, "setup": self.setup + COMPILE_SECONDS}
        return replace(self, memory=self.memory + COMPILE_BYTES if self.memory else 0, **parts)

    def of(self, config: RunConfig, together: int = 1, stacked: bool = False) -> float:
        """Return the seconds of a whole run's training, of whose batches, or stacked of whose updates, ``together``
        runs have a part each."""
        training, steps = config.training, config.training.steps
        windows = ((i.first, steps if i.last is None else min(steps, i.last)) for i in training.interventions)
        acting = len({step for first, end in windows for step in range(first, end)})
        looks = most_evaluations(training.evaluate_at, steps)
        splits = len(scheduled(training.gradients_at, steps)) if training.gradients_at else 0
        updates = (steps - acting) * self.update + acting * self.hooked
        draws = steps * self.draw + self.setup
        shared, own = (updates, draws) if stacked else (draws, updates)
        return looks * self.look + splits * self.split + own + shared / together


class Unkept(Run):
    """A run that is kept nowhere: what it would write is dropped."""

    def __init__(self, config: RunConfig, engine: str = "eager"):
        record = {"config": config.to_plain(), "id": config.id, "engine": engine, "status": "running"}
        super().__init__(Path("kept nowhere") / config.name, record | {"checkpoints": {}})

    def _write(self, name: str, data: bytes) -> Path:
        return self.path / name

    def append_rows(self, log: str, rows: Sequence[Any]) -> None:
        """Drop a measurement."""


def kind_of(config: RunConfig) -> RunConfig:
    """Return the configuration of a few steps that cost what those of a run do, the same for all runs of its kind.

    A corpus, which may be far away, is told by repeated tokens in windows of its length.
    """
    old, task = config.training, config.task
    stand_in = isinstance(task, TextTaskConfig)
    training = replace(
        old,
        steps=STEPS,
        optimizer=type(old.optimizer)(),
        evaluate_at=(At((0, 1)),),
        checkpoint_at=(),
        gradients_at=(At((2,)),) if old.gradients_at else (),
        gates=(),
        stop_at=None,
        rates=(),
        interventions=(),
        n_questions=1 if stand_in else old.n_questions,
    )
    if isinstance(task, TextTaskConfig):
        task = RepeatsConfig(n_ctx=task.n_ctx, lag=2)
    return replace(config, seed=0, task=task, training=training, weights=None)


def costs_of(
    runs: Sequence[Run], device: str, measuring: float, stop: Callable[[], bool] = never
) -> dict[RunConfig, Cost]:
    """Return the cost of every run's configuration, measured of as many kinds as so many seconds allow, and until
    ``stop`` says so, those first that most of the work is of."""
    kinds = {run.config: kind_of(run.config) for run in runs}
    work = dict.fromkeys(kinds.values(), 0.0)
    for config, kind in kinds.items():
        work[kind] += rough(config, device).of(config)
    until = time.monotonic() + measuring
    found: dict[RunConfig, Cost] = {}
    for kind in sorted(work, key=lambda kind: -work[kind]):
        guess = _scaled(kind, device, found)
        seconds = guess.setup + 2 * guess.look + guess.split + STEPS * guess.update
        if time.monotonic() + seconds < until and not stop():
            measured = _measured(kind, device)
            found |= {} if measured is None else {kind: measured}
    costs = {run.config: found.get(kinds[run.config]) or _scaled(kinds[run.config], device, found) for run in runs}
    compiled = {run.config for run in runs if Engine.read(run.record["engine"]).how == "compiled"}
    return {config: cost.compiled() if config in compiled else cost for config, cost in costs.items()}


def _scaled(kind: RunConfig, device: str, found: Mapping[RunConfig, Cost]) -> Cost:
    """What a kind costs by its size and by how others, of the same sort of task if there are some, kept to theirs."""
    others = {of: cost for of, cost in found.items() if of.of_tokens == kind.of_tokens} or found
    said = sum(rough(of, device).update for of in others)
    return rough(kind, device).times(sum(cost.update for cost in others.values()) / said if said else 1.0)


def rough(config: RunConfig, device: str = "cpu") -> Cost:
    """Return what a run costs by the numbers of its sizes alone, right to a factor of a few."""
    model, training = config.model, config.training
    width, wide = model.d_model, model.mlp.width_in + model.mlp.d_mlp if model.mlp else 0
    weights = model.n_layers * width * (4 * model.n_heads * model.d_head + wide)
    weights += width * (getattr(model.readout, "depth", 0) * width + model.readout.d_vocab_out)
    # Three products a weight, forward and twice backward; a classifier's last layer has one position.
    products = 6 * weights * config.tokens_per_step / (1 if config.of_tokens else 4)
    update = 2e-3 + products / (3e10 if torch.device(device).type == "cpu" else 3e12)
    sequences = training.n_eval + 3 * training.n_questions if config.of_tokens else 4 * training.n_eval
    look = 5e-3 + update * sequences / (3 * training.batch_size)
    return Cost(look / 2, update / 10, update, 3 * update, look, 3 * update)


@cache
def _measured(kind: RunConfig, device: str) -> Cost | None:
    """What a kind costs, by a few steps of it; ``None`` if it cannot be trained, which its training will say."""
    try:
        with _unseen(on := checked_device(device)):
            return _trained(kind, on)
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        return None


def _trained(kind: RunConfig, device: torch.device) -> Cost:
    def timed(what: Callable[[], Any]) -> tuple[Any, float]:
        began = clock()
        found = what()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found, clock() - began

    # The processor's own time is that of one thread, whoever else computes.
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    run = Unkept(kind)
    task, making = timed(lambda: run.task(str(device)))
    sets, drawing = timed(lambda: task.evaluation_sets(kind.training))
    trainer = Trainer(run, task, sets, str(device))
    looks, draws, updates = [], [], []
    began, used = time.perf_counter(), time.process_time()
    for step in range(STEPS):
        if step == STEPS - 1:
            trainer.backward = trainer.hooked_backward
        looks.append(timed(trainer.observe)[1])
        batch, seconds = timed(trainer.draw)
        draws.append(seconds)
        updates.append(timed(partial(trainer.update, batch))[1])
    share = min(1.0, (time.process_time() - used) / (time.perf_counter() - began))
    update, draw = statistics.median(updates[1:-1]), statistics.median(draws[1:])
    weights = sum(p.numel() * p.element_size() for p in trainer.parameters.values())
    # The first evaluation finds nothing prepared, and prepares what the others use.
    setup = making + drawing + max(0.0, looks[0] - looks[1])
    # A run has its weights, their gradients, and at most two numbers a weight of the optimizer.
    return Cost(setup, draw, update, updates[-1], looks[1], looks[2], peak_memory(device), 4 * weights, share)


@contextmanager
def _unseen(device: torch.device) -> Any:
    """Within, random numbers are drawn that nobody else sees, by one thread, as workers have."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), one_thread():
        if devices:
            torch.cuda.reset_peak_memory_stats(device)
        yield


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process had at any time: of a GPU's memory, on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
