"""What a task of token numbers gives: windows, which of their predictions count, and the loss on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from analysis.pairs import Pair
from circuits.common.errors import require

IGNORED = -100
"""The target that cross-entropy leaves out."""


@dataclass(frozen=True)
class TokenBatch:
    """Windows of token numbers, and which of their predictions count.

    Raises:
        ValueError: if tokens and counted differ in shape.
    """

    tokens: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"] | None = None
    """``counted[i, p]``: whether predicting ``tokens[i, p + 1]`` from what stands before it counts; the last column
    is never used; ``None``: all count."""

    def __post_init__(self) -> None:
        if self.counted is not None and self.counted.shape != self.tokens.shape:
            raise ValueError(
                f"tokens are {tuple(self.tokens.shape)} and counted is {tuple(self.counted.shape)}: they must agree"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> TokenBatch:
        """Return the windows of some rows."""
        return TokenBatch(self.tokens[rows], None if self.counted is None else self.counted[rows])

    def to(self, device: str | torch.device) -> TokenBatch:
        """Return the batch on a device."""
        return TokenBatch(self.tokens.to(device), None if self.counted is None else self.counted.to(device))

    @property
    def targets(self) -> Int[Tensor, "batch pos"]:
        """The token that follows each position; :data:`IGNORED` where none does or its prediction does not count."""
        following = functional.pad(self.tokens[:, 1:].long(), (0, 1), value=IGNORED)
        return following if self.counted is None else following.masked_fill(~self.counted, IGNORED)


@runtime_checkable
class WindowSource(Protocol):
    """Where windows and questions come from."""

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        """Return ``n`` windows of a split; equal arguments give equal windows."""
        ...

    def questions(self, n: int) -> dict[str, Pair]:
        """Return evaluation sets of about ``n`` clean/corrupt pairs by name, maybe none."""
        ...


def next_token_loss(logits: Float[Tensor, "batch pos d_vocab"], batch: TokenBatch) -> Float[Tensor, ""]:
    """Return the mean cross-entropy, in nats, of the predictions that count; NaN where none does.

    Raises:
        ValueError: if the logits are not of the batch's windows.
    """
    require(
        logits.shape[:2] == batch.tokens.shape,
        f"logits are of windows {tuple(logits.shape[:2])}, the batch's are {tuple(batch.tokens.shape)}",
    )
    # Targets are shifted and not logits, which are the larger and would be copied.
    flat = rearrange(logits, "batch pos d_vocab -> (batch pos) d_vocab")
    targets = rearrange(batch.targets, "batch pos -> (batch pos)")
    return functional.cross_entropy(flat, targets, ignore_index=IGNORED)
