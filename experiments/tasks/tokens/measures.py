"""How well a language model does: its validation loss, and its answers to a task's questions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.metrics import METRICS
from analysis.pairs import Pair
from analysis.ready import require_eval_mode
from circuits.model import HookedStreamTransformer
from experiments.tasks.tokens.batches import TokenBatch, WindowSource, next_token_loss

CHUNK_TOKENS = 16_384
"""Tokens in one forward pass; what bounds the memory of an evaluation is their logits."""
MEASURES = ("probability", "wrong_probability", "logit_difference", "accuracy", "preference")
"""Of every question: of the right and the wrong answer among all tokens; the right one's logit minus the wrong one's; 1
where the right one is the likeliest of all; 1 where it is likelier than the wrong one."""
Row = tuple[str, str, float]
"""Set, measure, value."""


class TokenEvaluationSets:
    """The validation windows and the questions of a task, drawn once."""

    def __init__(self, task: WindowSource, n_eval: int, n_questions: int):
        self.task, self.n_eval, self.n_questions = task, n_eval, n_questions

    @property
    def measured(self) -> dict[str, tuple[str, ...]]:
        """What is measured, by set."""
        return {"validation": ("loss",), **dict.fromkeys(self.questions, MEASURES)}

    @cached_property
    def validation(self) -> TokenBatch:
        """The validation windows."""
        return self.task.sample(self.n_eval, "validation")

    @cached_property
    def questions(self) -> dict[str, Pair]:
        """The questions by set."""
        return self.task.questions(self.n_questions)


def chunks(n: int, width: int) -> Iterator[slice]:
    """Return slices of ``n`` rows of ``width`` tokens, each as many as one forward pass takes."""
    rows = max(1, CHUNK_TOKENS // width)
    return (slice(start, start + rows) for start in range(0, n, rows))


@torch.no_grad()
def validation_loss(model: HookedStreamTransformer, batch: TokenBatch) -> float:
    """Return the mean cross-entropy (nats) of all predictions that count.

    Raises:
        ValueError: for a model in training mode.
    """
    require_eval_mode(model, "measuring the loss")
    total = counted = 0.0
    for rows in chunks(len(batch), batch.tokens.shape[1]):
        part = batch[rows]
        n = int((part.targets >= 0).sum())
        if n:
            total += float(next_token_loss(model(part.tokens), part)) * n
            counted += n
    return total / counted if counted else float("nan")


@torch.no_grad()
def answers(model: HookedStreamTransformer, pair: Pair) -> dict[str, Float[Tensor, " batch"]]:
    """Return every one of ``MEASURES`` for each clean prompt.

    Raises:
        ValueError: for a model in training mode.
    """
    require_eval_mode(model, "measuring answers")
    found: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    for rows in chunks(len(pair), pair.n_pos):
        part = pair[rows]
        logits = model(part.clean)
        swapped = Pair(part.clean, part.corrupt, part.wrong, part.answers, part.positions, part.read_at, part.mask)
        difference = METRICS["logit_difference"](logits, part)
        values = {
            "probability": METRICS["probability"](logits, part),
            "wrong_probability": METRICS["probability"](logits, swapped),
            "logit_difference": difference,
            "accuracy": METRICS["accuracy"](logits, part),
            "preference": (difference > 0).to(logits.dtype),
        }
        for name, value in values.items():
            found[name].append(value)
    return {name: torch.cat(parts) for name, parts in found.items()}


def evaluate(model: HookedStreamTransformer, sets: TokenEvaluationSets) -> list[Row]:
    """Return (set, measure, value): the validation loss, and, if that is finite, the mean of every measure over each
    set of questions.

    Raises:
        ValueError: for a model in training mode.
    """
    loss = validation_loss(model, sets.validation)
    rows: list[Row] = [("validation", "loss", loss)]
    if not math.isfinite(loss):
        # Of a model that diverged questions are refused, and the loss says it.
        return rows
    for name, pair in sets.questions.items():
        rows += [(name, measure, float(values.mean())) for measure, values in answers(model, pair).items()]
    return rows
