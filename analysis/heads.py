"""Head scores: how much of a head's attention goes where a named kind of head would send it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.evalmode import require_eval_mode
from circuits.model import HookedStreamTransformer


@dataclass(frozen=True)
class AttentionScore:
    """A named set of query-key pairs: the score is the attention summed over keys, averaged over queries.

    For query m of an example, ``keys`` lists the positions that count; ``weights`` (1 or 0) leaves out places that an
    example does not use. A score lies between 0 and 1, and is 1 iff all attention of every query goes to its keys.
    """

    name: str
    queries: Int[Tensor, "batch query"]
    keys: Int[Tensor, "batch query key"]
    weights: Tensor | None = None
    """(batch query key); ``None`` counts every key."""

    def of(self, pattern: Float[Tensor, "batch head q k"]) -> Float[Tensor, "batch head"]:
        """Return the score of every head on every example."""
        batch = torch.arange(len(pattern), device=pattern.device)[:, None, None]
        attention = pattern.transpose(1, 2)[batch[..., 0], self.queries]  # batch query head k
        keys = self.keys[:, :, None].expand(-1, -1, attention.shape[2], -1)
        picked = attention.gather(-1, keys)
        if self.weights is not None:
            picked = picked * self.weights[:, :, None]
        return picked.sum(-1).mean(1)


def previous_token(batch: int, n_pos: int) -> AttentionScore:
    """Return the score of a previous-token head: from every position but the first to the one before it."""
    queries = torch.arange(1, n_pos).expand(batch, -1)
    return AttentionScore("previous token", queries, queries[..., None] - 1)


def induction(repeat_length: int, n_pos: int, batch: int) -> AttentionScore:
    """Return the score of an induction head on sequences that repeat with a period.

    From every position of a later repeat to the position after its previous occurrence. Source: Olsson et al.,
    arXiv 2209.11895.
    """
    queries = torch.arange(repeat_length, n_pos).expand(batch, -1)
    return AttentionScore("induction", queries, queries[..., None] - repeat_length + 1)


@torch.no_grad()
def score_heads(model: HookedStreamTransformer, inputs: Tensor, scores: Sequence[AttentionScore]) -> pd.DataFrame:
    """Return every score of every head: layer, head, score, value (mean over examples), stderr (0 for one example), n.

    Raises:
        ValueError: for a model in training mode, no score at all, or scores for another number of examples.
    """
    require_eval_mode(model, "scoring heads")
    if not scores:
        raise ValueError("there is no score to compute; tasks make them (task.head_scores(batch)), or analysis.heads")
    for score in scores:
        if len(score.queries) != len(inputs):
            raise ValueError(f"score {score.name!r} is for {len(score.queries)} examples, but there are {len(inputs)}")
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    rows = []
    for layer in range(model.config.n_layers):
        pattern = cache["pattern", layer]
        for score in scores:
            per_example = score.of(pattern)
            errors = per_example.std(0, correction=min(1, len(inputs) - 1)) / len(inputs) ** 0.5
            rows += [
                {"layer": layer, "head": head, "score": score.name, "value": float(value), "stderr": float(error)}
                for head, (value, error) in enumerate(zip(per_example.mean(0), errors, strict=True))
            ]
    return pd.DataFrame(rows).assign(n=len(inputs))
