"""A clean and a corrupt input that differ in one thing, with their answers and the positions that matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import known

Positions = dict[str, Int[Tensor, "batch _"]]
"""Positions by role, one row an example: ``{"target item": (batch 1), "matching label": (batch 2), ...}``."""


@dataclass(frozen=True)
class Pair:
    """A batch of clean/corrupt inputs; row i of one belongs to row i of the other.

    Raises:
        ValueError: if shapes, lengths or numbers of answers differ, saying which.
    """

    clean: Tensor
    """Inputs (batch pos d_input) or tokens (batch pos)."""
    corrupt: Tensor
    answers: Int[Tensor, " batch"]
    """The right answer to the clean input."""
    wrong: Int[Tensor, " batch"]
    """The right answer to the corrupt input, a wrong one to the clean input."""
    positions: Positions
    read_at: int = -1
    """The position whose logits are read."""

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupt.shape:
            raise ValueError(
                f"clean inputs are {tuple(self.clean.shape)} and corrupt ones {tuple(self.corrupt.shape)}: a pair "
                f"needs equal batch sizes and lengths, position by position"
            )
        if not len(self.answers) == len(self.wrong) == len(self.clean):
            raise ValueError(
                f"{len(self.clean)} inputs with {len(self.answers)} answers and {len(self.wrong)} wrong ones"
            )
        for role, places in self.positions.items():
            if len(places) != len(self.clean):
                raise ValueError(f"positions of {role!r} are given for {len(places)} of {len(self.clean)} examples")

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def n_pos(self) -> int:
        """The length of the inputs."""
        return self.clean.shape[1]

    def __getitem__(self, rows: slice) -> Pair:
        """Return the pairs of some rows."""
        positions = {role: places[rows] for role, places in self.positions.items()}
        parts = (self.clean[rows], self.corrupt[rows], self.answers[rows], self.wrong[rows])
        return Pair(*parts, positions=positions, read_at=self.read_at)


PerExample = Float[Tensor, " batch"]
Metric = Callable[[Float[Tensor, "batch pos d_vocab_out"], Pair], PerExample]
"""From the logits of some rows and their pairs to one number a row. Higher is nearer to the clean behaviour."""


def _read(logits: Tensor, pair: Pair) -> Float[Tensor, "batch d_vocab_out"]:
    return logits[:, pair.read_at]


def _of(values: Float[Tensor, "batch d_vocab_out"], answers: Int[Tensor, " batch"]) -> PerExample:
    return values.gather(1, answers[:, None])[:, 0]


def logit_difference(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return the logit of the clean answer minus that of the corrupt one, at the position that is read."""
    read = _read(logits, pair)
    return _of(read, pair.answers) - _of(read, pair.wrong)


def probability(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return the probability of the clean answer."""
    return _of(_read(logits, pair).softmax(-1), pair.answers)


def negative_loss(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return the log-probability of the clean answer in nats (minus its cross-entropy, so that higher is better)."""
    return _of(_read(logits, pair).log_softmax(-1), pair.answers)


def accuracy(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return 1 where the clean answer has the highest logit, else 0. It has no gradient."""
    return (_read(logits, pair).argmax(-1) == pair.answers).to(logits.dtype)


METRICS: dict[str, Metric] = {
    "logit_difference": logit_difference,
    "probability": probability,
    "negative_loss": negative_loss,
    "accuracy": accuracy,
}


def metric_named(metric: str | Metric) -> tuple[str, Metric]:
    """Return a metric's name and function.

    Raises:
        UnknownNameError: for a name that is not in ``METRICS`` (nearest suggested).
    """
    if isinstance(metric, str):
        return known("metric", metric, METRICS), METRICS[metric]
    return getattr(metric, "__name__", "metric"), metric


def evaluate(metric: Metric, name: str, logits: Tensor, pair: Pair) -> PerExample:
    """Return a metric's values after checking that there is one finite number a row.

    Raises:
        ValueError: naming the metric and what it returned.
    """
    values = metric(logits, pair)
    if not isinstance(values, Tensor) or values.shape != (len(logits),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"metric {name!r} must return one number an example, ({len(logits)},); it returned {got}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"metric {name!r} returned NaN or infinity for {int((~torch.isfinite(values)).sum())} example(s)"
        )
    return values
