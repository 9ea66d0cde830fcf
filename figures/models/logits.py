"""What adds up to the answer's logit, and what the model would say after every layer, by route."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from figures.curves import band
from figures.theme import BLACK, BLUE, VERMILION, themed

_ROUTES = {"residual": BLACK, "own": BLUE, "stream": VERMILION, "every route": VERMILION}


def logit_attribution_bars(frame: pd.DataFrame) -> go.Figure:
    """Return what every component writes of a logit (difference), a head's share by route on top of each other.

    ``frame`` is :meth:`analysis.logits.direct_attribution.LogitAttribution.to_frame`.
    """
    named = frame.assign(part=[_name(row) for row in frame.to_dict("records")])
    summed = named.groupby(["part", "route"], sort=False)["value"].sum().reset_index()
    figure = go.Figure()
    for route, rows in summed.groupby("route", sort=False):
        figure.add_trace(go.Bar(x=rows.part, y=rows.value, name=str(route), marker_color=_ROUTES[str(route)]))
    figure.update_layout(barmode="relative")
    figure.update_xaxes(tickangle=-45, categoryorder="array", categoryarray=list(dict.fromkeys(summed.part)))
    figure.update_yaxes(title_text=str(frame.of.iloc[0]).replace("_", " ") + " (logits)")
    caption = (
        f"Means of {frame.n.max()} examples; all bars add up to {frame.value.sum():.2f}. Of a head: 'own' is what it "
        "writes of its layer's own values, 'stream' of<br>what came beside the residual stream. Attention patterns are "
        "as they are: what queries and keys do is not in the sum."
    )
    return themed(
        figure, "Direct logit attribution", caption, frame.run if "run" in frame else (), height=480, below=90
    )


def _name(row: dict) -> str:
    if row["component"] in ("head", "mlp"):
        return f"L{row['layer']}H{row['head']}" if row["component"] == "head" else f"MLP{row['layer']}"
    return f"{row['component']} {row['layer']}".strip()


def logit_lens_curves(frame: pd.DataFrame) -> go.Figure:
    """Return a metric of what the model would say before every layer: of the residual stream, and by every route.

    ``frame`` is :func:`analysis.logits.lens.logit_lens`.
    """
    figure = go.Figure()
    for route, rows in frame.groupby("route", sort=False):
        curve = rows.rename(columns={"value": "mean", "layer": "step"})
        *edges, line = band(curve, str(route), _ROUTES[str(route)])
        line.update(hovertemplate="before layer %{x}: %{y:.3f}<extra>" + str(route) + "</extra>")
        # So few points would be marked, those of the band too.
        figure.add_traces([trace.update(mode="lines") for trace in (*edges, line)])
    figure.update_xaxes(title_text="before layer (the last: the end)", dtick=1)
    figure.update_yaxes(title_text=str(frame.metric.iloc[0]).replace("_", " "))
    caption = (
        f"Means of {frame.n.max()} examples with 95 % intervals. 'every route' adds to the residual stream what "
        "streams still carry, as later heads write it.<br>Both are the model's own logits at the end."
    )
    return themed(figure, "Logit lens", caption, frame.run if "run" in frame else (), height=440, below=75)
