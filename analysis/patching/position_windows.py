"""Positions of rows: the part of a batch's activations that a forward pass works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Window:
    """Row i of a tensor belongs to example ``examples[i]``, its columns to the consecutive positions ``at[i]``."""

    examples: Int[Tensor, " row"]
    at: Int[Tensor, "row column"]
    n_pos: int
    _routes: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def _index(self) -> Int[Tensor, "row column"]:
        return self.examples[:, None] * self.n_pos + self.at

    def take(self, whole: Tensor) -> Tensor:
        """Return these rows and columns (row column ...) of a tensor of the whole batch (batch pos ...)."""
        return whole.flatten(0, 1).index_select(0, self._index.flatten()).view(*self.at.shape, *whole.shape[2:])

    def from_window(self, old: Window, part: Tensor, whole: Tensor) -> Tensor:
        """Return the columns of this window out of ``part``, which has those of ``old``; out of ``whole`` elsewhere."""
        if old is self:
            return part
        if id(old) not in self._routes:
            self._routes[id(old)] = self._route(old, len(whole))
        both = torch.cat([whole.flatten(0, 1), part.flatten(0, 1)])
        return both.index_select(0, self._routes[id(old)]).view(*self.at.shape, *whole.shape[2:])

    def _route(self, old: Window, batch: int) -> Int[Tensor, " row_column"]:
        """Where each column is in the whole batch's positions followed by those of ``old``."""
        offset = self.at - old.at[:, :1]
        width = old.at.shape[1]
        inside = (offset >= 0) & (offset < width)
        row = torch.arange(len(self.examples), device=self.at.device)[:, None]
        return torch.where(inside, batch * self.n_pos + row * width + offset, self._index).flatten()

    @cached_property
    def everywhere(self) -> Window:
        """The window of the same rows with every position."""
        at = torch.arange(self.n_pos, device=self.at.device).expand(len(self.examples), -1)
        return self if self.at.shape == at.shape else Window(self.examples, at, self.n_pos)
