"""Metrics: from logits and a pair to one number an example."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.pairs import Pair, ReadAt
from analysis.ready import require_finite
from circuits.common.errors import known, require

PerExample = Float[Tensor, " batch"]
Metric = Callable[[Float[Tensor, "batch pos d_vocab_out"], Pair], PerExample]
"""From the logits of some rows and their pairs to one number a row."""


def read(logits: Float[Tensor, "batch pos d_vocab_out"], at: ReadAt | None) -> Float[Tensor, "batch d_vocab_out"]:
    """Return the logits at a position, or at one of its own for every example, in single precision at least."""
    if isinstance(at, Tensor):
        return precise(logits[torch.arange(len(logits), device=logits.device), at.to(logits.device)])
    return precise(logits[:, -1 if at is None else at])


def check_logits(logits: Float[Tensor, "*any d_vocab_out"], of: str = "the model") -> None:
    """Raise ``NotFiniteError`` for logits that say nothing of any answer: with NaN among them, or the largest infinite.

    A logit of minus infinity is an answer that is ruled out, and may be among others.
    """
    # A maximum is NaN where any number is; comparisons with NaN are false, and would count it as right.
    require_finite(f"the logits of {of}", logits.detach().amax(-1))


def precise(values: Tensor) -> Float[Tensor, "*any"]:
    """Return numbers of any kind as floating-point numbers of single precision at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class ReadMetric:
    """A metric of the logits at ``pair.read_at`` alone: others need not be computed for it.

    As a decorator: ``@ReadMetric`` over a function of those logits (batch d_vocab_out) and the pair. Whether another
    function looks elsewhere cannot be known, so for it all logits are computed.
    """

    def __init__(self, of: Callable[[Float[Tensor, "batch d_vocab_out"], Pair], Tensor]):
        self.of = of
        update_wrapper(self, of)

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> Tensor:
        """Return the metric of every example.

        Raises:
            NotFiniteError: for logits that are not finite where they are read (minus infinity may be among others).
        """
        there = read(logits, pair.read_at)
        check_logits(there)
        return self.of(there, pair)


def _of(values: Float[Tensor, "batch d_vocab_out"], answers: Int[Tensor, " batch"]) -> PerExample:
    return values.gather(1, answers[:, None])[:, 0]


@ReadMetric
def logit_difference(there: Float[Tensor, "batch d_vocab_out"], pair: Pair) -> PerExample:
    """Return the logit of the clean answer minus that of the corrupt one, at the position that is read."""
    return _of(there, pair.answers) - _of(there, pair.wrong)


@ReadMetric
def probability(there: Float[Tensor, "batch d_vocab_out"], pair: Pair) -> PerExample:
    """Return the probability of the clean answer."""
    return _of(there.softmax(-1), pair.answers)


@ReadMetric
def loss(there: Float[Tensor, "batch d_vocab_out"], pair: Pair) -> PerExample:
    """Return the cross-entropy of the clean answer in nats; lower is better."""
    return -_of(there.log_softmax(-1), pair.answers)


@ReadMetric
def rank(there: Float[Tensor, "batch d_vocab_out"], pair: Pair) -> PerExample:
    """Return how many logits lie above the clean answer's: 0 is best, lower is better. It has no gradient."""
    return (there > _of(there, pair.answers)[:, None]).sum(-1).to(there.dtype)


@ReadMetric
def accuracy(there: Float[Tensor, "batch d_vocab_out"], pair: Pair) -> PerExample:
    """Return 1 where the clean answer has the highest logit, else 0. It has no gradient."""
    return (there.argmax(-1) == pair.answers).to(there.dtype)


METRICS: dict[str, ReadMetric] = {
    "logit_difference": logit_difference,
    "probability": probability,
    "rank": rank,
    "loss": loss,
    "accuracy": accuracy,
}
"""Metrics by name: ``logit_difference`` and ``probability`` of the clean answer, its ``rank`` (0 is the highest), its
``loss`` in nats, and ``accuracy``."""


def metric_named(metric: str | Metric) -> tuple[str, Metric]:
    """Return a metric's name and function.

    Raises:
        UnknownNameError: for a name that is not in ``METRICS`` (nearest suggested).
    """
    if isinstance(metric, str):
        return known("metric", metric, METRICS), METRICS[metric]
    require(callable(metric), f"a metric is one of {list(METRICS)}, or a function of logits and a pair, got {metric!r}")
    return getattr(metric, "__name__", "metric"), metric


def evaluate(metric: Metric, name: str, logits: Tensor, pair: Pair) -> PerExample:
    """Return a metric's values, in single precision at least, after checking that there is one finite number a row, of
    logits that are finite wherever the metric may look."""
    if isinstance(metric, ReadMetric):
        values = metric(logits, pair)
    else:
        check_logits(logits)
        # A metric of anyone's may write into what it is given.
        values = metric(logits.clone(), pair)
    if not isinstance(values, Tensor) or values.shape != (len(logits),) or values.is_complex():
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"metric {name!r} must return one number an example, ({len(logits)},); it returned {got}")
    # A copy: a few numbers sliced out of all logits would keep those alive for as long as they live themselves.
    return check_finite(name, precise(values)).clone()


def check_finite(name: str, values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return a metric's values after checking that every one is finite."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"metric {name!r} returned NaN or infinity for {int((~torch.isfinite(values)).sum())} example(s)"
        )
    return values


def require_gradient(name: str, values: PerExample) -> PerExample:
    """Return a metric's values after checking that they have a gradient."""
    if not values.requires_grad:
        smooth = [other for other in METRICS if other not in ("accuracy", "rank", name)]
        raise ValueError(f"metric {name!r} has no gradient, so nothing can be estimated from it; use one of {smooth}")
    return values


def require_some_gradient(name: str, there: bool) -> None:
    """Refuse a metric whose gradient is zero everywhere, which says that nothing has an effect.

    ``there`` says whether it is other than zero anywhere, in any example at any of the inputs where it was taken: in
    some examples a metric may well be at its bound.
    """
    if not there:
        raise ValueError(
            f"the gradient of metric {name!r} is zero everywhere (a sign, a rounding or a bound that is reached): "
            f"nothing can be estimated from it; patch exactly, or use a metric that is smooth"
        )
