"""Frames, and numbers with intervals, as text that fits the screen."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from circuits.common.screen import HARD, TOGETHER, broken, columns

GAP = 1
"""Spaces between two columns."""
INDENT = "  "


@dataclass(frozen=True)
class _Column:
    """A column as text: its head, its cells, and whether they are numbers."""

    head: str
    cells: tuple[str, ...]
    numbers: bool
    room: int = 0
    """Characters that a cell may take, where that is fewer than it has."""

    @property
    def longest(self) -> int:
        """Characters of the longest cell, or of the head."""
        return max(len(cell) for cell in (self.head, *self.cells))

    @property
    def width(self) -> int:
        """Characters that the column takes."""
        return self.room or self.longest

    @property
    def least(self) -> int:
        """Characters that the column takes at least, as no word and no number is broken; a head is, where it has an
        underscore."""
        parts = [part for cell in self.cells for part in TOGETHER.sub(HARD, cell).split(" ")]
        return max(map(len, [*parts, *self.head.replace("_", "_ ").split(" ")]))

    def lines(self, cell: str) -> list[str]:
        """A cell's lines, each as wide as the column."""
        return self._justified(broken(cell, self.width))

    def heads(self) -> list[str]:
        """The head's lines, each as wide as the column."""
        if len(self.head) <= self.width:
            return self._justified([self.head])
        lines = textwrap.wrap(self.head.replace("_", "_ "), self.width, break_on_hyphens=False)
        return self._justified([line.replace("_ ", "_") for line in lines])

    def _justified(self, lines: list[str]) -> list[str]:
        justify = str.rjust if self.numbers else str.ljust
        return [justify(line, self.width) for line in lines or [""]]


def as_text(frame: pd.DataFrame, width: int | None = None, spare: Sequence[str] = ()) -> str:
    """Return a table as text, numbers to the right and words to the left; a word that is missing is a dash.

    What is wider than ``width`` (default: the screen) is made to fit, with the first of these that is enough: columns
    in ``spare`` are left out, in that order; a single row becomes a sentence; columns that say the same in every row
    are said once, above; words are broken into lines at spaces, and heads at underscores; the first column gets lines
    of its own. No number and no name is cut.
    """
    width = columns() if width is None else width
    made = [_column(str(name), values) for name, values in frame.items()]
    if not made:
        return ""
    for name in spare:
        if _width(made) > width:
            made = [column for column in made if column.head != name]
    if _width(made) > width and len(frame) == 1:
        return "\n".join(broken(", ".join(f"{column.head} {column.cells[0]}" for column in made), width))
    above, made = _said_once(made, width)
    made = _narrowed(made, width)
    lines = _lines(made) if _width(made) <= width else _folded(made, width)
    return "\n".join([*broken(above, width), *(line.rstrip() for line in lines)])


def _column(name: str, values: pd.Series) -> _Column:
    if not pd.api.types.is_numeric_dtype(values):
        return _Column(name, tuple(values.astype(object).where(values.notna(), "-").astype(str)), False)
    floats = pd.api.types.is_float_dtype(values)
    cells = ("NaN" if pd.isna(x) else f"{x:.4g}" if floats else str(x) for x in values)
    return _Column(name, tuple(cells), True)


def _width(made: Sequence[_Column]) -> int:
    return sum(column.width for column in made) + GAP * (len(made) - 1)


def _said_once(made: list[_Column], width: int) -> tuple[str, list[_Column]]:
    """A sentence on columns that say the same in every row, so many that the others fit, and the others."""
    same = [c for c in made[1:] if len(c.cells) > 1 and len({*c.cells}) == 1]
    lifted: list[_Column] = []
    for column in sorted(same, key=lambda c: -c.width):
        if _width([c for c in made if c not in lifted]) > width:
            lifted.append(column)
    said = ", ".join(f"{column.head} {column.cells[0]}" for column in made if column in lifted)
    return f"in every row: {said}" if said else "", [column for column in made if column not in lifted]


def _narrowed(made: list[_Column], width: int) -> list[_Column]:
    """The columns with the widest ones of words made narrower, until all fit or no word could be kept whole."""
    made, least = [*made], [column.least for column in made]
    while _width(made) > width:
        wide = [(column.width, i) for i, column in enumerate(made) if column.width > least[i]]
        if not wide:
            break
        _, i = max(wide)
        made[i] = replace(made[i], room=made[i].width - 1)
    return made


def _lines(made: Sequence[_Column]) -> list[str]:
    return [line for block in _blocks(made) for line in block]


def _row(made: Sequence[_Column], cells: Sequence[str] | None) -> list[str]:
    """The lines of a row of cells; without them, of the heads."""
    if cells is None:
        parts = [column.heads() for column in made]
    else:
        parts = [column.lines(cell) for column, cell in zip(made, cells, strict=True)]
    height = max(map(len, parts))
    filled = [[*part, *[" " * c.width] * (height - len(part))] for part, c in zip(parts, made, strict=True)]
    return [(" " * GAP).join(line) for line in zip(*filled, strict=True)]


def _folded(made: Sequence[_Column], width: int) -> list[str]:
    """The first column in lines of its own, and the others in as many lines under it as they need."""
    groups: list[list[_Column]] = [[]]
    for column in made[1:]:
        if groups[-1] and _width([*groups[-1], column]) > width - len(INDENT):
            groups.append([])
        groups[-1].append(column)
    blocks = [
        _blocks([made[0]]),
        *([[INDENT + line for line in block] for block in _blocks(group)] for group in groups),
    ]
    return [line for row in zip(*blocks, strict=True) for block in row for line in block]


def _blocks(made: Sequence[_Column]) -> list[list[str]]:
    """The lines of the heads, and those of every row."""
    return [_row(made, None), *(_row(made, cells) for cells in zip(*(column.cells for column in made), strict=True))]


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame of words as a Markdown table."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def rows_of(frame: pd.DataFrame) -> Iterable[Any]:
    """Return a frame's rows as named tuples."""
    return frame.itertuples()


def interval(mean: float, low: float, high: float, form: str) -> str:
    """Return a number with its interval; of numbers without spread, or of one alone, there is none to print."""
    if math.isnan(mean):
        return "-"
    if math.isnan(low):
        return f"{mean:{form}} (no interval)"
    return f"{mean:{form}} (no spread)" if low == high else f"{mean:{form}} [{low:{form}}, {high:{form}}]"
