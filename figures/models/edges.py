"""Circuits as drawings: layers upwards, heads side by side, residual edges and stream edges told apart."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import BLACK, ROUTES
from figures.findings import joined, over, spelt, whom
from figures.models.edge_findings import finding
from figures.models.edge_layout import Layout, Way, shape_of
from figures.models.several_runs import alike, by_run, once
from figures.theme import WIDTH, faded, themed

WORDS = {
    "residual": "through the residual stream",
    "stream": "through the stream",
    "own": "a carried projection to its own head",
}
MOST = 40
"""More edges than this cannot be told apart in a drawing; of all, the largest are shown."""
NAMED = 12
"""So many of the largest edges have their port and effect written on them."""
_LEAST = 0.02
"""Of the largest effect, what an edge needs to have its own written on it."""
_LAYER = 96
"""Pixels of a layer."""
_SIDES = 46
"""Pixels left and right of the panels in sum."""


def edge_drawing(frame: pd.DataFrame, title: str = "", caption: str = "", of: str = "") -> go.Figure:
    """Return the edges of a model's graph, or of a circuit, a panel a variant, or a run where several are
    of one; width is the size of the effect.

    ``frame`` has columns edge, source, target, route, effect and, where several runs are drawn side by side, variant
    and run; rows with ``kept`` false are left out. Of each panel's edges the forty largest are shown. Without a
    ``title`` the figure says what goes through the stream. ``caption`` is given where effects are not those of a
    metric: they are not written on the edges then. ``of`` says of what size and task.

    Raises:
        ValueError: if several of what is drawn have one place, at several steps for example, or what is drawn is of
            several metrics, directions, methods or replacements.
    """
    frame = by_run(frame) if "variant" in frame else frame.assign(variant="")
    once(frame, "edge", "variant", "edge")
    kept = frame[frame["kept"].astype(bool)] if "kept" in frame else frame
    variants = list(dict.fromkeys(frame.variant))
    titles = variants if len(variants) > 1 else None
    figure = make_subplots(1, len(variants), subplot_titles=titles, horizontal_spacing=0.02)
    for route in [r for r in WORDS if r in set(kept.route)]:
        figure.add_trace(_legend(route), row=1, col=1)
    panel, (_, tallest) = (WIDTH - _SIDES) / len(variants), shape_of(kept)
    tall = float(round(_LAYER * (max(tallest, 2) + 1.7)))
    for column, variant in enumerate(variants, 1):
        rows = kept[kept.variant == variant]
        layout = Layout.of(rows, panel, tall)
        shown = rows.loc[rows.effect.abs().sort_values(ascending=False, kind="stable").index].head(MOST)
        _draw(figure, shown, layout, column, named=not caption)
        figure.update_xaxes(range=[0, panel], visible=False, row=1, col=column)
        figure.update_yaxes(range=[0, tall], visible=False, row=1, col=column)
    runs = frame.run if "run" in frame else ()
    figure.update_annotations(selector={"showarrow": False, "bgcolor": None}, font_size=14)
    size: dict[str, Any] = {"height": int(tall) + 142, "below": 10, "left": 16}
    return themed(figure, title or finding(frame), caption or _caption(kept), runs, of=joined(of, _of(frame)), **size)


def circuit_drawing(frame: pd.DataFrame, of: str = "") -> go.Figure:
    """Return a circuit as :func:`edge_drawing` draws it, which says what is refused."""
    return edge_drawing(frame, of=of)


def _of(frame: pd.DataFrame) -> str:
    # On the switchboard it is a number: the metric with the edge cut.
    if "metric" not in frame or not isinstance(frame.metric.iloc[0], str):
        return joined(whom(frame), over(frame, "pair"))
    asked = alike(frame, "metric", "direction", "method")
    share = f"shares of the {spelt(asked['metric'])} between clean and corrupt"
    return joined(whom(frame), over(frame, "pair"), asked.get("method", ""), share)


def _caption(kept: pd.DataFrame) -> str:
    most = int(kept.groupby("variant").size().max()) if len(kept) else 0
    shown = f"The {MOST} largest of {most:,} edges. " if most > MOST else ""
    asked = alike(kept, "replacement") if most else {}
    outside = f" In place of edges outside the circuit: {asked['replacement']}." if asked else ""
    return (
        f"{shown}Wider: a larger effect; an edge that ends in a bar instead of an arrow has a negative one. q, k, v: "
        f"the head's port that an edge ends in, from left to right.{outside}"
    )


def _legend(route: str) -> go.Scatter:
    line = {"color": ROUTES[route], "width": 4}
    return go.Scatter(x=[None], y=[None], mode="lines", line=line, name=WORDS[route], legendgroup=route)


def _draw(figure: go.Figure, shown: pd.DataFrame, layout: Layout, column: int, named: bool) -> None:
    """Add the edges of a panel, what is written on the largest, and the nodes."""
    largest = max(float(shown.effect.abs().max()), 1e-12) if len(shown) else 1.0
    rows = shown.to_dict("records")
    ways = layout.ways([(row["source"], row["target"], row["route"]) for row in rows])
    strengths = [abs(row["effect"]) / largest for row in rows]
    for row, way, strength in reversed(list(zip(rows, ways, strengths, strict=True))):
        figure.add_trace(_edge(row, way, strength), row=1, col=column)
    figure.add_trace(_nodes(layout), row=1, col=column)
    if named:
        chosen = [i for i, strength in enumerate(strengths[:NAMED]) if strength > _LEAST]
        texts = {i: f"{way.port} {rows[i]['effect']:+.2f}".strip() for i in chosen for way in [ways[i]]}
        for i, (x, y) in layout.places(texts, ways, strengths).items():
            figure.add_annotation(_label(texts[i], x, y, ROUTES[rows[i]["route"]]), row=1, col=column)


def _edge(row: dict, way: Way, strength: float) -> go.Scatter:
    colour = faded(ROUTES[row["route"]], 0.3 + 0.7 * strength)
    width = 1 + 6 * strength
    end = "arrow" if row["effect"] >= 0 else "line-ew"
    beside = joined(whom(pd.DataFrame([row])), *([over(pd.DataFrame([row]), "pair")] if "n" in row else []))
    ends = f" [{row['low']:.3f}, {row['high']:.3f}]" if "stderr" not in row and "low" in row else ""
    error = f", standard error {row['stderr']:.3f}" if row.get("stderr", float("nan")) >= 0 else ""
    return go.Scatter(
        x=way.x,
        y=way.y,
        mode="lines+markers",
        line={"color": colour, "width": width},
        marker={
            "symbol": [*["circle"] * (len(way.x) - 1), end],
            "size": [*[0] * (len(way.x) - 1), 8 + 1.6 * width],
            "angleref": "previous",
            "color": colour,
            "line": {"color": colour, "width": 0 if end == "arrow" else 2.5},
            "opacity": 1,
        },
        name=str(row["edge"]),
        hovertemplate=f"{row['edge']}: {row['effect']:+.3f}{ends}{error}<extra>{beside}</extra>",
        legendgroup=row["route"],
        showlegend=False,
    )


def _label(text: str, x: float, y: float, colour: str) -> dict[str, Any]:
    font = {"size": 11, "color": colour}
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": font, "bgcolor": "rgba(255,255,255,0.88)"}


def _nodes(layout: Layout) -> go.Scatter:
    return go.Scatter(
        x=[x for x, _ in layout.nodes.values()],
        y=[y for _, y in layout.nodes.values()],
        mode="markers+text",
        marker={"size": 2 * layout.radius, "color": "white", "line": {"color": BLACK, "width": 1.5}},
        text=list(layout.nodes),
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )
