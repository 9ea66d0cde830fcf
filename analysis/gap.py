"""The difference between the clean and the corrupt run, which every effect is a share of."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.metrics import PerExample, accuracy, logit_difference, precise
from analysis.pairs import Pair
from analysis.statistics.intervals import mean_interval

_STEPS = 32


class NoGapError(ValueError):
    """A metric does not tell the clean from the corrupt run."""


class WeakPairWarning(UserWarning):
    """Effects are shares of a difference that may be none, or of a model that does not do the task."""


@dataclass(frozen=True)
class Gap:
    """What effects are shares of: the metric of the clean and of the corrupt run, and how the model does."""

    clean: float
    """The metric of the clean inputs, mean over examples."""
    corrupt: float
    accuracy: float
    """The share of clean inputs whose answer has the highest logit."""
    n: int
    warnings: tuple[str, ...] = ()
    """What a reader of effects must know: a difference that may be none, a model that does not do the task."""

    def sentence(self, metric: str) -> str:
        """Return in words what effects are shares of."""
        return (
            f"{metric}: clean {self.clean:.4g}, corrupt {self.corrupt:.4g}; accuracy on the clean side "
            f"{self.accuracy:.3g}, n = {self.n}"
        )

    def columns(self) -> dict[str, float | int]:
        """Return the numbers as columns that stand beside every effect."""
        return {"clean": self.clean, "corrupt": self.corrupt, "accuracy": self.accuracy, "n": self.n}


def measure_gap(
    name: str,
    clean: PerExample,
    corrupt: PerExample,
    there: Float[Tensor, "batch d_vocab_out"],
    pair: Pair,
    dtype: torch.dtype,
) -> Gap:
    """Return a metric of both runs and the model's accuracy, from its logits of the clean inputs where they are read.

    ``dtype`` is that of the model's numbers: a gap of a few of their steps is told too.
    A pair that the metric does not tell apart from chance over the examples, or a model that prefers the wrong answers,
    is told in a :class:`WeakPairWarning`.
    """
    difference = precise(clean - corrupt)
    if float(difference.mean().abs()) <= 1e-6 * float(clean.abs().mean() + corrupt.abs().mean()):
        raise NoGapError(
            f"clean and corrupt {name} are equal on average ({float(clean.mean()):.4g}), so no effect can be measured "
            f"against their difference; choose a pair that the metric tells apart"
        )
    there = precise(there)
    right = float(accuracy.of(there, pair).mean())
    said = []
    found = mean_interval(difference.detach().double().cpu().numpy())
    if found.low <= 0 <= found.high:
        said.append(
            f"clean and corrupt {name} are not told apart: they differ by {found} (95 % interval) over {len(pair)} "
            f"pairs, so effects, which are shares of that, say little; take more pairs, or others"
        )
    step = torch.finfo(dtype).eps * float(there.abs().max())
    if abs(found.mean) < _STEPS * step:
        said.append(
            f"clean and corrupt {name} differ by {found.mean:.3g}, and the model computes in {dtype}, whose steps are "
            f"{step:.2g} at its largest logits: effects carry that error; use model.float()"
        )
    preferred = float(logit_difference.of(there, pair).mean())
    if preferred <= 0:
        said.append(
            f"the model does not do what it is asked: on the clean inputs its logit of the right answers is "
            f"{-preferred:.3g} below that of the wrong ones, accuracy {right:.2g} over {len(pair)} pairs; "
            f"effects say what moves the metric, not how a task is done"
        )
    for sentence in said:
        warnings.warn(sentence, WeakPairWarning, stacklevel=2)
    return Gap(float(clean.mean()), float(corrupt.mean()), right, len(pair), tuple(said))
