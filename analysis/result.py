"""What questions return: values that show what was found, how large it is, and of what it is a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from circuits.common.showing import ROWS, Shown


class Effects(Shown):
    """Effects of sites, paths or edges, as shares of the difference between the clean and the corrupt run."""

    beside: Any
    """What effects are shares of (:class:`analysis.gap.Gap`)."""
    where: ClassVar[tuple[str, ...]]
    """The columns that say of what an effect is."""
    of: ClassVar[str]
    """What they are effects of, in the plural."""

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return self.to_frame()

    def finding(self) -> str:
        """Return how many effects there are, the largest, and the metric of both runs."""
        first = self._rows.loc[self.largest(1).index[0]]
        return (
            f"{len(self._rows)} {self.of}, {first.direction}; largest: {told(first, self.where)}, "
            f"{first.effect:.2f}{ends(first)} of the difference; {self.beside.sentence(first.metric)}"
        )

    def notes(self) -> Sequence[str]:
        """Return what the pair is warned of, if anything."""
        return self.beside.warnings

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` largest effects, either way, with their intervals."""
        return largest_by(self._rows, "effect", n)[columns(self._rows, self.where, "effect low high stderr p")]


@dataclass(frozen=True, repr=False, eq=False)
class Table(Shown):
    """A result that is its rows; a kind of it says what was found, and draws it."""

    frame: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """Return all rows."""
        return self.frame

    def __len__(self) -> int:
        return len(self.frame)


def largest_by(frame: pd.DataFrame, column: str, n: int) -> pd.DataFrame:
    """Return the ``n`` rows whose number in a column is largest, either way."""
    return frame.loc[frame[column].abs().sort_values(ascending=False, kind="stable").index].head(n)


def columns(frame: pd.DataFrame, where: Sequence[str], numbers: str) -> list[str]:
    """Return those columns that say where, and of the numbers (named in one string) those that are there."""
    return [name for name in (*where, *numbers.split()) if name in frame]


def told(row: Any, where: Sequence[str]) -> str:
    """Return in words of what a row is: what it says in some columns, but for "all" and nothing."""
    return " ".join(f"{_WORDS.get(name, '')}{row[name]}" for name in where if str(row[name]) not in ("-", "all", ""))


_WORDS = {"layer": "L", "head": "H", "position": "at "}


def ends(row: Any, low: str = "low", high: str = "high") -> str:
    """Return a row's interval in words, and nothing where it has none; that there is none is said of several examples,
    from which one would be expected."""
    if low not in row:
        return ""
    if pd.isna(row[low]):
        return " (no interval)" if row.get("n", 1) > 1 else ""
    return f" [{row[low]:.2f}, {row[high]:.2f}]"
