"""Scores of heads in the circuit for indirect objects, of runs side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.palette import VERMILION
from figures.findings import LEAST, joined, over, plain, shows
from figures.models.cells import fitted, printed
from figures.models.several_runs import by_run, once
from figures.theme import themed
from figures.words import fitting, listed

SCORES = {
    "previous token": "previous token",
    "duplicate token": "duplicate token:<br>S2 looks at S1",
    "induction": "induction:<br>S2 looks at S1+1",
    "s-inhibition": "S-inhibition:<br>END looks at S2",
    "name mover": "name mover:<br>END looks at IO",
    "retrieval": "retrieval: the answer<br>is looked at and said",
}
"""Scores in words."""
HIGH = 0.5
"""From here on a score is marked and told: more than half of a head's attention."""
_SHADES = [[0.0, "#F7FBFF"], [0.5, "#6BAED6"], [1.0, "#08306B"]]
_LAYER, _BETWEEN = 26, 22
"""Pixels of a layer, and from the cells of a run to those of the next below."""


def head_score_maps(frame: pd.DataFrame, of: str = "") -> go.Figure:
    """Return heat maps of head scores, layers down and heads across: a row a run, a column a score.

    ``frame`` has columns variant, run, layer, head, score, value, stderr, and may have seed. Heads of different runs
    are different heads, so runs are not averaged. Scores lie between 0 and 1, and so does the scale of all panels;
    those from a half on are framed. ``of`` says of what size and task.

    Raises:
        ValueError: if a head of a run has a score twice, at several steps for example.
    """
    once(frame, "score", "run", "layer", "head", "score")
    scores = [s for s in SCORES if s in set(frame.score)] + [s for s in dict.fromkeys(frame.score) if s not in SCORES]
    named = by_run(frame)
    names = dict(zip(named.run, named.variant.astype(str), strict=True))
    layers, heads = sorted(frame.layer.unique().tolist()), sorted(frame["head"].unique().tolist())
    tall = len(names) * _LAYER * len(layers) + (len(names) - 1) * _BETWEEN
    figure = make_subplots(
        len(names),
        len(scores),
        subplot_titles=[SCORES.get(score, score) for score in scores],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=_BETWEEN / tall if len(names) > 1 else 0,
    )
    for i, (run, name) in enumerate(names.items(), start=1):
        figure.update_yaxes(title_text=f"<b>{name}</b><br>layer", row=i, col=1)
        for j, score in enumerate(scores, start=1):
            chosen = frame[(frame.run == run) & (frame.score == score)]
            figure.add_trace(_map(chosen, name, layers, heads), row=i, col=j)
            for row in chosen[chosen["value"] >= HIGH].to_dict("records"):
                figure.add_shape(_frame(heads.index(row["head"]), layers.index(row["layer"])), row=i, col=j)
    bar = {"title": "score", "thickness": 12}
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorscale": _SHADES, "colorbar": bar})
    across, up = fitted(len(heads), len(layers))
    plain_axes: dict[str, Any] = {"showgrid": False, "zeroline": False}
    figure.update_yaxes(range=up[::-1], tickvals=list(range(len(layers))), ticktext=layers, **plain_axes)
    figure.update_xaxes(range=across, tickvals=list(range(len(heads))), ticktext=heads, **plain_axes)
    figure.update_xaxes(title_text="head", title_standoff=4, row=len(names))
    figure.update_annotations(font_size=12.5)
    one = "one run a variant" if len(set(frame.variant)) == len(names) else ""
    caption = (
        "A score is the attention of a head from the one position to the other, between 0 and 1; standard errors "
        f"stand on hover. Framed: {HIGH} and more. Heads of different runs are different heads."
    )
    size: dict[str, Any] = {"height": 142 + tall, "above": 18, "left": 74}
    return themed(figure, _finding(frame, names), caption, frame.run, of=joined(of, one, over(frame, "prompt")), **size)


def _map(rows: pd.DataFrame, name: str, layers: list[int], heads: list[int]) -> go.Heatmap:
    value, error = (
        rows.pivot(index="layer", columns="head", values=column).reindex(index=layers, columns=heads).to_numpy(float)
        for column in ("value", "stderr")
    )
    n = f", {over(rows, 'prompt')}" if "n" in rows else ""
    return go.Heatmap(
        z=value,
        x=list(range(len(heads))),
        y=list(range(len(layers))),
        text=printed(value),
        texttemplate="%{text}" if len(heads) <= 8 else None,
        textfont={"size": 10},
        customdata=error,
        hovertemplate=f"L%{{y}}H%{{x}}: %{{z:.3f}}, standard error %{{customdata:.3f}}{n}, one run"
        f"<extra>{name}, {rows.score.iloc[0]}</extra>",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def _frame(x: int, y: int) -> dict[str, Any]:
    line = {"color": VERMILION, "width": 2.5}
    return {"type": "rect", "x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.47, "y1": y + 0.47, "line": line}


def _finding(frame: pd.DataFrame, names: dict[str, str]) -> str:
    """Which heads score high, and the most of all others."""
    rows = frame.sort_values("value", ascending=False, kind="stable")
    high, rest = rows[rows["value"] >= HIGH], rows[rows["value"] < HIGH]

    def said(row: Any, value: bool) -> str:
        number = f" {plain(row['value'])}" if value else ""
        return f"{names[row['run']]}'s L{row['layer']}H{row['head']} ({row['score']}{number})"

    below = rest["value"].max() if len(rest) else np.nan
    if not shows(rows.iloc[0]["value"]):
        return f"No score of any head is {LEAST} or more"
    if high.empty:
        return f"No head of any run scores {HIGH} or more; the highest is {said(rows.iloc[0], True)}"
    other = "" if np.isnan(below) else f"; no other above {plain(below)}"
    told = [listed(said(row, value) for row in high.to_dict("records")) for value in (True, False)]
    verb = "scores" if len(high) == 1 else "score"
    first = said(high.iloc[0], True)
    return fitting(
        f"Of {len(rows)} scores of heads {len(high)} {'is' if len(high) == 1 else 'are'} high: {told[0]}{other}",
        *(f"{text} {verb} high{other}" for text in told),
        f"Of {len(rows)} scores of heads {len(high)} are {HIGH} or more; the highest is {first}",
    )
