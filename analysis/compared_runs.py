"""The two runs of a pair that a question compares: the one that is changed, and the one that changes come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.gap import Gap, measure_gap
from analysis.memory import beside_logits, bound_for, copies_within, in_batches, logits_of_one, run_of_one
from analysis.metrics import Metric, PerExample, evaluate, metric_named, read, require_gradient
from analysis.pairs import Pair, check_readable
from analysis.ready import require_eval_mode, require_gradients, require_no_hooks
from circuits.common.errors import known
from circuits.model import HookedStreamTransformer

Direction = Literal["denoise", "noise"]
DIRECTIONS: dict[str, str] = {
    "denoise": "the corrupt run with clean activations patched in; effect 1 = the clean metric is restored",
    "noise": "the clean run with corrupt activations patched in; effect 1 = the metric falls to the corrupt one's",
}


@dataclass(frozen=True)
class TwoRuns:
    """The inputs of both runs and what a metric says of each."""

    pair: Pair
    source: Tensor
    """The inputs that activations come from."""
    base: Tensor
    """The inputs of the run that is changed."""
    metric: str
    function: Metric
    target: PerExample
    """The metric of the source run."""
    baseline: PerExample
    """The metric of the base run."""
    direction: str
    beside: Gap
    """What stands beside every effect."""

    def measure(self, logits: Tensor) -> PerExample:
        """Return the metric of other logits for the same pairs."""
        return evaluate(self.function, self.metric, logits, self.pair)

    @property
    def gap(self) -> PerExample:
        """The metric of the source run minus that of the base run."""
        return self.target - self.baseline


def comparable(
    model: HookedStreamTransformer, pair: Pair, metric: str | Metric, direction: Direction, operation: str
) -> tuple[str, Metric]:
    """Return the metric's name and function, where the model, the pair and the direction allow the question."""
    require_eval_mode(model, operation)
    require_no_hooks(model, operation)
    known("direction", direction, DIRECTIONS)
    pair.require_difference()
    check_readable(model, pair)
    return metric_named(metric)


def in_order(direction: Direction, clean: Tensor, corrupt: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is of the source run and what is of the base run; exchanged again, what is clean and corrupt."""
    return (clean, corrupt) if direction == "denoise" else (corrupt, clean)


@torch.no_grad()
def two_runs(
    model: HookedStreamTransformer,
    pair: Pair,
    metric: str | Metric,
    direction: Direction,
    operation: str,
    gradient: bool = False,
    max_memory: int | None = None,
    needed: Callable[[Metric], int] = lambda metric: 0,
) -> TwoRuns:
    """Return both runs, checked; ``gradient`` asks for a metric that has one.

    ``needed`` says how many bytes the question needs after this; a bound that is less is refused before anything runs.
    """
    name, function = comparable(model, pair, metric, direction, operation)
    if gradient:
        require_gradients(model, operation, pair.clean, pair.corrupt, pair.answers, pair.wrong)
    logits = logits_of_one(model, pair.n_pos)
    one = run_of_one(model, pair.n_pos) + beside_logits(function, logits) + 3 * gradient * logits
    # The logits that are read: batch by batch, together, and their sizes.
    held = 3 * len(pair) * logits_of_one(model, 1)
    if max_memory is not None:
        bound_for(max_memory, max(held + one, needed(function)), pair.clean.device)
    parts: list[list[Tensor]] = []
    dtype = model.W_U.dtype
    for rows in in_batches(len(pair), copies_within(max_memory, one, 1, pair.clean.device, held)):
        part = pair if rows == slice(0, len(pair)) else pair[rows]
        *found, dtype = _both(model, part, name, function, gradient)
        parts.append(found)
    of_clean, of_corrupt, there = (torch.cat(found) for found in zip(*parts, strict=True))
    beside = measure_gap(name, of_clean, of_corrupt, there, pair, dtype)
    target, baseline = in_order(direction, of_clean, of_corrupt)
    return TwoRuns(
        pair, *in_order(direction, pair.clean, pair.corrupt), name, function, target, baseline, direction, beside
    )


def _both(
    model: HookedStreamTransformer, pair: Pair, name: str, function: Metric, gradient: bool
) -> tuple[PerExample, PerExample, Float[Tensor, "batch d_vocab_out"], torch.dtype]:
    """The metric of both sides, the clean side's logits where they are read, and the kind of its numbers."""
    logits = model(pair.corrupt)
    if gradient:
        with torch.enable_grad():
            require_gradient(name, evaluate(function, name, logits.detach().clone().requires_grad_(), pair))
    corrupt = evaluate(function, name, logits, pair)
    logits = model(pair.clean)
    # A copy: a view would keep all logits of every batch.
    there = read(logits, pair.read_at).clone()
    return evaluate(function, name, logits, pair), corrupt, there, logits.dtype
