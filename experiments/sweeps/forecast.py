"""How long runs take on so many processes: by what each costs, corrected by what is seen of those that train."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

PRIOR_SECONDS = 2.0
"""A kind's cost is believed as if it had been seen for so long, beside what is seen."""


@dataclass(frozen=True)
class Expected:
    """What is expected of a run before it begins."""

    kind: Hashable
    """Runs of one kind cost the same."""
    steps: int
    seconds: float
    """Of all its steps, evaluations included, in a process that has a core of its own."""
    at: int = 0
    """The step from which it goes on."""
    end: int | None = None
    """The step at which it stops early, where an equal run is known to have stopped."""
    may_stop: bool = False

    @property
    def pace(self) -> float:
        """Seconds a step."""
        return self.seconds / self.steps


class Forecast:
    """The time that groups of runs still take. A group trains in one process, and groups begin in their order."""

    def __init__(
        self,
        groups: Iterable[Sequence[str]],
        runs: Mapping[str, Expected],
        processes: int = 1,
        slowed: float = 1.0,
    ):
        """``slowed``: how many times longer everything takes than expected, as far as that is known before."""
        self.runs, self.processes, self.slowed = dict(runs), processes, slowed
        self.groups = {name: number for number, group in enumerate(groups) for name in group}
        """The group of every run that is not finished."""
        self.at = {name: run.at for name, run in self.runs.items()}
        self._seen, self._going = set[str](), set[str]()
        self._clock: dict[int, tuple[float, float]] = {}
        """When a group made its first step, and its last one."""
        self._made: defaultdict[int, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        """Seconds, as expected, of the steps that the runs of a group made between the two."""
        self._shares: defaultdict[Hashable, list[float]] = defaultdict(list)

    @classmethod
    def alike(cls, steps: Mapping[str, int]) -> Forecast:
        """Return the forecast of runs one after the other, of which nothing is known but how many steps they have."""
        return cls([[name] for name in steps], {name: Expected("", n, float(n)) for name, n in steps.items()})

    def report(self, name: str, step: int, now: float) -> None:
        """Take the step at which a run is, and the time in seconds."""
        before, self.at[name] = self.at[name], step
        if name in self._seen and step > before:
            group = self.groups[name]
            if name in self._going:
                self._made[group][name] += (step - before) * self.runs[name].pace
            # What comes before the first step's end, and may be compiling, says nothing of the other steps.
            self._going.add(name)
            self._clock[group] = self._clock.get(group, (now, now))[0], now
        self._seen.add(name)

    def ended(self, name: str) -> None:
        """Take the end of a run: others of its kind that may stop early are expected to do so as early."""
        run = self.runs[name]
        if name in self._seen and run.may_stop:
            self._shares[run.kind].append(self.at[name] / run.steps)

    def again(self, name: str) -> None:
        """Take that a run waits for a process of its own, after all others."""
        self.groups.pop(name)
        self._seen.discard(name)
        self._going.discard(name)
        self.groups[name] = 1 + max(self.groups.values(), default=0)

    def left(self, running: Container[str], waiting: Container[str]) -> float:
        """Return the seconds to the end of all runs; infinite before anything is seen."""
        return self._left(running, waiting) if self._made else math.inf

    def total(self, names: Container[str] | None = None) -> float:
        """Return the seconds that runs take, all that are not finished or those that are named, if they are all that is
        trained."""
        return self._left((), self.groups if names is None else names)

    def _left(self, running: Container[str], waiting: Container[str]) -> float:
        factors, general = self._factors()
        busy, idle = (self._by_group(names, factors, general) for names in (running, waiting))
        free = sorted([*busy, *[0.0] * (self.processes - len(busy))])
        for seconds in idle:
            heapq.heapreplace(free, free[0] + seconds)
        return max(free)

    def _by_group(self, names: Container[str], factors: Mapping[Hashable, float], general: float) -> list[float]:
        left: defaultdict[int, float] = defaultdict(float)
        for name, group in self.groups.items():
            if name in names:
                run = self.runs[name]
                left[group] += self._steps(name) * run.pace * factors.get(run.kind, general)
        return list(left.values())

    def _steps(self, name: str) -> float:
        run, at = self.runs[name], self.at[name]
        if run.end is not None:
            return float(max(0, run.end - at))
        shares = self._shares[run.kind] if run.may_stop else []
        return (run.steps - at) * (sum(shares) / len(shares) if shares else 1.0)

    def _factors(self) -> tuple[dict[Hashable, float], float]:
        """How many times longer than expected a kind takes; and all together, which is all that is known of others."""
        spent: defaultdict[Hashable, float] = defaultdict(float)
        expected: defaultdict[Hashable, float] = defaultdict(float)
        for group, made in self._made.items():
            begin, latest = self._clock[group]
            factor = (latest - begin) / sum(made.values())
            for name, seconds in made.items():
                expected[self.runs[name].kind] += seconds
                spent[self.runs[name].kind] += seconds * factor
        seen = sum(spent.values()), sum(expected.values())
        general = (PRIOR_SECONDS * self.slowed + seen[0]) / (PRIOR_SECONDS + seen[1])
        prior = PRIOR_SECONDS * general
        return {kind: (prior + spent[kind]) / (PRIOR_SECONDS + expected[kind]) for kind in expected}, general
