"""A clean and a corrupt input that differ in one thing, with their answers and the positions that matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import known

Positions = dict[str, Int[Tensor, "batch _"]]
"""Positions by role, one row an example: ``{"target item": (batch 1), "matching label": (batch 2), ...}``."""


ReadAt = int | Int[Tensor, " batch"]
"""The position whose logits are read; a tensor holds one for every example (for prompts of different lengths)."""


@dataclass(frozen=True)
class Pair:
    """A batch of clean/corrupt inputs; row i of one belongs to row i of the other.

    Raises:
        ValueError: if shapes, kinds or numbers of answers differ, a position is not in the inputs, or clean and corrupt
            are the same, saying which.
    """

    clean: Tensor
    """Inputs (batch pos d_input) or tokens (batch pos)."""
    corrupt: Tensor
    answers: Int[Tensor, " batch"]
    """The right answer to the clean input."""
    wrong: Int[Tensor, " batch"]
    """The right answer to the corrupt input, a wrong one to the clean input."""
    positions: Positions
    read_at: ReadAt = -1

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupt.shape:
            raise ValueError(
                f"clean inputs are {tuple(self.clean.shape)} and corrupt ones {tuple(self.corrupt.shape)}: a pair "
                f"needs equal batch sizes and lengths, position by position"
            )
        if self.clean.dtype != self.corrupt.dtype:
            raise ValueError(
                f"clean inputs are {self.clean.dtype} and corrupt ones {self.corrupt.dtype}: make them of one kind"
            )
        if not len(self.answers) == len(self.wrong) == len(self.clean):
            raise ValueError(
                f"{len(self.clean)} inputs with {len(self.answers)} answers and {len(self.wrong)} wrong ones"
            )
        for role, places in self.positions.items():
            if len(places) != len(self.clean):
                raise ValueError(f"positions of {role!r} are given for {len(places)} of {len(self.clean)} examples")
            self._check_within(f"positions of {role!r}", places)
        if isinstance(self.read_at, Tensor) and len(self.read_at) != len(self.clean):
            raise ValueError(f"read_at has {len(self.read_at)} positions for {len(self.clean)} examples")
        self._check_within("read_at", torch.as_tensor(self.read_at))

    def _check_within(self, what: str, places: Int[Tensor, "*any"]) -> None:
        outside = places[(places < -self.n_pos) | (places >= self.n_pos)]
        if len(outside):
            raise ValueError(f"{what}: {int(outside[0])} is not a position of inputs of {self.n_pos} positions")

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def n_pos(self) -> int:
        """The length of the inputs."""
        return self.clean.shape[1]

    @property
    def reads(self) -> Int[Tensor, " batch"]:
        """Where the logits of every example are read, counted from the start."""
        at = torch.as_tensor(self.read_at, device=self.clean.device)
        return (at % self.n_pos).expand(len(self))

    def __getitem__(self, rows: slice) -> Pair:
        """Return the pairs of some rows."""
        positions = {role: places[rows] for role, places in self.positions.items()}
        parts = (self.clean[rows], self.corrupt[rows], self.answers[rows], self.wrong[rows])
        read_at = self.read_at[rows] if isinstance(self.read_at, Tensor) else self.read_at
        return Pair(*parts, positions=positions, read_at=read_at)

    def require_difference(self) -> None:
        """Refuse pairs between which nothing can be patched.

        Raises:
            ValueError: if clean and corrupt inputs are the same in every example.
        """
        if torch.equal(self.clean, self.corrupt):
            raise ValueError("clean and corrupt inputs are the same everywhere: nothing can be patched between them")

    def where(self, position: int | str | None) -> Bool[Tensor, "batch pos"]:
        """Return where a position, or a role, is in every example; ``None`` is everywhere."""
        mask = torch.zeros(len(self), self.n_pos, dtype=torch.bool, device=self.clean.device)
        if position is None:
            return ~mask
        if isinstance(position, int):
            mask[:, position] = True
            return mask
        return mask.scatter_(1, self.positions[position].to(mask.device) % self.n_pos, True)


PerExample = Float[Tensor, " batch"]
Metric = Callable[[Float[Tensor, "batch pos d_vocab_out"], Pair], PerExample]
"""From the logits of some rows and their pairs to one number a row."""


def read(logits: Float[Tensor, "batch pos d_vocab_out"], at: ReadAt) -> Float[Tensor, "batch d_vocab_out"]:
    """Return the logits at a position, or at one of its own for every example."""
    if isinstance(at, int):
        return logits[:, at]
    return logits[torch.arange(len(logits), device=logits.device), at.to(logits.device)]


def _of(values: Float[Tensor, "batch d_vocab_out"], answers: Int[Tensor, " batch"]) -> PerExample:
    return values.gather(1, answers[:, None])[:, 0]


def logit_difference(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return the logit of the clean answer minus that of the corrupt one, at the position that is read."""
    there = read(logits, pair.read_at)
    return _of(there, pair.answers) - _of(there, pair.wrong)


def probability(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return the probability of the clean answer."""
    return _of(read(logits, pair.read_at).softmax(-1), pair.answers)


def loss(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return the cross-entropy of the clean answer in nats; lower is better."""
    return -_of(read(logits, pair.read_at).log_softmax(-1), pair.answers)


def rank(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return how many logits lie above the clean answer's: 0 is best, lower is better. It has no gradient."""
    there = read(logits, pair.read_at)
    return (there > _of(there, pair.answers)[:, None]).sum(-1).to(logits.dtype)


def accuracy(logits: Float[Tensor, "batch pos d_vocab_out"], pair: Pair) -> PerExample:
    """Return 1 where the clean answer has the highest logit, else 0. It has no gradient."""
    return (read(logits, pair.read_at).argmax(-1) == pair.answers).to(logits.dtype)


METRICS: dict[str, Metric] = {
    "logit_difference": logit_difference,
    "probability": probability,
    "rank": rank,
    "loss": loss,
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
    return check_finite(name, values)


def check_finite(name: str, values: Float[Tensor, "*copy batch"]) -> Float[Tensor, "*copy batch"]:
    """Return a metric's values after checking that every one is finite.

    Raises:
        ValueError: naming the metric, and for how many examples it is not.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"metric {name!r} returned NaN or infinity for {int((~torch.isfinite(values)).sum())} example(s)"
        )
    return values


def require_gradient(name: str, values: PerExample) -> PerExample:
    """Return a metric's values after checking that they have a gradient.

    Raises:
        ValueError: naming the metric, and those that have one.
    """
    if not values.requires_grad:
        smooth = [other for other in METRICS if other not in ("accuracy", "rank")]
        raise ValueError(f"metric {name!r} has no gradient, so nothing can be estimated from it; use one of {smooth}")
    return values


class NoGapError(ValueError):
    """A metric does not tell the clean from the corrupt run."""


def check_gap(name: str, target: PerExample, baseline: PerExample) -> None:
    """Refuse a pair of runs that a metric does not tell apart.

    Raises:
        NoGapError: if the means are equal, so that no effect can be measured against their difference.
    """
    if float((target - baseline).mean().abs()) <= 1e-6 * float(target.abs().mean() + baseline.abs().mean()):
        raise NoGapError(
            f"clean and corrupt {name} are equal on average ({float(target.mean()):.4g}), so no effect can be measured "
            f"against their difference; choose a pair that the metric tells apart"
        )
