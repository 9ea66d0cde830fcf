"""A task of token numbers: what its trainer asks, which is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.gradients.shares import By, split_gradient
from analysis.gradients.split import GradientSplit
from analysis.heads.attention_scores import AttentionScore, HeadScores, one_table, previous_token, score_heads
from analysis.heads.retrieval import score_retrieval
from analysis.pairs import Pair
from circuits.common.errors import whole
from circuits.model import HookedStreamTransformer
from experiments.tasks.drawn import DrawnTask
from experiments.tasks.task import HeadScorer, Row, TrainingNumbers
from experiments.tasks.tokens.batches import TokenBatch, next_token_loss
from experiments.tasks.tokens.measures import TokenEvaluationSets, evaluate


class TokenTask(DrawnTask):
    """What every task of token numbers inherits; each brings ``sample``, and ``pairs`` and ``corruptions`` if it asks.

    ``d_vocab`` is the number of different tokens, that of the tokenizer or else of the configuration; ``n_ctx`` is the
    length of a window.
    """

    watched = ("validation", "loss")
    """The set and the measure that tell how far a training is."""
    logs_training_loss = True

    def __init__(self, config: Any, seed: int = 0, device: str | torch.device = "cpu", tokenizer: Any = None):
        super().__init__(config, seed, device)
        self.tokenizer, self.n_ctx = tokenizer, config.n_ctx
        self.d_vocab: int = config.d_vocab if tokenizer is None else len(tokenizer)

    def questions(self, n: int) -> dict[str, Pair]:
        """Return evaluation sets of about ``n`` clean/corrupt pairs by name: of every corruption one, maybe none.

        Raises:
            ValueError: if ``n`` is not a whole number of 1 or more.
        """
        n = whole("n", n)
        return {corruption: self.pairs(n, corruption) for corruption in self.corruptions}

    def sequences(self, n: int, split: str = "train", seed: int = 1) -> Pair:
        """Return ``n`` prompts of a split, as the clean side of a pair: other ones than those of :meth:`pairs`.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        return self.pairs(n, seed=seed, split=split)

    def head_scores(self, pair: Pair) -> Sequence[AttentionScore]:
        """Return the attention scores that this task gives meaning to, on a pair's clean prompts: that of a
        previous-token head."""
        return [previous_token(pair)]

    def head_scorer(self, n: int, split: str = "train", seed: int = 1) -> HeadScorer:
        """Return the function of a model to what can be said of its heads, on ``n`` prompts of a split.

        They are the task's attention scores and retrieval.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        pair = self.sequences(n, split, seed)
        scores = self.head_scores(pair)

        def scored(model: HookedStreamTransformer) -> HeadScores:
            return one_table([score_heads(model, pair, scores), score_retrieval(model, pair)])

        return scored

    def loss(self, model: HookedStreamTransformer, batch: TokenBatch) -> Float[Tensor, ""]:
        """Return the mean cross-entropy, in nats, of the predictions that count; NaN where none does."""
        return next_token_loss(model(batch.tokens), batch)

    def fast_loss(self, model: HookedStreamTransformer) -> Callable[[TokenBatch], Float[Tensor, ""]]:
        """Return :meth:`loss` as a function of the batch: there is no faster path."""
        return partial(self.loss, model)

    def counted(self, batch: TokenBatch) -> Int[Tensor, ""]:
        """Return how many predictions a batch's loss is a mean over."""
        return (batch.targets >= 0).sum()

    def evaluation_sets(self, training: TrainingNumbers) -> TokenEvaluationSets:
        """Return the validation windows and the questions."""
        return TokenEvaluationSets(self, training.n_eval, training.n_questions)

    def measures(self, model: HookedStreamTransformer, sets: TokenEvaluationSets, compiled: bool = False) -> list[Row]:
        """Return (set, measure, value): the validation loss, and every measure's mean over each set of questions.

        Raises:
            ValueError: for a model in training mode.
        """
        return evaluate(model, sets)

    def split_gradient(
        self, model: HookedStreamTransformer, batch: TokenBatch, activations: Sequence[str] = (), by: By = "total"
    ) -> GradientSplit:
        """Return the split by route of the gradient of a batch's loss, the mean over predictions that count, in nats.

        Raises:
            ValueError: as :func:`analysis.gradients.shares.split_gradient`.
        """
        return split_gradient(model, lambda logits: next_token_loss(logits, batch), batch.tokens, activations, by)
