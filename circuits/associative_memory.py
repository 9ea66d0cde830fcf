"""AMICL, the associative memory that learns in context: one attention whose keys remember the token before.

It has no parameters but ``a``, how much a query or key holds of the token before its own. Where an object is followed
by its label, the label's key holds the object, so a blank that follows the object again finds the label.

A matching label scores a^2 |x|^2 / (a + 1)^2 and a matching object a |x|^2 / (a + 1)^2: by dot product the label is
found iff a > 1.

Source: arXiv 2412.15113 (associative memory model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.common.errors import known, require


@dataclass(frozen=True)
class Sequences:
    """Sequences with blanks to be filled in, of one layout.

    Raises:
        ValueError: if the parts do not fit together, or a blank is not in the sequence.
    """

    tokens: Float[Tensor, "*trial pos d"]
    blanks: Int[Tensor, " blank"]
    """The positions asked for; the same in every sequence."""
    blank_keys: Float[Tensor, "*trial blank d"]
    """Random keys of the blanks: with its own query for a key, a blank would find itself."""

    def __post_init__(self) -> None:
        *trials, length, d = self.tokens.shape
        wanted = (*trials, len(self.blanks), d)
        shape = tuple(self.blank_keys.shape)
        require(shape == wanted, f"blank_keys must have shape {wanted}, one key a blank, got {shape}")
        inside = len(self.blanks) > 0 and bool(((self.blanks >= 0) & (self.blanks < length)).all())
        require(inside, f"blanks {self.blanks.tolist()} are not positions of sequences of {length} tokens")

    @property
    def visible(self) -> Bool[Tensor, "blank pos"]:
        """Which keys a blank may find: its own, which is random, and those before it."""
        positions = torch.arange(self.tokens.shape[-2], device=self.blanks.device)
        return positions <= self.blanks[:, None]


@dataclass(frozen=True)
class AMICL:
    """The memory: queries and keys (a x_before + x) / (a + 1), values x, retrieval by similarity.

    Raises:
        UnknownNameError: for an unknown similarity (nearest suggested).
        ValueError: for a negative ``a``, a temperature that is not positive, or a ``reach`` below 1.
    """

    a: float = 2.0
    """The weight of the token before, against 1 for the token itself."""
    similarity: str = "dot"
    """A name in ``SIMILARITIES``; distances count negatively, so that larger is always nearer."""
    temperature: float | None = None
    """Of the softmax over keys; ``None`` retrieves the single nearest value."""
    reach: int = 1
    """How many tokens back "the token before" is."""

    def __post_init__(self) -> None:
        known("similarity", self.similarity, SIMILARITIES)
        require(self.a >= 0, f"a must not be negative, got {self.a}")
        require(self.reach >= 1, f"reach must be at least 1, got {self.reach}")
        hot = self.temperature is None or self.temperature > 0
        require(hot, f"temperature must be positive (None retrieves the nearest value), got {self.temperature}")

    def queries(self, tokens: Float[Tensor, "*trial pos d"]) -> Float[Tensor, "*trial pos d"]:
        """Return every token's query; the first tokens' predecessors are the last tokens, round the end."""
        return (self.a * tokens.roll(self.reach, -2) + tokens) / (self.a + 1)

    def keys(self, sequences: Sequences) -> Float[Tensor, "*trial pos d"]:
        """Return every token's key: its query, but a random vector for a blank."""
        return _with_blanks(self.queries(sequences.tokens), sequences)

    def similarities(self, sequences: Sequences) -> Float[Tensor, "*trial query key"]:
        """Return the similarity of every query to every key, later ones too."""
        return SIMILARITIES[self.similarity](self.queries(sequences.tokens), self.keys(sequences))

    def scores(self, sequences: Sequences) -> Float[Tensor, "*trial blank pos"]:
        """Return the similarity of every blank's query to every key; -inf for keys after it."""
        asking = self.queries(sequences.tokens)[..., sequences.blanks, :]
        scores = SIMILARITIES[self.similarity](asking, self.keys(sequences))
        return scores.masked_fill(~sequences.visible, -torch.inf)

    def weights(self, sequences: Sequences) -> Float[Tensor, "*trial blank pos"]:
        """Return how much of every value a blank retrieves; weights add up to 1."""
        scores = self.scores(sequences)
        if self.temperature is not None:
            return (scores / self.temperature).softmax(-1)
        return torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)

    def retrieve(self, sequences: Sequences) -> Float[Tensor, "*trial blank d"]:
        """Return what each blank is filled with: the nearest value, or the mean of all by softmax weight."""
        if self.temperature is None:
            nearest = rearrange(self.scores(sequences).argmax(-1), "... blank -> ... blank 1")
            return sequences.tokens.take_along_dim(nearest, -2)
        return einsum(self.weights(sequences), sequences.tokens, "... blank pos, ... pos d -> ... blank d")


