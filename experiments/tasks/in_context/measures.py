"""How well a model does on the in-context task, and by which progress: one call over all splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from analysis.heads.progress_measures import cla, ila, tila, tla
from circuits.last_position import FastRun, SplitTokens, run_last, why_not
from circuits.model import HookedStreamTransformer
from experiments.tasks.in_context.batches import ICLBatch

EVALUATED = ("test", "ic", "ic2", "iw")
MEASURES = ("accuracy", "loss", "ila", "tila", "tla", "cla")
CHUNK = 500
"""Sequences in one forward pass of an evaluation; it divides what the presets evaluate, so one shape is compiled."""
WIDE_CHUNK = 10_000
"""Likewise on an accelerator, where many short passes cost more than a long."""

RunLast = Callable[[HookedStreamTransformer, SplitTokens], FastRun]
"""The fast path, or a compiled form of it."""
Row = tuple[str, str, float]
"""Split, measure, value."""


class EvaluationSets:
    """The evaluation sequences of a task, drawn once and shared by every run that trains on it.

    They are measured ``chunk`` at a time.
    """

    def __init__(self, task: Any, n: int, chunk: int = CHUNK):
        self.n, self.size = n, chunk
        self.chunks = {split: list(self._chunks(task.sample(n, split))) for split in EVALUATED}

    @property
    def measured(self) -> dict[str, tuple[str, ...]]:
        """What is measured, by set."""
        return dict.fromkeys(EVALUATED, MEASURES)

    def _chunks(self, batch: ICLBatch) -> Iterator[ICLBatch]:
        return (batch[start : start + self.size] for start in range(0, self.n, self.size))


@dataclass(frozen=True)
class LastPosition:
    """What a model does at the last position of some sequences, whichever way it was computed."""

    logits: Float[Tensor, "batch label"]
    first_pattern: Float[Tensor, "batch query key"]
    last_attention: Float[Tensor, "batch key"]
    items: Int[Tensor, " pair"]
    labels: Int[Tensor, " pair"]
    """Where the context's items and labels stand along the patterns' axes."""


def look(model: HookedStreamTransformer, batch: ICLBatch, fast: RunLast = run_last) -> LastPosition:
    """Return logits and patterns of the first and last layer (mean over heads), by the fast path where it applies.

    The fast path cannot see hooks: while any are attached, the hooked model runs.
    """
    n = batch.config.n_pairs
    if why_not(model.config) is None and not model.hooked_modules():
        run = fast(model, batch.tokens)
        items, labels = torch.arange(n), torch.arange(n) + n + 1
        return LastPosition(run.logits, run.first_pattern, run.last_pattern, items, labels)
    first, last = "blocks.0.attn.hook_pattern", f"blocks.{model.config.n_layers - 1}.attn.hook_pattern"
    logits, cache = model.run_with_cache(batch.inputs, names_filter=[first, last])
    items, labels = 2 * torch.arange(n), 2 * torch.arange(n) + 1
    return LastPosition(logits[:, -1], cache[first].mean(1), cache[last][:, :, -1].mean(1), items, labels)


@torch.no_grad()
def measure(model: HookedStreamTransformer, chunks: Iterable[ICLBatch], fast: RunLast = run_last) -> dict[str, float]:
    """Return the mean of every measure over sequences: accuracy, loss (nats) and the progress measures.

    Raises:
        ValueError: if the model is in training mode.
    """
    if model.training:
        raise ValueError("a model is measured in evaluation mode; call model.eval() first")
    sums: dict[str, Tensor] = {}
    total = 0
    for batch in chunks:
        passing = batch[:]  # tokens for the fast path, which a batch keeps, are several times its own size
        for name, values in _per_example(look(model, passing, fast), batch).items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + values.sum(dtype=torch.float64)
        total += len(batch)
    return {name: value.item() / total for name, value in sums.items()}


def _per_example(seen: LastPosition, batch: ICLBatch) -> dict[str, Float[Tensor, " batch"]]:
    log_probabilities = seen.logits.log_softmax(-1)
    return {
        "accuracy": (seen.logits.argmax(-1) == batch.labels).to(seen.logits.dtype),
        "loss": F.nll_loss(log_probabilities, batch.labels, reduction="none"),
        "ila": ila(seen.first_pattern, seen.items, seen.labels),
        "tila": tila(seen.last_attention, seen.labels, batch.matches),
        "tla": tla(seen.last_attention, seen.labels),
        "cla": cla(log_probabilities.exp(), batch.context_labels),
    }


def evaluate(model: HookedStreamTransformer, sets: EvaluationSets, fast: RunLast = run_last) -> list[Row]:
    """Return (split, measure, value) over all splits; ic2 counts against the shifted labels."""
    per_split = {split: measure(model, chunks, fast) for split, chunks in sets.chunks.items()}
    return [(split, name, value) for split, values in per_split.items() for name, value in values.items()]
