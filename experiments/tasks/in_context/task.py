"""In-context classification as a task: sequences, clean/corrupt pairs, its loss and measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from analysis.heads.attention_scores import AttentionScore, previous_token
from analysis.pairs import Pair
from circuits.last_position import run_last, why_not
from circuits.model import HookedStreamTransformer
from experiments.tasks.in_context.batches import CORRUPTIONS, SPLITS, ICLBatch
from experiments.tasks.in_context.compiled import Backward, compiled_backward, compiled_run_last
from experiments.tasks.in_context.head_scores import scored
from experiments.tasks.in_context.measures import CHUNK, WIDE_CHUNK, EvaluationSets, Row, evaluate
from experiments.tasks.in_context.sequences import ICLSequences
from experiments.tasks.task import HeadScorer, TrainingNumbers


class ICLTask(ICLSequences):
    """The task of a preset (``"paper"``, ``"small"``) or a configuration, with class and label vectors from ``seed``.

    Everything is drawn on ``device`` and depends on nothing but the configuration, the seeds and the kind of device.
    """

    def head_scores(self, batch: ICLBatch) -> list[AttentionScore]:
        """Return the attention scores that this task gives meaning to, for the sequences of a batch.

        "ila", "tila" and "tla" are the progress measures of :mod:`analysis.heads.progress_measures` for every layer
        and head; "previous token" looks at every position.
        """
        n, pairs = len(batch), torch.arange(self.config.n_pairs, device=self.device)
        labels = repeat(2 * pairs + 1, "pair -> n 1 pair", n=n)
        before = repeat(2 * pairs, "pair -> n pair 1", n=n)
        target = torch.full((n, 1), 2 * self.config.n_pairs, device=self.device)
        return [
            previous_token(batch.inputs),
            AttentionScore("ila", labels[:, 0], before),
            AttentionScore("tila", target, labels, batch.matches[:, None].float()),
            AttentionScore("tla", target, labels),
        ]

    def sequences(self, n: int, split: str = "ic", seed: int = 1) -> Pair:
        """Return ``n`` sequences of a split, as the clean side of a pair: other ones than those of :meth:`pairs`,
        and of "train" such as no step trains on.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        return super().sequences(n, split, seed)

    def head_scorer(self, n: int, split: str = "ic", seed: int = 1) -> HeadScorer:
        """Return the function of a model to what can be said of its heads, on ``n`` sequences of a split: see
        :func:`experiments.tasks.in_context.head_scores.scored`.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        batch = self._asked(n, split, seed)
        return partial(scored, batch=batch, scores=self.head_scores(batch), labels=self.label_inputs())

    # --- what a trainer asks ------------------------------------------------------------------------------------------

    splits: Mapping[str, str] = {name: SPLITS[name] for name in ("ic", "ic2", "iw", "test", "train")}
    corruptions: Mapping[str, str] = CORRUPTIONS
    watched = ("ic", "accuracy")

    def fast_loss(self, model: HookedStreamTransformer) -> Callable[[ICLBatch], Float[Tensor, ""]]:
        """Return :meth:`loss` as a function of the batch, by the fast path where it applies; it cannot see hooks."""
        if why_not(model.config) is None:
            return lambda batch: F.cross_entropy(run_last(model, batch.tokens).logits, batch.labels)
        return super().fast_loss(model)

    def compiled_backward(self, model: HookedStreamTransformer) -> Backward:
        """Return the backward pass of :meth:`fast_loss`, compiled."""
        return compiled_backward(model)

    def evaluation_sets(self, training: TrainingNumbers) -> EvaluationSets:
        """Return the sequences that :meth:`measures` looks at, for as many runs as train on this task."""
        on_cpu = self.device.type == "cpu"
        return EvaluationSets(self, training.n_eval, CHUNK if on_cpu else WIDE_CHUNK)

    def measures(self, model: HookedStreamTransformer, sets: EvaluationSets, compiled: bool = False) -> list[Row]:
        """Return (split, measure, value) over all splits; ic2 counts against the shifted labels.

        Raises:
            ValueError: for a model in training mode.
        """
        return evaluate(model, sets, compiled_run_last() if compiled else run_last)

    def held_out(self, n: int = 256, split: str = "train") -> ICLBatch:
        """Return ``n`` sequences of a split, on which no step trains."""
        return super().held_out(n, split)
