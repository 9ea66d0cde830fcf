"""Head scores: how much of a head's attention goes where a named kind of head would send it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
from einops import einsum, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.metrics import precise
from analysis.pairs import Pair, is_padding
from analysis.ready import require_eval_mode, require_finite
from analysis.result import Table, columns
from circuits.common.errors import known, require, several
from circuits.common.showing import ROWS
from circuits.model import HookedStreamTransformer

ATTENTION = "attention to the named keys, summed over keys, averaged over queries; between 0 and 1"
Mask = Bool[Tensor, "batch pos"] | None
WHOLE = -1
"""Stands for layer and head where a row is of the whole model."""


class HeadScores(Table):
    """What can be said of heads: a row a score and head; rows of the whole model have -1 for both."""

    def finding(self) -> str:
        """Return of every score the head that has most of it."""
        best = self.largest(1000)
        said = [f"{row.score} {row['value']:.2f} (L{row.layer}H{row['head']})" for _, row in best.head(5).iterrows()]
        more = f" and {len(best) - 5} more" if len(best) > 5 else ""
        return f"the highest of every score: {', '.join(said)}{more}"

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return of every score the head that has most of it (at the last step), the highest first."""
        last = self.frame[self.frame.step == self.frame.step.max()] if "step" in self.frame else self.frame
        heads = last[last.layer != WHOLE]
        best = heads.loc[heads.groupby("score", sort=False)["value"].idxmax()]
        kept = columns(best, ("score", "layer", "head"), "partner value stderr n")
        return best.sort_values("value", ascending=False, kind="stable")[kept].head(n)

    def figure(self) -> Any:
        """Return heat maps of layers by heads, a panel a score (a plotly figure)."""
        from figures.models.heads import head_score_panels

        return head_score_panels(self.frame)


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

    def __post_init__(self) -> None:
        shape = tuple(self.keys.shape)
        numbers = all(not (x.is_floating_point() or x.dtype == torch.bool) for x in (self.queries, self.keys))
        require(
            numbers and self.keys.ndim == 3 and tuple(self.queries.shape) == shape[:2],
            f"score {self.name!r} needs positions, queries (batch, query) and keys (batch, query, key), got "
            f"{tuple(self.queries.shape)} of {self.queries.dtype} and {shape} of {self.keys.dtype}",
        )
        if self.weights is not None:
            fits = tuple(self.weights.shape) == shape and bool(((self.weights >= 0) & (self.weights <= 1)).all())
            require(fits, f"score {self.name!r}: weights are (batch, query, key) between 0 and 1, as keys are {shape}")
        if self.used is not None:
            fits = self.used.dtype == torch.bool and tuple(self.used.shape) == shape[:2]
            require(fits, f"score {self.name!r}: used says True or False of (batch, query) = {shape[:2]}")
            require(bool(self.used.any(1).all()), f"score {self.name!r} has no query in some example; leave that out")
        counted = torch.ones(shape, device=self.keys.device) if self.weights is None else precise(self.weights)
        same = (self.keys[..., :, None] == self.keys[..., None, :]).to(counted.dtype)
        twice = einsum(same, counted, "batch query a b, batch query b -> batch query a") > 1 + 1e-6
        require(not bool(twice.any()), f"score {self.name!r} counts a key of a query more than once; name it once")

    def of(self, pattern: Float[Tensor, "batch head q k"]) -> Float[Tensor, "batch head"]:
        """Return the score of every head on every example."""
        on, pattern = pattern.device, precise(pattern)
        n_pos, places = pattern.shape[-1], torch.cat([self.queries.flatten(), self.keys.flatten()])
        require(
            len(pattern) == len(self.queries) and bool(((places >= 0) & (places < n_pos)).all()),
            f"score {self.name!r} is for {len(self.queries)} examples and positions from {int(places.min())} to "
            f"{int(places.max())}, and the pattern has {len(pattern)} examples of {n_pos} positions",
        )
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


