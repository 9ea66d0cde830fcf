"""Circuits as drawings: layers upwards, heads side by side, residual edges and stream edges told apart."""

from __future__ import annotations

import re

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import BLACK, BLUE, SKY, VERMILION, faded, themed

COLOURS = {"residual": BLUE, "stream": VERMILION, "own": SKY}
WORDS = {
    "residual": "through the residual stream",
    "stream": "through the stream",
    "own": "a carried projection to its own head",
}
MOST = 40
"""More edges than this cannot be told apart in a drawing; of all, the largest are shown."""
NAMED = 12
"""So many of the largest edges have their port and effect written on them."""
PORTS = {"q": -0.015, "k": 0.0, "v": 0.015}
"""Where on a head an edge ends, left or right of its middle, as a share of the drawing's width."""
_PLACE = re.compile(r"L(\d+)H(\d+)(?:\.([qkv]))?")
Point = tuple[float, float]


def edge_drawing(frame: pd.DataFrame, title: str = "Edges by route", caption: str | None = None) -> go.Figure:
    """Return the edges of a model's graph, or of a circuit, a panel a variant; width is the size of the effect.

    ``frame`` has columns edge, source, target, route, effect and, where several runs are drawn side by side, variant
    and run; rows with ``kept`` false are left out. Of each panel's edges the forty largest are shown. ``caption`` is
    given where effects are not those of a metric: they are not written on the edges then.
    """
    frame = frame[frame["kept"].astype(bool)] if "kept" in frame else frame
    frame = frame if "variant" in frame else frame.assign(variant="")
    variants = list(dict.fromkeys(frame.variant))
    figure = make_subplots(1, len(variants), subplot_titles=variants)
    for route in [r for r in COLOURS if r in set(frame.route)]:
        figure.add_trace(_legend(route), row=1, col=1)
    for column, variant in enumerate(variants, 1):
        rows = frame[frame.variant == variant]
        heads, layers = _shape(rows)
        shown = rows.loc[rows.effect.abs().sort_values(ascending=False).index].head(MOST)
        for trace in [*_edges(shown, heads, layers, NAMED if caption is None else 0), _nodes(rows, heads, layers)]:
            figure.add_trace(trace, row=1, col=column)
        middle, half = (heads - 1) / 2, _width(heads) / 2
        figure.update_xaxes(range=[middle - half, middle + half], visible=False, row=1, col=column)
        figure.update_yaxes(range=[-1.4, layers + 0.4], visible=False, row=1, col=column)
    height = 360 + 90 * max(_shape(frame)[1], 2)
    return themed(
        figure, title, caption or _caption(frame), frame.run if "run" in frame else (), height=height, below=20
    )


def circuit_drawing(frame: pd.DataFrame) -> go.Figure:
    """Return a circuit as :func:`edge_drawing` draws it."""
    return edge_drawing(frame, "Circuit")


def _caption(frame: pd.DataFrame) -> str:
    first = frame.iloc[0]
    how = f"{first['method']}, " if "method" in frame else ""
    numbers = ""
    if "faithfulness" in frame:
        numbers = f" Faithfulness {first.faithfulness:.3f} [{first.low:.3f}, {first.high:.3f}] ({first.replacement})."
    return (
        f"Edges by effect on {first.metric} as a share of the clean-corrupt difference ({how}{first.n} pairs); at most "
        f"{MOST} a panel, dotted where negative.<br>q, k, v: the head's port that the edge ends in.{numbers}"
    )


def _legend(route: str) -> go.Scatter:
    line = {"color": COLOURS[route], "width": 4}
    return go.Scatter(x=[None], y=[None], mode="lines", line=line, name=WORDS[route], legendgroup=route)


def _point(name: str, heads: int, layers: int) -> Point:
    """Where a node stands: heads of a layer side by side, their layer's MLP to the right and above, tables of value
    embeddings to the left and below the layer of their number."""
    if name == "input":
        return (heads - 1) / 2, -1.0
    if name == "logits":
        return (heads - 1) / 2, float(layers)
    if name.startswith("MLP"):
        return heads - 0.2, int(name[3:]) + 0.45
    if name.startswith("VE"):
        return -0.8, int(name[2:]) - 0.45
    found = _PLACE.match(name)
    assert found, f"a node is an input, a head, an MLP, a table or the logits, not {name!r}"
    return float(found[2]), float(found[1])


def _width(heads: int) -> float:
    """How many heads would stand side by side in the drawing."""
    return max(heads + 1.5, 4.0)


def _port(name: str) -> str:
    found = _PLACE.match(name)
    return (found[3] or "") if found else ""


def _shape(frame: pd.DataFrame) -> tuple[int, int]:
    places = [found for name in (*frame.source, *frame.target) if (found := _PLACE.match(str(name)))]
    return max((int(p[2]) for p in places), default=0) + 1, max((int(p[1]) for p in places), default=0) + 1


def _edges(frame: pd.DataFrame, heads: int, layers: int, most_named: int) -> list[go.Scatter]:
    largest = max(float(frame.effect.abs().max()), 1e-12)
    named = set(frame.edge.head(most_named))
    return [
        _edge(row, [_point(row[end], heads, layers) for end in ("source", "target")], _width(heads), largest, named)
        for row in frame.sort_values("effect", key=abs).to_dict("records")
    ]


def _edge(row: dict, ends: list[Point], width: float, largest: float, named: set[str]) -> go.Scatter:
    strength, port = abs(row["effect"]) / largest, _port(row["target"])
    xs, ys = _curve(ends[0], ends[1], port, row["route"], width)
    label = f"\u2002{port} {row['effect']:+.2f}" if row["edge"] in named and strength > 0.02 else ""
    return go.Scatter(
        x=xs,
        y=ys,
        mode="lines+text",
        line={
            "color": faded(COLOURS[row["route"]], 0.2 + 0.8 * strength),
            "width": 1 + 6 * strength,
            "dash": "solid" if row["effect"] >= 0 else "dot",
            "shape": "spline",
        },
        text=["", label, *[""] * (len(xs) - 2)],
        textposition="middle right",
        textfont={"size": 10, "color": COLOURS[row["route"]]},
        hovertext=f"{row['edge']}: {row['effect']:+.3f}",
        hoverinfo="text",
        legendgroup=row["route"],
        showlegend=False,
    )


def _curve(start: Point, end: Point, port: str, route: str, width: float) -> tuple[list[float], list[float]]:
    """A bend by port and route, so that edges between the same two nodes do not hide each other."""
    if start == end:  # from a projection to its own head
        x, y = start
        return [x + 0.01 * width, x + 0.05 * width, x + 0.01 * width], [y - 0.12, y, y + 0.12]
    shift = width * PORTS.get(port, 0.0)
    # Past the nodes between, values to the right and the rest to the left.
    further = 0.045 * width * (end[1] - start[1] - 1) * (1 if port == "v" else -1)
    bend = 2 * shift + (0.05 * width if route == "stream" else 0.0) + further
    middle = (start[0] + end[0]) / 2 + bend, (start[1] + end[1]) / 2
    return [start[0], middle[0], end[0] + shift], [start[1], middle[1], end[1]]


def _nodes(frame: pd.DataFrame, heads: int, layers: int) -> go.Scatter:
    names = sorted({str(name).split(".")[0] for name in (*frame.source, *frame.target)})
    points = [_point(name, heads, layers) for name in names]
    return go.Scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="markers+text",
        marker={"size": 40, "color": "white", "line": {"color": BLACK, "width": 1.5}},
        text=names,
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )
