"""The loss of predicting the next token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from circuits.common.errors import require
from circuits.transformerlens.hooks import values_of

_IGNORED = -100
"""Stands where there is no target."""


def next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    is_token: Bool[Tensor, "batch pos"] | None = None,
    per_token: bool = False,
) -> Float[Tensor, "*losses"]:
    """Return the mean cross-entropy, in nats, of predicting every token but the first from those before it.

    Where ``is_token`` is False is padding: it is neither predicted nor predicted from. ``per_token``: every loss by
    itself (batch pos - 1), 0 where there is none.

    Raises:
        ValueError: for a mean over nothing, as no token follows on another.
    """
    # A target to ignore at the last position, instead of a copy of the logits without it.
    targets = F.pad(tokens[:, 1:].long(), (0, 1), value=_IGNORED)
    if is_token is not None:
        targets = targets.masked_fill(~F.pad(is_token[:, 1:] & is_token[:, :-1], (0, 1)), _IGNORED)
    if not per_token and not torch.compiler.is_compiling():
        counted = values_of(targets != _IGNORED) if is_token is not None or targets.shape[1] < 2 else None
        require(
            counted is None or bool(counted.any()),
            f"no token follows on another in (batch, pos) = {tuple(tokens.shape)}, padding left out, so there is no "
            "loss of predicting it; give two tokens or more, or ask for the logits",
        )
    reduction = "none" if per_token else "mean"
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction=reduction)
    return losses.view_as(targets)[:, :-1] if per_token else losses
