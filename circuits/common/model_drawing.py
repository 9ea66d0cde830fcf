"""An architecture as a drawing: layers upwards, what each projects, and what streams bring from where to where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuits.common.palette import BLACK, FONT, GREY, ORANGE, ROUTES, SKY

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
else:
    Frame = Any

_ACROSS = {"q": 1.0, "k": 2.0, "v": 3.0, "token": 4.6, "x0": 4.6}
"""Where a carrier's boxes stand, and tables; the residual stream is at 0."""
_EDGE = 0.25
"""Layers from the middle of a box to where lines begin and end."""
GATES = {
    "full": ("solid", ROUTES["stream"]),
    "stop": ("dash", SKY),
    "gradient-only": ("dot", ORANGE),
    "off": ("longdash", GREY),
    "mixed": ("dashdot", ROUTES["stream"]),
}


def model_drawing(connections: Frame, n_layers: int, mlp: bool, title: str) -> Any:
    """Return the drawing (a plotly figure).

    ``connections`` has a row a connection of a stream: reader, source, fed, read, gate ("mixed" where heads differ) and
    says, what is written on hover.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    top = n_layers - 0.3
    line = {"color": BLACK, "width": 4}
    figure.add_scatter(x=[0, 0], y=[-0.8, top + 0.3], mode="lines", line=line, name="residual stream")
    for gate in dict.fromkeys(connections.gate):
        dash, colour = GATES[gate]
        rows: Sequence[Any] = connections[connections.gate == gate].to_dict("records")
        xs, ys, texts = _arcs(rows)
        style = {"color": colour, "dash": dash, "width": 2.5, "shape": "spline"}
        name = f"residual attention stream, gate {gate}"
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines+markers",
            line=style,
            marker=_arrows(xs, colour),
            name=name,
            hovertext=texts,
            hoverinfo="text",
        )
    figure.add_scatter(x=[0], y=[top + 0.3], mode="markers", marker=_arrow(BLACK), showlegend=False, hoverinfo="skip")
    _boxes(figure, n_layers, mlp, connections)
    # Tables and the input stand right of all, where there are any.
    right = 5.4 if connections["read"].isin(["token", "x0"]).any() else 4.2
    figure.update_xaxes(visible=False, range=[-0.8, right])
    figure.update_yaxes(
        title_text="layer", tickvals=list(range(n_layers)), range=[-1, top + 0.5], showgrid=False, zeroline=False
    )
    legend = {"orientation": "h", "y": -0.04, "x": 0}
    look: dict[str, Any] = {"template": "plotly_white", "font": {"family": FONT, "size": 13}, "legend": legend}
    meta = {"title": title, "alt": f"{title}. {_in_words(connections)}"}
    return figure.update_layout(
        title={"text": title, "font": {"size": 15}}, height=220 + 90 * n_layers, meta=meta, **look
    )


def _in_words(connections: Frame) -> str:
    says = [str(says) for says in connections["says"]]
    return "; ".join(says) if says else "No stream: all goes through the residual stream"


def _arrow(colour: str) -> dict[str, Any]:
    return {"symbol": "arrow", "size": 13, "color": colour}


def _arrows(xs: Sequence[float | None], colour: str) -> dict[str, Any]:
    """An arrow at the end of every line, which is where the next point is none."""
    ends = [x is not None and (i + 1 == len(xs) or xs[i + 1] is None) for i, x in enumerate(xs)]
    return _arrow(colour) | {"angleref": "previous", "size": [13 if end else 0 for end in ends]}


def _arcs(rows: Sequence[Any]) -> tuple[list[float | None], list[float | None], list[str]]:
    """Lines from where a connection reads to where it feeds, broken between two; a bend for those past a layer."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for row in rows:
        (x0, y0), (x1, y1) = _end(row["read"], row["source"]), (_ACROSS[row["fed"]], row["reader"] - _EDGE)
        bend = 0.25 * max(1.0, y1 - y0)
        xs += [x0, (x0 + x1) / 2 + bend, x1, None]
        ys += [y0, (y0 + y1) / 2, y1, None]
        texts += [row["says"]] * 4
    return xs, ys, texts


def _end(read: str, source: int) -> tuple[float, float]:
    return _ACROSS[read], source - 0.4 if read in ("token", "x0") else source + _EDGE


def _boxes(figure: Any, n_layers: int, mlp: bool, connections: Frame) -> None:
    carriers = [(c, _ACROSS[c]) for c in ("q", "k", "v")]
    places = [(x, layer, f"{name}{layer}") for layer in range(n_layers) for name, x in carriers]
    rows: Sequence[Any] = connections.to_dict("records")
    of_input = {(row["read"], row["source"]) for row in rows if row["read"] in ("token", "x0")}
    names = {"token": "VE", "x0": "x0 "}
    places += [(_ACROSS[read], source - 0.4, f"{names[read]}{source}") for read, source in sorted(of_input)]
    if mlp:
        places += [(0.35, layer + 0.4, "MLP") for layer in range(n_layers)]
    xs, ys, texts = (list(column) for column in zip(*places, strict=True))
    marker = {"symbol": "square", "size": 30, "color": "white", "line": {"color": BLACK, "width": 1.5}}
    figure.add_scatter(x=xs, y=ys, text=texts, mode="markers+text", marker=marker, showlegend=False, hoverinfo="skip")
