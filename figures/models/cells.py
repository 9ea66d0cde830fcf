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


def intervals(low: np.ndarray, high: np.ndarray) -> list[list[str]]:
    """Return what is said on hover behind the number of every cell: its interval, or that it has none."""
    return [
        [", no interval" if np.isnan(a) else f" [{a:.3f}, {b:.3f}]" for a, b in zip(*ends, strict=True)]
        for ends in zip(low, high, strict=True)
    ]


def with_ends(values: np.ndarray, low: np.ndarray, high: np.ndarray, p: np.ndarray | None = None) -> tuple[Any, str]:
    """Return what every cell has beside its number, its interval and p, and what a hover template says of it.

    It is numbers where no cell lacks any, else text: plotly says 0 of a number that is missing.
    """
    numbers = [low, high] if p is None else [low, high, p]
    if not np.isnan(np.stack(numbers)[:, ~np.isnan(values)]).any():
        said = " [%{customdata[0]:.3f}, %{customdata[1]:.3f}]" + ("" if p is None else ", p = %{customdata[2]:.3g}")
        return np.stack(numbers, axis=-1), said
    tests = np.full(values.shape, np.nan) if p is None else p
    return [
        [ends if np.isnan(one) else f"{ends}, p = {one:.3g}" for ends, one in zip(*row, strict=True)]
        for row in zip(intervals(low, high), tests, strict=True)
    ], "%{customdata}"


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
