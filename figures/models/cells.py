"""Cells of heat maps: numbers in them, and a cross where there is none to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuits.common.palette import GREY
from figures.findings import plain


def printed(values: np.ndarray, least: float = 0.0, nothing: str = "") -> list[list[str]]:
    """Return what stands in every cell: its number, and ``nothing`` where it is missing or smaller than ``least``."""
    return [[nothing if np.isnan(value) or abs(value) < least else plain(value) for value in row] for row in values]


def fitted(x: int, y: int) -> tuple[list[float], list[float]]:
    """Return the ranges of axes that hold so many columns and rows, and no room beside them; rows from below."""
    return [-0.5, x - 0.5], [-0.5, y - 0.5]


def crosses(values: np.ndarray, x: Sequence[Any], y: Sequence[Any], why: str, **axes: str) -> go.Scatter:
    """Return a grey cross for every cell that is missing, which says ``why`` on hover; they look like no number."""
    rows, columns = np.nonzero(np.isnan(values))
    return go.Scatter(
        x=[x[int(i)] for i in columns],
        y=[y[int(i)] for i in rows],
        mode="markers",
        marker={"symbol": "x-thin", "size": 9, "line": {"color": GREY, "width": 1.2}},
        hovertemplate=f"%{{x}}, %{{y}}: {why}<extra></extra>",
        showlegend=False,
        **axes,
    )
