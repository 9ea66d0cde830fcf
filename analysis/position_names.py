"""What stands at the positions of a prompt or a pair, in words: tokens, and roles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.pairs import Pair
from circuits.model import HookedStreamTransformer


def token_names(
    model: HookedStreamTransformer, inputs: Int[Tensor, " pos"] | Float[Tensor, "pos d_input"]
) -> list[str]:
    """Return the text of every token of one prompt; without a tokenizer its number, and "" for a vector."""
    if inputs.is_floating_point():
        return [""] * len(inputs)
    return [_text(model, number) for number in inputs.tolist()]


def _text(model: HookedStreamTransformer, number: int) -> str:
    try:
        return str(number) if model.tokenizer is None else model.to_single_str_token(number)
    except ValueError:
        # A model may have more tokens than its tokenizer.
        return str(number)


def position_names(model: HookedStreamTransformer, pair: Pair) -> list[str]:
    """Return what stands at every position in all examples of a pair: ``Mary``, ``Mary / John`` where clean and corrupt
    differ, roles in brackets; "" where examples have different things there."""
    roles = [", ".join(role for role in pair.positions if _is_at(pair, role, p)) for p in range(pair.n_pos)]
    named = zip(_tokens(model, pair), roles, strict=True)
    return [f"{token} ({role})" if token and role else token or role for token, role in named]


def _tokens(model: HookedStreamTransformer, pair: Pair) -> Iterator[str]:
    if pair.clean.is_floating_point():
        yield from [""] * pair.n_pos
        return
    sides = [token_names(model, side[0]) for side in (pair.clean, pair.corrupt)]
    alike = torch.stack([(side == side[:1]).all(0) for side in (pair.clean, pair.corrupt)]).all(0)
    for clean, corrupt, same in zip(*sides, alike.tolist(), strict=True):
        yield "" if not same else clean if clean == corrupt else f"{clean} / {corrupt}"


def _is_at(pair: Pair, role: str, position: int) -> bool:
    return bool((pair.positions[role] % pair.n_pos == position).any(1).all())
