"""What can be said of heads as heat maps: scores by layer and head, composition by earlier and later head."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures.theme import themed
from figures.trainings.head_scores import head_scores

_ACROSS = 4
"""Panels side by side."""
_CELLS_NAMED = 64
"""Where a panel has more cells, numbers stand on hover alone: they would be cut off."""


def head_score_panels(frame: pd.DataFrame) -> go.Figure:
    """Return every score as a heat map of layers by heads; over several steps, as curves.

    ``frame`` has columns layer, head, score, value, stderr, n; those of :func:`figures.head_scores` where there is a
    step. Rows of the whole model (layer -1) and of two heads (partner) are left out of heat maps.
    """
    if "step" in frame and frame.step.nunique() > 1:
        missing = {name: "" for name in ("variant", "run") if name not in frame}
        return head_scores(frame.assign(**missing))
    of_one = frame[(frame.layer >= 0) & (frame.get("partner", pd.Series("", frame.index)) == "")]
    panels = {str(score): rows for score, rows in of_one.groupby("score", sort=False)}
    caption = f"Mean of {frame.n.max()} examples; between 0 and 1; standard errors on hover." if "n" in frame else ""
    return _panels(panels, ("layer", "head"), "value", "stderr" if "stderr" in frame else "value", "Heads", caption)


def composition_panels(frame: pd.DataFrame) -> go.Figure:
    """Return every kind of composition as a heat map of earlier by later heads.

    ``frame`` is :meth:`analysis.heads.composition.Composition.to_frame`.
    """
    named = frame.assign(
        earlier="L" + frame.from_layer.astype(str) + "H" + frame.from_head.astype(str),
        later="L" + frame.to_layer.astype(str) + "H" + frame.to_head.astype(str),
    )
    panels = {str(kind): rows for kind, rows in named.groupby("kind", sort=False)}
    caption = "|A B| / (|A| |B|): A what the earlier head writes, B what the later one reads with; norms on hover."
    return _panels(panels, ("earlier", "later"), "score", "norm", "Composition of heads", caption)


def _panels(
    panels: dict[str, pd.DataFrame], axes: Sequence[str], value: str, beside: str, title: str, caption: str
) -> go.Figure:
    across = min(len(panels), _ACROSS)
    down = -(-len(panels) // across)
    cells = max(rows[axes[0]].nunique() * rows[axes[1]].nunique() for rows in panels.values())
    tall = max(rows[axes[0]].nunique() for rows in panels.values())
    figure = make_subplots(
        down, across, subplot_titles=list(panels), horizontal_spacing=0.06, vertical_spacing=0.28 / down
    )
    for i, rows in enumerate(panels.values()):
        grid, other = (rows.pivot(index=axes[0], columns=axes[1], values=name) for name in (value, beside))
        heat = go.Heatmap(
            z=grid.to_numpy(),
            x=[str(x) for x in grid.columns],
            y=[str(y) for y in grid.index],
            text=[["" if pd.isna(x) else f"{x:.2f}" for x in row] for row in grid.to_numpy()],
            texttemplate="%{text}" if cells <= _CELLS_NAMED else None,
            customdata=other.to_numpy(),
            hovertemplate=f"{axes[0]} %{{y}}, {axes[1]} %{{x}}: %{{z:.3f}} ({beside} %{{customdata:.3g}})"
            "<extra></extra>",
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
        )
        figure.add_trace(heat, row=i // across + 1, col=i % across + 1)
    figure.update_xaxes(type="category", title_text=axes[1])
    figure.update_yaxes(type="category", autorange="reversed")
    figure.update_yaxes(title_text=axes[0], col=1)
    figure.update_annotations(font_size=12)
    bar = {"title": value, "thickness": 12}
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorscale": "Blues", "colorbar": bar})
    return themed(figure, title, caption, height=180 + (110 + 28 * tall) * down, below=60)