def previous_token(inputs: Tensor | Pair, mask: Mask = None) -> AttentionScore:
    """Return the score of a previous-token head: from every position but the first to the one before it.

    ``mask`` says where inputs (batch pos ...) stand and not padding, which counts for nothing; a pair has its own.

    Raises:
        ValueError: for a mask that does not fit, or an example without two positions.
    """
    tokens, real = _sides(inputs, mask)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    wanted = places[:, None] - 1 == places
    return _masked("previous token", wanted & real, "looks at the token before, and in", "there is only one")


def duplicate_token(tokens: Int[Tensor, "batch pos"] | Pair, mask: Mask = None) -> AttentionScore:
    """Return the score of a duplicate-token head: from every repeated token to its earlier occurrences.

    Queries are the positions whose token has occurred before. Inputs that are vectors can be numbered by what they are.
    ``mask`` says where tokens stand and not padding, which counts for nothing; a pair has its own.

    Raises:
        ValueError: for a mask that does not fit, or if nothing repeats in some example.
    """
    tokens, real = _sides(tokens, mask)
    return _masked("duplicate token", _earlier(tokens) & real)


def induction(tokens: Int[Tensor, "batch pos"] | Pair, mask: Mask = None) -> AttentionScore:
    """Return the score of an induction head: from every repeated token to the positions after its earlier occurrences.

    Queries are the positions whose token has occurred before. Where a token follows itself, the position after its
    earlier occurrence is its own. ``mask`` as for :func:`duplicate_token`.

    Raises:
        ValueError: for a mask that does not fit, or if nothing repeats in some example.

    Source: Olsson et al., arXiv 2209.11895.
    """
    tokens, real = _sides(tokens, mask)
    # The last key has no later query, so what rolls round to the first one is False.
    return _masked("induction", (_earlier(tokens) & real).roll(1, dims=-1) & real)


def _sides(inputs: Tensor | Pair, mask: Mask) -> tuple[Tensor, Bool[Tensor, "batch query key"]]:
    """The inputs, and which of their queries and keys are both no padding."""
    if isinstance(inputs, Pair):
        require(mask is None, "a pair says itself where padding stands; leave mask out, or give it to the pair")
        inputs, mask = inputs.clean, inputs.mask
    require(
        isinstance(inputs, Tensor) and inputs.ndim >= 2,
        f"a score is made of inputs, a tensor (batch, pos ...), or of a pair, got {type(inputs).__name__}",
    )
    shape, device = tuple(inputs.shape[:2]), inputs.device
    real = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else torch.as_tensor(mask).to(device)
    require(
        real.dtype == torch.bool and tuple(real.shape) == shape,
        f"a mask says True where an input stands and False where padding does, in the shape (batch, pos) = {shape}; "
        f"got {tuple(real.shape)} of {real.dtype}",
    )
    return inputs, real[:, :, None] & real[:, None, :]


