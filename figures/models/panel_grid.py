"""Where square panels of tokens by tokens stand: as many beside each other as their labels can be read in."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

WIDTH = 1100
"""Pixels of an image across."""
LEAST, MOST = 7.5, 26.0
"""Pixels of a cell: in less no label can be read, and more says nothing more."""
ABOVE, BETWEEN, BESIDE = 30, 18, 100
"""Pixels above a panel for its title, between two, and right of all for the scale."""


@dataclass(frozen=True)
class Grid:
    """The places of ``n`` panels that have the same labels down and across."""

    n: int
    labels: list[str]

    @property
    def font(self) -> float:
        """The size of the labels."""
        return min(12.0, max(LEAST, self.cell - 1))

    @property
    def labelled(self) -> int:
        """The pixels that labels take, left of all and under each panel."""
        return round(16 + 7 * max(len(html.unescape(name)) for name in self.labels))

    @property
    def room(self) -> int:
        """The pixels across that panels share."""
        return WIDTH - self.labelled - BESIDE

    @property
    def columns(self) -> int:
        """How many panels stand beside each other, about as many in every row."""
        fit = max(1, int((self.room + BETWEEN) // (LEAST * len(self.labels) + BETWEEN)))
        return -(-self.n // -(-self.n // fit))

    @property
    def cell(self) -> float:
        """The pixels of a cell."""
        return min(MOST, (self.room - BETWEEN * (self.columns - 1)) / self.columns / len(self.labels))

    @property
    def side(self) -> float:
        """The pixels of a panel."""
        return self.cell * len(self.labels)

    @property
    def height(self) -> float:
        """The pixels of all rows, but for the last one's labels."""
        rows = -(-self.n // self.columns)
        return rows * (ABOVE + self.side + self.labelled) - self.labelled

    def axes(self, shown: int) -> dict[str, Any]:
        """Return the layout's axes of all panels, of which the first ``shown`` are visible."""
        found = dict[str, Any]()
        for i in range(self.n):
            x, y = self.domains(i)
            same = {"type": "category", "showgrid": False, "visible": i < shown, "tickvals": self.labels, "ticks": ""}
            same |= {"tickfont": {"size": self.font}, "ticklabelstandoff": 3}
            found[axis("x", i)] = same | {"domain": x, "anchor": f"y{_number(i)}", "tickangle": -90}
            found[axis("y", i)] = same | {
                "domain": y,
                "anchor": f"x{_number(i)}",
                "autorange": "reversed",
                "showticklabels": i % self.columns == 0,
            }
        return found

    def domains(self, i: int) -> tuple[list[float], list[float]]:
        """Return which parts of the width and the height a panel takes."""
        row, column = divmod(i, self.columns)
        left = column * (self.side + BETWEEN) / self.room
        top = 1 - (ABOVE + row * (ABOVE + self.side + self.labelled)) / self.height
        across, down = self.side / self.room, self.side / self.height
        return [left, min(1.0, left + across)], [max(0.0, top - down), top]


def axis(letter: str, i: int) -> str:
    """Return the name of a panel's axis in a layout."""
    return f"{letter}axis{_number(i)}"


def trace_axes(i: int) -> dict[str, str]:
    """Return the axes of a trace in a panel."""
    return {f"{letter}axis": f"{letter}{_number(i)}" for letter in "xy"}


def _number(i: int) -> str:
    return str(i + 1) if i else ""
