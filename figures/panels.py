"""Panels of rows, in columns: where each lies on the page, and how high the page is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

ROW, GAP, EDGE = 23, 84, 26
"""Pixels of a row, between two panels of a column, and above and below the rows of one in sum."""
ACROSS = 4
"""Panels side by side at most."""
ALONE = 14
"""Rows that one column takes before there are two."""
_LETTER = 7
"""Pixels of a letter of a row's name."""


@dataclass(frozen=True)
class Panel:
    """A panel: its title, the words of its horizontal axis, and its rows from above."""

    title: str
    axis: str
    rows: tuple[str, ...]

    @property
    def height(self) -> int:
        """Return how many pixels its plot is high."""
        return ROW * len(self.rows) + EDGE

    @property
    def left(self) -> int:
        """Return how many pixels the names of its rows take."""
        return 30 + _LETTER * max(len(row) for row in self.rows)


def columns_of(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Return which panels lie in which column, from above.

    Panels of the same rows lie side by side; others one under the other, in two columns where that is too long.
    """
    if len({panel.rows for panel in panels}) == 1 and len(panels) > 1:
        across = min(len(panels), ACROSS)
        return [list(panels[i::across]) for i in range(across)]
    total = sum(panel.height for panel in panels)
    if len(panels) == 1 or sum(len(panel.rows) for panel in panels) <= ALONE:
        return [list(panels)]
    first: list[Panel] = []
    while sum(panel.height for panel in first) < total / 2 and len(first) < len(panels) - 1:
        first.append(panels[len(first)])
    return [first, list(panels[len(first) :])]


def lay_out(figure: go.Figure, panels: Sequence[Panel], width: int) -> tuple[int, int, dict[Panel, dict[str, str]]]:
    """Give a figure an axis a panel; return the pixels that they take in height and before the first column, and which
    axes are which panel's (as the arguments of a trace).

    ``width`` is how many pixels all columns have, with the names before them.
    """
    columns = columns_of(panels)
    alike = len({panel.rows for panel in panels}) == 1
    high = max(sum(panel.height for panel in column) + GAP * (len(column) - 1) for column in columns)
    lefts = [max(panel.left for panel in column) if not i or not alike else 16 for i, column in enumerate(columns)]
    plot = (width - sum(lefts)) / len(columns)
    axes: dict[Panel, dict[str, str]] = {}
    x = 0.0
    for i, column in enumerate(columns):
        x += lefts[i] if i else 0
        y = float(high)
        for panel in column:
            number = "" if not axes else str(len(axes) + 1)
            axes[panel] = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
            across, down = [x, x + plot], [y - panel.height, y]
            figure.update_layout(_axes(panel, number, across, down, width - lefts[0], high, not i or not alike))
            y -= panel.height + GAP
        x += plot
    return high, lefts[0], axes


def _axes(
    panel: Panel, number: str, across: list[float], down: list[float], width: int, high: int, named: bool
) -> dict[str, Any]:
    names = {"showticklabels": named, "ticklabelstandoff": 8, "range": [-0.6, len(panel.rows) - 0.4]}
    rows = {"categoryorder": "array", "categoryarray": panel.rows[::-1], "tickvals": list(panel.rows)}
    return {
        f"xaxis{number}": {
            "domain": [min(1.0, pixel / width) for pixel in across],
            "anchor": f"y{number}",
            "title": {"text": panel.axis, "font": {"size": 13}, "standoff": 4},
        },
        f"yaxis{number}": {
            "domain": [max(0.0, pixel / high) for pixel in down],
            "anchor": f"x{number}",
            **names,
            **rows,
        },
    }


def entitle(figure: go.Figure, axes: dict[Panel, dict[str, str]]) -> None:
    """Write the title of every panel above it."""
    for panel, where in axes.items():
        if panel.title:
            figure.add_annotation(
                text=panel.title,
                xref=f"{where['xaxis']} domain",
                yref=f"{where['yaxis']} domain",
                x=0.5,
                y=1,
                yanchor="bottom",
                showarrow=False,
                font={"size": 13},
            )
