"""Head scores: how much of a head's attention goes where a named kind of head would send it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.evalmode import require_eval_mode
from analysis.pairs import Pair
from circuits.errors import known
from circuits.model import HookedStreamTransformer

ATTENTION = "attention to the named keys, summed over keys, averaged over queries; between 0 and 1"
RETRIEVAL = "share of answers whose position has the head's largest attention and that the model says; between 0 and 1"


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
    used: Bool[Tensor, "batch query"] | None = None
    """Which queries the mean is over, at least one an example; ``None`` takes all."""

    def of(self, pattern: Float[Tensor, "batch head q k"]) -> Float[Tensor, "batch head"]:
        """Return the score of every head on every example."""
        on = pattern.device
        batch = torch.arange(len(pattern), device=on)[:, None, None]
        attention = pattern.transpose(1, 2)[batch[..., 0], self.queries.to(on)]  # batch query head k
        keys = self.keys.to(on)[:, :, None].expand(-1, -1, attention.shape[2], -1)
        picked = attention.gather(-1, keys)
        if self.weights is not None:
            picked = picked * self.weights.to(on)[:, :, None]
        by_query = picked.sum(-1)
        if self.used is None:
            return by_query.mean(1)
        used = self.used.to(on)
        return (by_query * used[..., None]).sum(1) / used.sum(1, keepdim=True)


def previous_token(batch: int, n_pos: int) -> AttentionScore:
    """Return the score of a previous-token head: from every position but the first to the one before it."""
    queries = torch.arange(1, n_pos).expand(batch, -1)
    return AttentionScore("previous token", queries, queries[..., None] - 1)


def duplicate_token(tokens: Int[Tensor, "batch pos"]) -> AttentionScore:
    """Return the score of a duplicate-token head: from every repeated token to its earlier occurrences.

    Queries are the positions whose token has occurred before. Inputs that are vectors can be numbered by what they are.

    Raises:
        ValueError: if nothing repeats in some example.
    """
    return _masked("duplicate token", _earlier(tokens))


def induction(tokens: Int[Tensor, "batch pos"]) -> AttentionScore:
    """Return the score of an induction head: from every repeated token to the positions after its earlier occurrences.

    Queries are the positions whose token has occurred before. Where a token follows itself, the position after its
    earlier occurrence is its own.

    Raises:
        ValueError: if nothing repeats in some example.

    Source: Olsson et al., arXiv 2209.11895.
    """
    # The last key has no later query, so what rolls round to the first one is False.
    return _masked("induction", _earlier(tokens).roll(1, dims=-1))


def _earlier(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def _masked(name: str, wanted: Bool[Tensor, "batch query key"]) -> AttentionScore:
    used = wanted.any(-1)
    if not bool(used.any(-1).all()):
        bare = (~used.any(-1)).nonzero()[:, 0].tolist()
        raise ValueError(
            f"score {name!r} looks at repeated tokens, and in {len(bare)} of {len(used)} examples (first: {bare[0]}) "
            f"nothing repeats; leave those out"
        )
    batch, n_pos, _ = wanted.shape
    places = torch.arange(n_pos, device=wanted.device)
    return AttentionScore(name, places.expand(batch, -1), places.expand(batch, n_pos, -1), wanted, used)


def between(pair: Pair, name: str, query: str, key: str) -> AttentionScore:
    """Return the score of attention from one position role of a pair to another, on its clean inputs.

    Where a role has several positions: summed over keys, averaged over queries. Keys after a query get nothing.

    Raises:
        UnknownNameError: for a role that the pair does not have (nearest suggested).
        ValueError: if every key of some example stands after its queries, where no attention can go.
    """
    queries, keys = (pair.positions[known("position role", role, pair.positions)] % pair.n_pos for role in (query, key))
    if bool((keys.amin(1) > queries.amax(1)).any()):
        raise ValueError(
            f"score {name!r}: {key!r} stands after {query!r} in some example, and attention only looks back; exchange "
            f"the two"
        )
    return AttentionScore(name, queries, repeat(keys, "batch key -> batch query key", query=queries.shape[1]))


BY_ROLE: dict[str, tuple[str, str]] = {
    "name mover": ("END", "IO"),
    "s-inhibition": ("END", "S2"),
    "duplicate token": ("S2", "S1"),
}
"""Kinds of heads that attend from one role to another. Source: Wang et al., arXiv 2211.00593."""


def role_scores(pair: Pair) -> list[AttentionScore]:
    """Return the scores of all kinds of heads in ``BY_ROLE`` whose two roles the pair has.

    Raises:
        ValueError: if it has the roles of none.
    """
    found = [(name, roles) for name, roles in BY_ROLE.items() if set(roles) <= set(pair.positions)]
    if not found:
        raise ValueError(
            f"this pair has the roles {', '.join(map(repr, pair.positions)) or 'none'}, which make none of "
            f"{list(BY_ROLE)}; name two of its own with between(pair, name, query, key)"
        )
    return [between(pair, name, *roles) for name, roles in found]


@torch.no_grad()
def score_heads(model: HookedStreamTransformer, inputs: Tensor, scores: Sequence[AttentionScore]) -> pd.DataFrame:
    """Return every score of every head: layer, head, score, value (mean over examples), stderr, n, convention.

    The standard error is 0 for one example.

    Raises:
        ValueError: for a model in training mode, no score at all, or scores for another number of examples.
    """
    require_eval_mode(model, "scoring heads")
    if not scores:
        raise ValueError("there is no score to compute; tasks make them (task.head_scores(batch)), or analysis.heads")
    for score in scores:
        if len(score.queries) != len(inputs):
            raise ValueError(f"score {score.name!r} is for {len(score.queries)} examples, but there are {len(inputs)}")
    _, cache = model.run_with_cache(inputs, names_filter=_is_pattern)
    by_layer = product(range(model.config.n_layers), scores)
    return pd.concat(
        [tidy(layer, s.name, s.of(cache["pattern", layer]), ATTENTION) for layer, s in by_layer], ignore_index=True
    )


@torch.no_grad()
def score_retrieval(
    model: HookedStreamTransformer,
    inputs: Tensor,
    answers: Int[Tensor, " batch"],
    holds: Bool[Tensor, "batch pos"] | None = None,
    read_at: int | Int[Tensor, " batch"] = -1,
) -> pd.DataFrame:
    """Return every head's retrieval score, in the columns of :func:`score_heads`.

    It is the share of answers that a head copies and pastes: from the position that is read it attends most to a
    position that holds the answer, and the model says the answer. An answer that the model misses counts for no head.
    ``holds`` says which positions hold the answer; by default, where tokens equal it.

    Raises:
        ValueError: for a model in training mode, numbers that do not fit, or vectors without ``holds``.

    Source: Wu et al., arXiv 2404.15574.
    """
    require_eval_mode(model, "scoring retrieval")
    if len(answers) != len(inputs) or len(answers) == 0:
        raise ValueError(f"retrieval needs one answer an example: {len(inputs)} inputs, {len(answers)} answers")
    if holds is None:
        if inputs.is_floating_point():
            raise ValueError("inputs that are vectors do not say which positions hold the answer; pass holds=")
        holds = inputs == answers[:, None]
    if holds.shape != inputs.shape[:2]:
        raise ValueError(f"holds is {tuple(holds.shape)}, but inputs have (batch, pos) = {tuple(inputs.shape[:2])}")
    logits, cache = model.run_with_cache(inputs, names_filter=_is_pattern)
    rows = torch.arange(len(inputs), device=logits.device)
    said = logits[rows, read_at].argmax(-1) == answers
    frames = []
    for layer in range(model.config.n_layers):
        largest = cache["pattern", layer].transpose(1, 2)[rows, read_at].argmax(-1)
        copied = holds.gather(1, largest) & said[:, None]
        frames.append(tidy(layer, "retrieval", copied.to(logits.dtype), RETRIEVAL))
    return pd.concat(frames, ignore_index=True)


def tidy(layer: int, score: str, values: Float[Tensor, "batch head"], convention: str) -> pd.DataFrame:
    """Return the mean of a score over examples for every head of a layer, with its standard error and convention."""
    n = len(values)
    errors = values.std(0, correction=min(1, n - 1)) / n**0.5
    heads = range(values.shape[1])
    numbers = {"value": values.mean(0).tolist(), "stderr": errors.tolist()}
    columns = {"layer": layer, "head": heads, "score": score, **numbers, "n": n, "convention": convention}
    return pd.DataFrame(columns)


def _is_pattern(name: str) -> bool:
    return name.endswith("hook_pattern")
