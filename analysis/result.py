"""What questions return: values that show what was found, how large it is, and of what it is a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from analysis.gap import Gap
from circuits.common.showing import ROWS, Shown


class Effects(Shown):
    """Effects of sites, paths or edges, as shares of the difference between the clean and the corrupt run."""

    beside: Gap | None
    metric: str
    direction: str
    where: ClassVar[tuple[str, ...]]
    """The columns that say of what an effect is."""
    of: ClassVar[str]
    """What they are effects of, in the plural."""

    def finding(self) -> str:
        """Return how many effects there are, the largest, and the metric of both runs."""
        frame = self.to_frame()
        first = self.largest(1).iloc[0]
        place = " ".join(str(first[name]) for name in self.where if str(first[name]) not in ("-", "all"))
        low, high = first.get("low"), first.get("high")
        ends = "" if low is None or pd.isna(low) else f" [{low:.2f}, {high:.2f}]"
        assert self.beside is not None, "every question says what its effects are shares of"
        return (
            f"{len(frame)} {self.of}, {self.direction}; largest: {place}, {first.effect:.2f}{ends} of the difference "
            f"({self.beside.sentence(self.metric)})"
        )

    def notes(self) -> Sequence[str]:
        """Return what the pair is warned of, if anything."""
        return () if self.beside is None else self.beside.warnings

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` largest effects, either way, with their intervals."""
        frame = self.to_frame()
        rows = frame.loc[frame.effect.abs().sort_values(ascending=False, kind="stable").index].head(n)
        kept = [name for name in (*self.where, "effect", "low", "high", "stderr", "p") if name in frame]
        return rows[kept].reset_index(drop=True)


@dataclass(frozen=True, repr=False, eq=False)
class Table(Shown):
    """What was found as a frame, with what it says of itself; the base of results that are nothing but their rows."""

    frame: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """Return all rows."""
        return self.frame

    def __len__(self) -> int:
        return len(self.frame)
