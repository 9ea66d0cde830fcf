"""A task of vectors: sequences with one answer each, at the last position; what its trainer and an analysis ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from analysis.gradients.shares import By, split_gradient
from analysis.gradients.split import GradientSplit
from analysis.heads.attention_scores import AttentionScore, one_table, previous_token, score_heads
from analysis.pairs import Pair
from analysis.ready import require_eval_mode
from circuits.model import HookedStreamTransformer
from experiments.tasks.drawn import DrawnTask
from experiments.tasks.task import HeadScorer, Row, TrainingNumbers

CHUNK = 500
"""Sequences in one forward pass of an evaluation."""


@dataclass(frozen=True)
class VectorBatch:
    """Sequences of vectors, and the answers asked for at their last positions."""

    inputs: Float[Tensor, "batch pos d_input"]
    labels: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> VectorBatch:
        """Return some of the sequences."""
        return VectorBatch(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True)
class VectorEvaluationSets:
    """What is measured of a model: sequences of every split but that of training."""

    sets: dict[str, Any]

    @property
    def measured(self) -> dict[str, tuple[str, ...]]:
        """What is measured, by set."""
        return dict.fromkeys(self.sets, ("accuracy", "loss"))


class VectorTask(DrawnTask):
    """What every task of vectors inherits; each brings ``sample``, whose batch has ``inputs`` and ``labels``
    (:class:`VectorBatch`), and for questions ``pairs`` and ``corruptions``."""

    watched = ("validation", "accuracy")
    """The set and the measure that tell how far a training is."""
    logs_training_loss = False
    """Sequences are never seen twice, so the loss on others says the same."""

    def sequences(self, n: int, split: str = "validation", seed: int = 1) -> Pair:
        """Return ``n`` sequences of a split, as the clean side of a pair: other ones than those of ``pairs``, and
        of "train" such as no step trains on.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        batch = self._asked(n, split, seed)
        return Pair.one_sided(batch.inputs, batch.labels)

    def _asked(self, n: int, split: str, seed: int) -> Any:
        """Return sequences of a split that no step trains on: steps draw those of "train" by their numbers."""
        return self.sample(n, split, 2**41 + seed if split == "train" else seed)

    def head_scores(self, batch: Any) -> list[AttentionScore]:
        """Return the attention scores that this task gives meaning to, for the sequences of a batch."""
        return [previous_token(batch.inputs)]

    def head_scorer(self, n: int, split: str = "validation", seed: int = 1) -> HeadScorer:
        """Return the function of a model to what can be said of its heads, on ``n`` sequences of a split: the task's
        attention scores.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        batch = self._asked(n, split, seed)
        scores = self.head_scores(batch)
        return lambda model: one_table([score_heads(model, batch.inputs, scores)])

    # --- what a trainer asks ------------------------------------------------------------------------------------------

    def loss(self, model: HookedStreamTransformer, batch: Any) -> Float[Tensor, ""]:
        """Return the mean negative log-probability (nats) of the labels asked for, by the hooked model."""
        return functional.cross_entropy(model(batch.inputs)[:, -1], batch.labels)

    def fast_loss(self, model: HookedStreamTransformer) -> Callable[[Any], Float[Tensor, ""]]:
        """Return :meth:`loss` as a function of the batch: there is no faster path."""
        return partial(self.loss, model)

    def counted(self, batch: Any) -> Int[Tensor, ""]:
        """Return how many answers a batch's loss is a mean over."""
        return torch.tensor(len(batch))

    def evaluation_sets(self, training: TrainingNumbers) -> Any:
        """Return the sequences that :meth:`measures` looks at, for as many runs as train on this task."""
        return VectorEvaluationSets({s: self.sample(training.n_eval, s) for s in self.splits if s != "train"})

    @torch.no_grad()
    def measures(self, model: HookedStreamTransformer, sets: Any, compiled: bool = False) -> list[Row]:
        """Return (split, measure, value): accuracy and loss (nats) of every split but that of training.

        Raises:
            ValueError: for a model in training mode.
        """
        require_eval_mode(model, "measuring")
        rows: list[Row] = []
        for split, batch in sets.sets.items():
            parts = [batch[start : start + CHUNK] for start in range(0, len(batch), CHUNK)]
            logits = torch.cat([model(part.inputs)[:, -1] for part in parts])
            accuracy = (logits.argmax(-1) == batch.labels).double().mean()
            rows += [
                (split, "accuracy", float(accuracy)),
                (split, "loss", float(functional.cross_entropy(logits, batch.labels))),
            ]
        return rows

    def split_gradient(
        self, model: HookedStreamTransformer, batch: Any, activations: Sequence[str] = (), by: By = "total"
    ) -> GradientSplit:
        """Return the split by route of the gradient of a batch's loss, the mean over its sequences in nats.

        Raises:
            ValueError: as :func:`analysis.gradients.shares.split_gradient`.
        """

        def loss(logits: Tensor) -> Tensor:
            return functional.cross_entropy(logits[:, -1], batch.labels)

        return split_gradient(model, loss, batch.inputs.to(model.cfg.dtype), activations, by)
