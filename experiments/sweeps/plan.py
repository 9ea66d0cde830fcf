"""What a sweep has to do and will take, before it begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.runs.config import RunConfig
from experiments.runs.run import Run
from experiments.sweeps.cost import Cost, costs_of, kind_of
from experiments.sweeps.forecast import Expected, Forecast
from experiments.sweeps.progress import duration
from experiments.sweeps.waiting_groups import accelerated, grouped
from experiments.training.together import never

START_SECONDS = 8.0
"""From the start of a worker process to its first run: torch is imported."""
WORTH_SECONDS = 20.0
"""Shorter sweeps are begun without a word: to measure them would take a good part of them."""
SHARE, SECONDS, MOST_SECONDS = 0.02, 2.0, 10.0
"""Measuring takes so many seconds and this share of the work, and never more than the last."""


@dataclass(frozen=True)
class Plan:
    """The groups of runs that a sweep trains, on how many processes, and what is expected of them."""

    runs: Sequence[Run]
    """All that were asked for, each once, the finished ones too."""
    groups: Sequence[Sequence[Run]]
    processes: int
    forecast: Forecast
    memory: int = 0
    """Bytes of one process at its peak, on a GPU of the GPU's memory; 0 where nothing was measured."""
    bounded: bool = False
    """Whether they were measured of every kind of run, so that none needs more."""

    @property
    def seconds(self) -> float:
        """How long it takes; where runs may stop early, and nothing is known of when, at most."""
        return self.forecast.total() + (START_SECONDS if self.processes > 1 else 0.0)

    @property
    def may_stop(self) -> int:
        """How many runs may stop early of which nobody knows when."""
        return sum(e.may_stop and e.end is None for e in self.forecast.runs.values())

    @property
    def measured(self) -> bool:
        """Whether it is more than a guess."""
        return self.memory > 0

    def sentence(self) -> str:
        """Return the plan as one line."""
        training = sum(map(len, self.groups))
        finished = len(self.runs) - training
        runs = "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs"
        of = f" ({finished} finished, {training} to train)" if finished else ""
        most = f"at most about {duration(self.seconds)}" if self.may_stop else f"about {duration(self.seconds)}"
        early = f" ({self.may_stop} may stop early)" if self.may_stop else ""
        where = f"{self.processes} processes" if self.processes > 1 else "1 process"
        each = " each" if self.processes > 1 else ""
        bound = "at most" if self.bounded else "about"
        memory = f", {bound} {self.memory / 1e9:.1f} GB of memory{each}" if self.memory else ""
        return f"{runs}{of}, {most} on {where}{early}{memory}"


def planned(
    runs: Sequence[Run],
    workers: int,
    device: str = "cpu",
    ends: Mapping[str, int] | None = None,
    measure: bool = True,
    stop: Callable[[], bool] = never,
) -> Plan:
    """Return what it takes to train those of the runs that are not finished, in at most so many processes.

    ``ends`` are steps at which runs of these ids are known to stop. What costs too little to be measured, and all
    without ``measure``, is told by its size alone, right to a factor of a few. ``stop`` is asked between measurements.
    """
    runs = list({run.path: run for run in runs}.values())
    groups = grouped([run for run in runs if not run.finished], workers, device)
    pending = [run for group in groups for run in group]
    plan = _plan(runs, groups, workers, device, ends or {}, costs_of(pending, device, 0.0))
    seconds = plan.forecast.total()
    if not measure or seconds < WORTH_SECONDS:
        return plan
    costs = costs_of(pending, device, min(MOST_SECONDS, SECONDS + SHARE * seconds), stop)
    return _plan(runs, groups, workers, device, ends or {}, costs)


def _plan(
    runs: Sequence[Run],
    groups: Sequence[Sequence[Run]],
    workers: int,
    device: str,
    ends: Mapping[str, int],
    costs: Mapping[RunConfig, Cost],
) -> Plan:
    stacked, processes = accelerated(device), max(1, min(workers, len(groups)))
    kinds: dict[Any, int] = {}
    expected: dict[str, Expected] = {}
    memory = 0
    for group in groups:
        for run in group:
            config, end = run.config, ends.get(run.config.id)
            stop = config.training.stop_at
            kind = kinds.setdefault((kind_of(config), stop), len(kinds))
            seconds = costs[config].of(config, len(group), stacked)
            expected[run.path.name] = Expected(kind, config.training.steps, seconds, run.step, end, stop is not None)
        together = [costs[run.config] for run in group]
        most = max(cost.memory for cost in together)
        memory = max(memory, most * len(group) if stacked else most + sum(cost.beside for cost in together[1:]))
    names = [[run.path.name for run in group] for group in groups]
    measured = [cost for cost in costs.values() if cost.memory]
    # On an accelerator the processor waits, too.
    share = 1.0 if stacked or not measured else sum(cost.share for cost in measured) / len(measured)
    forecast = Forecast(names, expected, processes, slowed(share, processes, cores()))
    return Plan(runs, groups, processes, forecast, memory, len(measured) == len(costs))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slowed(share: float, processes: int, cores: int) -> float:
    """Return how many times longer processes take than with a core each, if one alone got a ``share`` of a core.

    One gets less than all where more than there are cores compute.
    """
    others = cores / share - 1 if share < 0.9 else 0.0
    return max(1.0, (processes + others) / cores)