def nearest_over_a(
    sequences: Sequences, a: Float[Tensor, " a"], similarity: str = "dot", reach: int = 1
) -> Int[Tensor, "a *trial blank"]:
    """Return the position whose value each blank retrieves, for many values of ``a`` on the same sequences.

    Raises:
        UnknownNameError: for an unknown similarity (nearest suggested).
        ValueError: for a negative ``a``.
    """
    return scores_over_a(sequences, a, similarity, reach).argmax(-1)


def scores_over_a(
    sequences: Sequences, a: Float[Tensor, " a"], similarity: str = "dot", reach: int = 1
) -> Float[Tensor, "a *trial blank pos"]:
    """Return :meth:`AMICL.scores` for many values of ``a``, whose cost hardly grows with their number.

    Keys and queries are sums of two parts, so inner products for every ``a`` come from those of the parts, formed
    once. Manhattan distances have no such form, and are computed anew for each.

    Raises:
        UnknownNameError: for an unknown similarity (nearest suggested).
        ValueError: for a negative ``a``.
    """
    models = [AMICL(value, similarity, reach=reach) for value in a.tolist()]
    if similarity == "manhattan":
        return torch.stack([model.scores(sequences) for model in models])
    before = sequences.tokens.roll(reach, -2)
    queries = torch.stack([before, sequences.tokens], -3)[..., sequences.blanks, :]
    keys = torch.stack([_with_blanks(part, sequences) for part in (before, sequences.tokens)], -3)
    if similarity == "pearson":
        queries, keys = _centred(queries), _centred(keys)
    weights = torch.stack([a, torch.ones_like(a)], -1) / (a + 1)[:, None]
    products = einsum(queries, keys, "... q blank d, ... k pos d -> ... q k blank pos")
    scores = einsum(weights, weights, products, "a q, a k, ... q k blank pos -> a ... blank pos")
    if similarity != "dot":
        scores = _normalised(scores, _squares(queries, weights), _squares(keys, weights), similarity)
    return scores.masked_fill(~sequences.visible, -torch.inf)


# --- similarities -------------------------------------------------------------------------------------------------


def dot(
    queries: Float[Tensor, "*trial query d"], keys: Float[Tensor, "*trial key d"]
) -> Float[Tensor, "*trial query key"]:
    """Return inner products."""
    return einsum(queries, keys, "... query d, ... key d -> ... query key")


def pearson(
    queries: Float[Tensor, "*trial query d"], keys: Float[Tensor, "*trial key d"]
) -> Float[Tensor, "*trial query key"]:
    """Return correlations over the components of two vectors; 0 where one of them is constant."""
    return dot(_unit(_centred(queries)), _unit(_centred(keys)))


def manhattan(
    queries: Float[Tensor, "*trial query d"], keys: Float[Tensor, "*trial key d"]
) -> Float[Tensor, "*trial query key"]:
    """Return negative sums of absolute differences: larger is nearer."""
    return -torch.cdist(queries, keys, p=1)


def euclidean(
    queries: Float[Tensor, "*trial query d"], keys: Float[Tensor, "*trial key d"]
) -> Float[Tensor, "*trial query key"]:
    """Return negative Euclidean distances: larger is nearer."""
    return -torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dot": dot,
    "pearson": pearson,
    "manhattan": manhattan,
    "euclidean": euclidean,
}
"""How near a key is to a query, by name; larger is nearer."""


def _with_blanks(keys: Float[Tensor, "*trial pos d"], sequences: Sequences) -> Float[Tensor, "*trial pos d"]:
    return keys.index_copy(-2, sequences.blanks, sequences.blank_keys)


def _centred(vectors: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
    return vectors - vectors.mean(-1, keepdim=True)


def _unit(vectors: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
    return torch.nn.functional.normalize(vectors, dim=-1)


def _squares(parts: Float[Tensor, "*trial 2 pos d"], weights: Float[Tensor, "a 2"]) -> Float[Tensor, "a *trial pos"]:
    products = einsum(parts, parts, "... q pos d, ... k pos d -> ... q k pos")
    return einsum(weights, weights, products, "a q, a k, ... q k pos -> a ... pos").clamp_min(0)


def _normalised(
    products: Float[Tensor, "a *trial blank pos"],
    of_queries: Float[Tensor, "a *trial blank"],
    of_keys: Float[Tensor, "a *trial pos"],
    similarity: str,
) -> Float[Tensor, "a *trial blank pos"]:
    """Inner products and squared lengths made into correlations or negative distances."""
    query = rearrange(of_queries, "... blank -> ... blank 1")
    key = rearrange(of_keys, "... pos -> ... 1 pos")
    if similarity == "pearson":
        return products / (query * key).sqrt().clamp_min(torch.finfo(products.dtype).tiny)
    return -(query + key - 2 * products).clamp_min(0).sqrt()
