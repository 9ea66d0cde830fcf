"""One look for every figure: colours that mean the same variant everywhere, captions, and what a figure is of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from circuits.common.palette import (
    BLACK,
    BLUE,
    FONT,
    GREEN,
    ORANGE,
    PINK,
    SKY,
    VERMILION,
    YELLOW,
)

_KNOWN = {
    "classic": BLACK,
    "value": BLUE,
    "key": GREEN,
    "query": PINK,
    "cumulative": PINK,
    "resformer-constant": ORANGE,
    "svformer": YELLOW,
}
_CYCLE = (ORANGE, SKY, GREEN, PINK, VERMILION, YELLOW)
_DASHES = {"-stop": "dash", "-gradient-only": "dot"}
_GATE_COLOURS = {"value-stop": SKY, "value-gradient-only": VERMILION}
WIDTH = 950
"""Pixels that a legend may take across."""
DIVERGING = [[0.0, "#B2182B"], [0.25, "#F4A582"], [0.5, "#F7F7F7"], [0.75, "#92C5DE"], [1.0, "#2166AC"]]


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for every variant; the well-known ones always have the same."""
    found: dict[str, str] = {}
    for name in names:
        base = next((name.removesuffix(s) for s in _DASHES if name.endswith(s)), name)
        found[name] = _GATE_COLOURS.get(name) or _KNOWN.get(base) or _CYCLE[len(found) % len(_CYCLE)]
    return found


def dash(name: str) -> str:
    """Return the line style of a variant: its gate."""
    return next((style for suffix, style in _DASHES.items() if name.endswith(suffix)), "solid")


def faded(colour: str, opacity: float) -> str:
    """Return a hexadecimal colour with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def themed(
    figure: go.Figure, title: str, caption: str, runs: Iterable[str] = (), height: int = 440, below: int = 56
) -> go.Figure:
    """Return ``figure`` with the house's look, a caption below it, and the ids of its runs in its metadata.

    ``below`` is the room that the labels of the horizontal axis take, in pixels. Title, legend and titles of plots
    each have rows of their own, whatever the height.
    """
    top = 78 + 20 * _legend_rows(figure)
    figure.update_layout(
        template="plotly_white",
        title={
            "text": title,
            "x": 0.0,
            "xref": "paper",
            "y": 1 - 26 / height,
            "yref": "container",
            "font": {"size": 17},
        },
        font={"family": FONT, "size": 13},
        height=height,
        margin={"l": 70, "r": 30, "t": top, "b": below + 54},
        legend={"orientation": "h", "yref": "container", "y": 1 - 42 / height, "yanchor": "top", "x": 0.0},
        meta={"runs": sorted(set(runs)), "caption": caption},
    )
    figure.add_annotation(
        text=caption,
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        yshift=-below,
        yanchor="top",
        xanchor="left",
        showarrow=False,
        align="left",
        font={"size": 11.5, "color": "#555555"},
    )
    return figure


def _legend_rows(figure: go.Figure) -> int:
    traces: list[Any] = list(figure.data)
    names = {trace.name for trace in traces if trace.showlegend is not False and trace.name}
    pixels = sum(60 + 8 * len(name) for name in names)
    return -(-pixels // WIDTH) if len(names) > 1 else 0
