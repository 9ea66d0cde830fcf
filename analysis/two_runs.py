"""The two runs of a pair that a question compares: the one that is changed, and the one that changes come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analysis.gap import Gap, measure_gap
from analysis.metrics import Metric, PerExample, evaluate, metric_named, read, require_gradient
from analysis.pairs import Pair, check_readable
from analysis.ready import require_eval_mode, require_no_hooks
from circuits.errors import known
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
        """Return the metric of other logits for the same pairs.

        Raises:
            ValueError: if it is not one finite number an example.
        """
        return evaluate(self.function, self.metric, logits, self.pair)

    @property
    def gap(self) -> PerExample:
        """The metric of the source run minus that of the base run."""
        return self.target - self.baseline


@torch.no_grad()
def two_runs(
    model: HookedStreamTransformer,
    pair: Pair,
    metric: str | Metric,
    direction: Direction,
    operation: str,
    gradient: bool = False,
) -> TwoRuns:
    """Return both runs, checked; ``gradient`` asks for a metric that has one.

    Raises:
        ValueError: for a model in training mode or with hooks attached, an unknown metric or direction, a pair that the
            model cannot answer or that is read at padding, a metric that does not return one finite number an example
            or has no gradient, or a pair whose clean and corrupt metric are equal.
    """
    require_eval_mode(model, operation)
    require_no_hooks(model, operation)
    known("direction", direction, DIRECTIONS)
    pair.require_difference()
    check_readable(model, pair)
    name, function = metric_named(metric)
    clean, corrupt = model(pair.clean), model(pair.corrupt)
    if gradient:
        with torch.enable_grad():
            require_gradient(name, evaluate(function, name, corrupt.detach().clone().requires_grad_(), pair))
    of_clean, of_corrupt = (evaluate(function, name, logits, pair) for logits in (clean, corrupt))
    beside = measure_gap(name, of_clean, of_corrupt, read(clean, pair.read_at), pair, clean.dtype)
    sides = [(pair.clean, of_clean), (pair.corrupt, of_corrupt)]
    (source, target), (base, baseline) = sides if direction == "denoise" else sides[::-1]
    return TwoRuns(pair, source, base, name, function, target, baseline, direction, beside)