def _earlier(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    require(
        tokens.ndim == 2 and not tokens.is_floating_point() and tokens.dtype != torch.bool,
        f"repeated tokens are found among token numbers (batch, pos), got {tuple(tokens.shape)} of {tokens.dtype}; "
        f"number vectors by what they are",
    )
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def _masked(
    name: str,
    wanted: Bool[Tensor, "batch query key"],
    looks: str = "looks at repeated tokens, and in",
    lack: str = "nothing repeats",
) -> AttentionScore:
    used = wanted.any(-1)
    if not bool(used.any(-1).all()):
        bare = (~used.any(-1)).nonzero()[:, 0].tolist()
        raise ValueError(
            f"score {name!r} {looks} {len(bare)} of {len(used)} examples (first: {bare[0]}) {lack}; leave those out"
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


def scores_by_role(pair: Pair) -> list[AttentionScore]:
    """Return the scores of a previous-token head, and of attention from the role END of a pair to every other role."""
    others = [role for role in pair.positions if role != "END"]
    return [previous_token(pair), *(between(pair, f"END to {role}", "END", role) for role in others)]


@torch.no_grad()
def score_heads(model: HookedStreamTransformer, inputs: Tensor | Pair, scores: Iterable[AttentionScore]) -> HeadScores:
    """Return every score of every head: layer, head, score, value (mean over examples), stderr, n, convention.

    Of a pair, the clean inputs are scored. What is padding says each score, which was made with a mask. The standard
    error is NaN for one example.

    Raises:
        ValueError: for a model in training mode, no score at all, or scores for another number of examples.
    """
    require_eval_mode(model, "scoring heads")
    scores = several("scores", scores, AttentionScore, how="tasks make them: task.head_scores(batch)")
    require(isinstance(inputs, (Tensor, Pair)), f"heads are scored on a tensor or a pair, got {type(inputs).__name__}")
    if isinstance(inputs, Pair):
        _check_no_padding(model, inputs, scores)
        inputs = inputs.clean
    for score in scores:
        if len(score.queries) != len(inputs):
            raise ValueError(f"score {score.name!r} is for {len(score.queries)} examples, but there are {len(inputs)}")
    _, cache = model.run_with_cache(inputs, names_filter=is_pattern)
    by_layer = product(range(model.config.n_layers), scores)
    frames = [tidy(layer, s.name, s.of(cache["pattern", layer]), ATTENTION) for layer, s in by_layer]
    return HeadScores(pd.concat(frames, ignore_index=True))


def _check_no_padding(model: HookedStreamTransformer, pair: Pair, scores: Sequence[AttentionScore]) -> None:
    real = ~is_padding(model, pair)
    rows = torch.arange(len(pair), device=real.device)[:, None]
    for score in (score for score in scores if len(score.queries) == len(pair)):
        queries, keys = score.queries.to(real.device), score.keys.to(real.device)
        both = real[rows, queries][..., None] & real[rows[..., None], keys]
        counts = torch.ones_like(both) if score.weights is None else score.weights.to(real.device) > 0
        counts = counts if score.used is None else counts & score.used.to(real.device)[..., None]
        require(
            not bool((counts & ~both).any()),
            f"score {score.name!r} counts padding of this pair; make it of the pair, as in previous_token(pair)",
        )


def tidy(layer: int, score: str, values: Float[Tensor, "batch head"], convention: str) -> pd.DataFrame:
    """Return the mean of a score over examples for every head of a layer, with its standard error and convention.

    The standard error is NaN for one example.

    Raises:
        NotFiniteError: for scores that are NaN or infinite.
    """
    n, values = len(values), precise(values)
    # Left in a table, the highest of the heads would be the highest of those that have a number.
    require_finite(f"scores {score!r} of layer {layer}", values)
    errors = values.std(0) / n**0.5 if n > 1 else torch.full_like(values[0], torch.nan)
    heads = range(values.shape[1])
    numbers = {"value": values.mean(0).tolist(), "stderr": errors.tolist()}
    columns = {"layer": layer, "head": heads, "score": score, **numbers, "n": n, "convention": convention}
    return pd.DataFrame(columns)


def is_pattern(name: str) -> bool:
    """Return whether a hook point is an attention pattern's."""
    return name.endswith("hook_pattern")


def one_table(scores: Sequence[HeadScores | pd.DataFrame]) -> HeadScores:
    """Return several scores, or frames of them, as one: layer, head, partner, score, value, stderr, n, convention.

    ``partner`` names the earlier head of a score of two, and is empty for the others.
    """
    frames = [part.to_frame() if isinstance(part, HeadScores) else part for part in scores]
    whole = pd.concat([frame.assign(partner=frame.get("partner", "")) for frame in frames], ignore_index=True)
    return HeadScores(whole[["layer", "head", "partner", "score", "value", "stderr", "n", "convention"]])
