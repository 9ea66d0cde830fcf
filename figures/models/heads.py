"""What can be said of heads as heat maps: scores by layer and head, composition by earlier and later head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.findings import LEAST, joined, largest, over, plain, shows, whom
from figures.models.cells import crosses, fitted, printed
from figures.models.head_scores import SCORE_WORDS, head_scores, leading
from figures.models.several_runs import once
from figures.theme import themed
from figures.words import fitting, in_order, listed

_COMPOSED = {"Q": "into queries", "K": "into keys", "V": "into values"}
_ACROSS = 4
"""Panels side by side."""
_CELLS_NAMED = 64
"""Where a panel has more cells, numbers stand on hover alone: they would be cut off."""
_CELL, _BETWEEN = 28, 96
"""Pixels of a row of cells, and from the cells of a panel to those of the next below."""
_TOLD = 3
"""So many scores are told in a title."""


def head_score_panels(frame: pd.DataFrame) -> go.Figure:
    """Return every score as a heat map of layers by heads; over several steps, as curves.

    ``frame`` has columns layer, head, score, value, stderr, n; those of :func:`figures.head_scores` where there is a
    step. Rows of the whole model (layer -1) and of two heads (partner) are left out of heat maps.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example.
    """
    if "step" in frame and frame.step.nunique() > 1:
        missing = {name: "" for name in ("variant", "run") if name not in frame}
        return head_scores(frame.assign(**missing))
    of_one = frame[(frame.layer >= 0) & (frame.get("partner", pd.Series("", frame.index)).fillna("") == "")]
    once(of_one, "score", "layer", "head", "score")
    panels = {SCORE_WORDS.get(str(score), str(score)): rows for score, rows in of_one.groupby("score", sort=False)}
    best = [(words, *leading(rows)) for words, rows in panels.items() if rows["value"].notna().any()]
    best = sorted(best, key=lambda one: -one[-1])
    said = [
        f"{heads} {'have' if ' ' in heads else 'has'} {plain(value)} of {words!r}"
        for words, heads, value in best
        if shows(value)
    ]
    nothing = f"No score of any head is {LEAST} or more" if best else "No head was scored"
    title = fitting(*(listed(said[:n]) for n in range(min(_TOLD, len(said)), 0, -1))) if said else nothing
    caption = (
        "Scores of heads lie between 0 and 1; standard errors stand on hover. A cross: the score is not of this head."
    )
    of = joined(
        whom(frame),
        over(frame, "example"),
        f"highest of {len(best)} scores" if len(best) > 1 else "",
    )
    return _panels(panels, ("layer", "head"), "value", "stderr" if "stderr" in frame else "value", title, caption, of)


def composition_panels(frame: pd.DataFrame) -> go.Figure:
    """Return every kind of composition as a heat map of earlier by later heads.

    ``frame`` is :meth:`analysis.heads.composition.Composition.to_frame`.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example.
    """
    named = frame.assign(
        earlier="L" + frame.from_layer.astype(str) + "H" + frame.from_head.astype(str),
        later="L" + frame.to_layer.astype(str) + "H" + frame.to_head.astype(str),
    )
    once(named, "score", "earlier", "later", "kind")
    panels = {_kind(str(kind)): rows for kind, rows in named.groupby("kind", sort=False)}
    top = largest(named, "score")
    title = f"No score of two heads is {LEAST} or more"
    if shows(top.score):
        title = f"{top.earlier} and {top.later} compose most: {plain(top.score)}, {_kind(str(top.kind))}"
    caption = (
        "|A B| / (|A| |B|): A what the earlier head writes, B what the later one reads with; norms stand on hover. A "
        "cross: the one is no earlier than the other, or no stream joins them."
    )
    of = joined(whom(frame), "composition of weights, exact")
    return _panels(panels, ("earlier", "later"), "score", "norm", title, caption, of)


def _kind(kind: str) -> str:
    return _COMPOSED.get(kind, f"by the {kind}" if kind.startswith("stream") else kind)


def _panels(
    panels: dict[str, pd.DataFrame], axes: Sequence[str], value: str, beside: str, title: str, caption: str, of: str
) -> go.Figure:
    across = min(len(panels), _ACROSS)
    down = -(-len(panels) // across)
    y, x = (in_order({str(one) for rows in panels.values() for one in rows[axis]}) for axis in axes)
    named = len(y) * len(x) <= _CELLS_NAMED
    tall = _CELL * len(y) * down + _BETWEEN * (down - 1)
    figure = make_subplots(
        down,
        across,
        subplot_titles=list(panels),
        horizontal_spacing=0.06,
        vertical_spacing=_BETWEEN / tall if down > 1 else 0,
    )
    for i, (name, rows) in enumerate(panels.items()):
        grid, other = (
            rows.astype(dict.fromkeys(axes, str))
            .pivot(index=axes[0], columns=axes[1], values=v)
            .reindex(index=y, columns=x)
            .to_numpy(float)
            for v in (value, beside)
        )
        heat = go.Heatmap(
            z=grid,
            x=x,
            y=y,
            text=printed(grid),
            texttemplate="%{text}" if named else None,
            customdata=other,
            hovertemplate=f"{axes[0]} %{{y}}, {axes[1]} %{{x}}: %{{z:.3f}} ({_BESIDE[beside]} %{{customdata:.3g}}"
            f"{_examples(rows)})<extra>{name}</extra>",
            hoverongaps=False,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
        )
        place = [i // across + 1] * 2, [i % across + 1] * 2
        figure.add_traces([heat, crosses(grid, x, y, "no such score")], rows=place[0], cols=place[1])
    across_range, up = fitted(len(x), len(y))
    angle = {"tickangle": -90, "tickfont_size": 10, "dtick": 1} if len(x) > 8 else {"tickangle": 0}
    figure.update_xaxes(type="category", title_text=axes[1], title_standoff=4, showgrid=False, range=across_range)
    figure.update_xaxes(angle)
    figure.update_yaxes(type="category", range=up[::-1], showgrid=False, dtick=1)
    figure.update_yaxes(title_text=axes[0], col=1)
    figure.update_annotations(font_size=12)
    bar = {"title": "score", "thickness": 12, "nticks": 3}
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorscale": "Blues", "colorbar": bar})
    size: dict[str, Any] = {"height": 132 + 60 + tall, "below": 60}
    return themed(figure, title, caption, of=of, **size)


_BESIDE = {"stderr": "standard error", "norm": "norm", "value": "score"}


def _examples(rows: pd.DataFrame) -> str:
    return f", {over(rows, 'example')}" if "n" in rows else ""
