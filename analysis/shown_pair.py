"""How a pair shows itself: its inputs in words where a tokenizer tells them, what differs, and where roles stand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.common.showing import ROWS, Shown

MANY = 400
"""Characters of an input that are shown in a table of examples."""


class ShownPair(Shown):
    """What is shown of clean and corrupt inputs."""

    clean: Tensor
    corrupt: Tensor
    answers: Int[Tensor, " batch"]
    wrong: Int[Tensor, " batch"]
    positions: dict[str, Int[Tensor, "batch _"]]
    mask: Bool[Tensor, "batch pos"] | None
    tokenizer: Any

    @property
    def reads(self) -> Int[Tensor, " batch"]:
        """Where the logits of every example are read."""
        raise NotImplementedError

    def finding(self) -> str:
        """Return how many examples there are, of what, where they differ and which roles they have."""
        n, n_pos = self.clean.shape[:2]
        kind = "vectors" if self.clean.is_floating_point() else "tokens"
        per = self._differ().sum(1)
        differing = f"{int(per.min())} to {int(per.max())}" if per.min() < per.max() else f"{int(per.min())}"
        differ = f"differ at {differing} positions each" if bool(per.any()) else "do not differ (one side)"
        roles = f"; roles {', '.join(self.positions)}" if self.positions else ""
        return f"{n} clean and corrupt inputs of {n_pos} {kind}, which {differ}{roles}"

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the first ``n`` examples: clean and corrupt input, answer and wrong answer."""
        differ = self._differ()

        def said(side: Tensor, row: int) -> str:
            if side.is_floating_point():
                return f"differs at {differ[row].nonzero()[:, 0].tolist()}"
            real = side[row] if self.mask is None else side[row][self.mask[row]]
            return " ".join(map(self._word, real.tolist()))[:MANY]

        rows = [
            {
                "clean": said(self.clean, i),
                "corrupt": said(self.corrupt, i),
                "answer": self._word(int(self.answers[i])),
                "wrong": self._word(int(self.wrong[i])),
            }
            for i in range(min(n, len(self.clean)))
        ]
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """Return one row an example and position: clean and corrupt (a word, a token number, or of a vector its norm),
        by how much they differ (the norm of the difference, or 0 and 1), roles, and whether it is read or padding."""
        examples, n_pos = self.clean.shape[:2]
        index = pd.MultiIndex.from_product([range(examples), range(n_pos)], names=["example", "position"])
        frame = pd.DataFrame(index=index).reset_index()
        sides = {name: self._said(side) for name, side in (("clean", self.clean), ("corrupt", self.corrupt))}
        roles = [""] * len(frame)
        for role, places in self.positions.items():
            for example, row in enumerate((places % n_pos).tolist()):
                for position in set(row):
                    at = example * n_pos + position
                    roles[at] = f"{roles[at]} + {role}" if roles[at] else role
        read = torch.zeros(examples, n_pos, dtype=torch.bool)
        read[torch.arange(examples), self.reads.cpu()] = True
        padding = torch.zeros_like(read) if self.mask is None else ~self.mask.cpu()
        return frame.assign(
            **sides,
            differ=self._distance().flatten().tolist(),
            role=roles,
            read=read.flatten().tolist(),
            padding=padding.flatten().tolist(),
        )

    def figure(self) -> Any:
        """Return the first examples position by position, with what differs and the roles (a plotly figure)."""
        from figures.models.pairs import pair_grid

        return pair_grid(self.to_frame())

    def _differ(self) -> Bool[Tensor, "batch pos"]:
        return (self.clean != self.corrupt).flatten(2).any(-1) if self.clean.ndim == 3 else self.clean != self.corrupt

    def _distance(self) -> Tensor:
        if not self.clean.is_floating_point():
            return self._differ().double()
        return (self.clean - self.corrupt).double().flatten(2).norm(dim=-1)

    def _said(self, side: Tensor) -> list[Any]:
        if side.is_floating_point():
            return side.double().flatten(2).norm(dim=-1).flatten().tolist()
        return [self._word(token) for token in side.flatten().tolist()]

    def _word(self, token: int) -> str:
        """A token as its tokenizer writes it, or its number."""
        return str(token) if self.tokenizer is None else self.tokenizer.decode([token]).strip() or repr(token)
