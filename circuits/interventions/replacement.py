"""Which part of an activation an intervention touches, and what it puts in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.common.errors import require
from circuits.common.plain_data import derive_seed
from circuits.sites import PATTERN, Site

Attended = Literal["previous", "self", "first", "uniform"]
ATTENDED: dict[Attended, str] = {
    "previous": "all attention to the position before (the first position: to itself)",
    "self": "all attention to the position itself",
    "first": "all attention to the first position",
    "uniform": "equal attention to every position up to its own",
}
"""Of the positions that a query sees: with a window the first is that where the window begins, and padding is none."""

Places = Mapping[str, Int[Tensor, "batch _"]]
"""Positions by role, one row an example."""


def position_numbers(what: str, places: Any) -> Int[Tensor, "*any"]:
    """Return positions as a tensor of whole numbers."""
    try:
        numbers = torch.as_tensor(places)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be numbers of positions, got {places!r}") from error
    require(
        numbers.dtype != torch.bool,
        f"{what} must be numbers of positions, (batch, n) of them, and this is a mask: give "
        f"mask.nonzero()[:, 1].view(batch, n), or for the same position everywhere its number",
    )
    require(
        not numbers.is_floating_point() and not numbers.is_complex(),
        f"{what} must be whole numbers of positions, got {numbers.dtype}; use positions.long()",
    )
    return numbers.long()


def touched_part(
    site: Site,
    activation: Tensor,
    positions: Places,
    seen: Bool[Tensor, "batch head query key"] | None = None,
    held: int | None = None,
) -> Bool[Tensor, ...]:
    """Return where a site's part of an activation is, in the activation's shape.

    ``seen`` is what :func:`seen_keys` are at a pattern or its scores, of which only these are a part. With a cache that
    holds ``held`` tokens, positions count from the first of them, and the activation is of those after them.

    Raises:
        ValueError: for positions that are not there, or with a cache are counted from the end.
    """
    head_axis, position_axis = (1, 2) if site.component in PATTERN else (2, 1)
    one = [1] * activation.ndim
    touched = torch.ones(one, dtype=torch.bool, device=activation.device)
    if site.head is not None:
        here = torch.arange(activation.shape[head_axis], device=activation.device) == site.head
        touched = touched & here.view(*one[:head_axis], -1, *one[head_axis + 1 :])
    if site.position is not None:
        rows = _rows(site, activation, position_axis, positions, held)
        touched = touched & rows.view(len(rows), *one[1:position_axis], -1, *one[position_axis + 1 :])
    if seen is not None:
        touched = touched & seen
    return touched.expand_as(activation)


def _rows(site: Site, activation: Tensor, axis: int, positions: Places, held: int | None) -> Bool[Tensor, "batch pos"]:
    batch, length = activation.shape[0], activation.shape[axis] + (held or 0)
    if isinstance(site.position, str):
        what = f"positions of {site.position!r}"
        places = position_numbers(what, positions[site.position]).to(activation.device)
        require(places.ndim == 2, f"{what} must be (batch, n), got {tuple(places.shape)}")
        require(len(places) == batch, f"{what} are given for {len(places)} examples, {batch} run")
        outside = places[(places < -length) | (places >= length)]
        require(not len(outside), f"{what}: {outside[:1].tolist()} is beyond the inputs' {length} positions")
    else:
        require(-length <= (site.position or 0) < length, f"{site} is beyond the inputs' {length} positions")
        places = torch.full((batch, 1), site.position or 0, device=activation.device)
    require(
        held is None or not bool((places < 0).any()),
        f"{site}: with a cache the last position is another one in every call; count from the beginning, or run "
        "everything at once, without past_kv_cache",
    )
    every = torch.zeros(batch, length, dtype=torch.bool, device=places.device).scatter_(1, places % length, True)
    return every[:, held or 0 :]


def seen_keys(scores: Float[Tensor, "batch head query key"]) -> Bool[Tensor, "batch head query key"]:
    """Return which keys every query sees, as its scores say: what a window or padding hides is minus infinity there."""
    return ~scores.isneginf()


def finite(site: Site, activation: Tensor) -> Tensor:
    """Return an activation with 0 for masked scores: infinity minus itself is no number."""
    return activation.masked_fill(activation.isneginf(), 0) if site.component == "attn_scores" else activation


def attention_to(
    to: Attended, seen: Bool[Tensor, "*batch query key"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*batch query key"]:
    """Return a fixed attention pattern, one of :data:`ATTENDED`, over the keys that every query sees."""
    n = seen.sum(-1, keepdim=True)
    if to == "uniform":
        return seen.to(dtype) / n
    # Counted from 1, as a query sees itself at least.
    wanted = {"previous": (n - 1).clamp(min=1), "self": n, "first": torch.ones_like(n)}[to]
    return (seen & (seen.cumsum(-1) == wanted)).to(dtype)


def others(n: int, seed: int) -> Int[Tensor, " n"]:
    """Return, for each of ``n`` examples, another one: a permutation without fixed points, the same for equal seeds."""
    require(n > 1, "an activation is resampled from another example of the batch, and this batch has only one")
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed("resample", seed)))
    return torch.empty_like(shuffled).scatter_(0, shuffled, shuffled.roll(-1))
