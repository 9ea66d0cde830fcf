"""What a question takes, before it is asked: passes through the model, and their time from a few that are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import analysis

if TYPE_CHECKING:
    from circuits.model import HookedStreamTransformer as Model
else:
    Model = Any

T = TypeVar("T")
WORTH_SECONDS = 2.0
"""What takes less by one plain pass is not measured closer."""
SAMPLE, SHARE, MOST = 8, 0.05, 64
"""So many passes of a sort are measured, or this share of them but no more than the last."""
ESTIMATING = 2.0
"""A pass that estimates effects from gradients, in plain ones forward and backward, as measured."""


@dataclass(frozen=True)
class Work:
    """Passes of one sort: how many of them a question makes, and a function that makes so many as it is told."""

    passes: int
    sample: Callable[[int], Any] | None = None
    """``None`` where a plain pass costs the same."""
    backward: bool = False
    times: float = 1.0
    """Plain passes that one of these costs, where there is no sample."""


@dataclass(frozen=True)
class Cost:
    """What a question takes."""

    forward: int
    """Passes of all its examples through the model, and"""
    backward: int
    """so many forward and backward."""
    examples: int
    seconds: float
    memory: int
    """Bytes by which the process grows: at most, where there is a bound, else as a sample made it grow."""
    at_most: bool = False
    """Whether there may be fewer passes, as what is found decides."""

    def sentence(self) -> str:
        """Return it as one line."""
        from experiments.sweeps.progress import duration

        kinds = {"forward": self.forward, "forward and backward": self.backward}
        passes = " and ".join(f"{n:,} {kind}" for kind, n in kinds.items() if n)
        most = "at most " if self.at_most else ""
        takes = f"{most}about {duration(self.seconds)}" if self.seconds > WORTH_SECONDS else "a few seconds"
        return f"{most}{passes} passes of {self.examples} examples, {takes}, up to {self.memory / 1e9:.1f} GB of memory"


def cost_of(
    model: Model,
    pair: analysis.Pair,
    works: Sequence[Work],
    max_memory: int | None,
    at_most: bool = False,
    bounded: bool = True,
) -> Cost:
    """Return what some work takes on a pair, from a plain pass each way and, if it is long, a sample of each sort.

    ``bounded``: whether it keeps to ``max_memory``, ``None`` being a quarter of what is free.
    """
    import psutil
    import torch

    from analysis.memory import free_memory
    from experiments.sweeps.cost import peak_memory

    before = psutil.Process().memory_info().rss if pair.clean.device.type == "cpu" else 0

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def forward() -> Any:
        with torch.no_grad():
            return model(pair.clean)

    def both() -> Any:
        with torch.enable_grad():
            return torch.autograd.grad(model(pair.clean).sum(), parameters, allow_unused=True)

    plain = {False: min(_seconds(forward) for _ in range(2)), True: 0.0}
    if any(work.backward for work in works):
        plain[True] = min(_seconds(both) for _ in range(2))
    seconds = [work.passes * work.times * plain[work.backward] for work in works]
    if sum(seconds) > WORTH_SECONDS:
        seconds = [_sampled(work, guess) for work, guess in zip(works, seconds, strict=True)]
    passes = {way: sum(work.passes for work in works if work.backward == way) for way in plain}
    memory = free_memory(pair.clean.device) // 4 if max_memory is None else max_memory
    if not bounded:
        memory = max(0, peak_memory(pair.clean.device) - before)
    return Cost(passes[False], passes[True], len(pair), sum(seconds), memory, at_most)


def _sampled(work: Work, guess: float) -> float:
    if work.sample is None or work.passes <= SAMPLE:
        return guess
    # What one takes is mostly what comes before it.
    first = _seconds(lambda: work.sample(1))  # type: ignore[misc] # there is one
    n = max(SAMPLE, min(MOST, int(SHARE * work.passes)))
    more = _seconds(lambda: work.sample(n))  # type: ignore[misc] # there is one
    return first + (work.passes - 1) * max(0.0, more - first) / (n - 1)


def _seconds(what: Callable[[], Any]) -> float:
    import torch

    began = time.perf_counter()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def spread(items: Sequence[T], n: int) -> list[T]:
    """Return ``n`` of some items, evenly from first to last; all, if there are no more."""
    n = min(n, len(items))
    return [items[(i * len(items)) // n] for i in range(n)]
