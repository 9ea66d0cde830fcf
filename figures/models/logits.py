"""What adds up to the answer's logit, and what the model would say after every layer, by route."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.common.palette import ROUTES, TEAL
from figures.curves import band
from figures.findings import joined, number, over, plain, spelt, whom
from figures.models.several_runs import alike, once
from figures.theme import themed
from figures.words import fitting, listed

_LENS = {"residual": ROUTES["residual"], "every route": TEAL}
_WRITES = {"residual": "what is no head's writes", "own": "heads' own values", "stream": "what came by the stream"}


def logit_attribution_bars(frame: pd.DataFrame) -> go.Figure:
    """Return what every component writes of a logit (difference), a head's share by route on top of each other.

    ``frame`` is :meth:`analysis.logits.direct_attribution.LogitAttribution.to_frame`.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example, or
            what is drawn is of several metrics.
    """
    named = frame.assign(part=[_name(row) for row in frame.to_dict("records")])
    once(named, "part", "part", "route", "source")
    summed = named.groupby(["part", "route"], sort=False)["value"].sum().reset_index()
    figure, mean = go.Figure(), f"mean of {over(frame, 'example')}"
    for route, rows in summed.groupby("route", sort=False):
        bar = go.Bar(x=rows.part, y=rows.value, name=str(route), marker_color=ROUTES[str(route)])
        bar.hovertemplate = f"%{{x}}, {route}: %{{y:.3f}} ({mean})<extra></extra>"
        figure.add_trace(bar)
    of, whole = spelt(alike(frame, "of")["of"]), float(frame.value.sum())
    figure.update_layout(barmode="relative")
    figure.update_xaxes(tickangle=-45, categoryorder="array", categoryarray=list(dict.fromkeys(summed.part)))
    figure.update_yaxes(title_text=f"{of} (logits)")
    caption = (
        "All bars add up to the whole. Of a head: 'own' is what it writes of its layer's own values, 'stream' of what "
        "came beside the residual stream. Attention patterns are as they are: what queries and keys do is not in the "
        "sum."
    )
    by_route = frame.groupby("route", sort=False)["value"].sum()
    said = listed(f"{_WRITES[str(route)]} {plain(value)}" for route, value in by_route.items())
    of_whole = f"Of the {of} of {plain(whole)}"
    title = fitting(f"{of_whole} {said}", f"{of_whole}, the stream makes {plain(by_route.get('stream', 0.0))}")
    runs = frame.run if "run" in frame else ()
    about = joined(whom(frame), mean)
    return themed(figure, title, caption, runs, height=460, below=90, of=about)


def _name(row: dict) -> str:
    if row["component"] in ("head", "mlp"):
        return f"L{row['layer']}H{row['head']}" if row["component"] == "head" else f"MLP{row['layer']}"
    return f"{row['component']} {row['layer']}".strip()


def logit_lens_curves(frame: pd.DataFrame) -> go.Figure:
    """Return a metric of what the model would say before every layer: of the residual stream, and by every route.

    ``frame`` is :func:`analysis.logits.lens.logit_lens`.

    Raises:
        ValueError: if several of what is drawn have one place, in several runs or at several steps for example, or
            what is drawn is of several metrics.
    """
    once(frame, "number", "route", "layer")
    figure, mean = go.Figure(), f"mean of {over(frame, 'example')}"
    metric = spelt(alike(frame, "metric")["metric"])
    for route, rows in frame.groupby("route", sort=False):
        curve = rows.rename(columns={"value": "mean", "layer": "step"})
        *edges, line = band(curve, str(route), _LENS[str(route)])
        line.update(
            customdata=rows[["low", "high"]].to_numpy(),
            hovertemplate=f"before layer %{{x}}: {metric} %{{y:.3f}} "
            "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>"
            f"{mean}<extra>{route}</extra>",
        )
        # So few points would be marked, those of the band too.
        figure.add_traces([trace.update(mode="lines") for trace in (*edges, line)])
    last = int(frame.layer.max())
    layers = list(range(last + 1))
    figure.update_xaxes(title_text="before layer", tickvals=layers, ticktext=[*map(str, layers[:-1]), "the end"])
    figure.update_yaxes(title_text=metric)
    caption = (
        "Bands: 95 % intervals. 'every route' adds to the residual stream what streams still carry, as later heads "
        "write it; both are the model's own logits at the end."
    )
    of = joined(whom(frame), mean)
    runs = frame.run if "run" in frame else ()
    return themed(figure, _lens_finding(frame, metric, last), caption, runs, height=420, of=of)


def _lens_finding(frame: pd.DataFrame, metric: str, last: int) -> str:
    """Where the two routes' metric differs most, and where it ends."""
    wide = frame.pivot(index="layer", columns="route", values="value")
    rows: Any = frame.set_index(["route", "layer"])
    end = number(rows.loc[(frame.route.iloc[0], last)].to_dict(), "value")
    apart = (wide.max(axis=1) - wide.min(axis=1)).drop(index=last, errors="ignore")
    size = float(wide.max().max() - wide.min().min())
    if wide.shape[1] < 2 or apart.empty or apart.max() < 0.02 * max(size, 1e-9):
        return f"The {metric} at the end, {end}, is what the residual stream says; no stream carries more before it"
    layer: Any = apart.idxmax()
    every, alone = (rows.loc[(route, layer)].to_dict() for route in ("every route", "residual"))
    return fitting(
        *(
            f"Before layer {layer} the {metric} is {of(every)} by every route, {of(alone)} by the residual stream alone"
            for of in (lambda row: number(row, "value"), lambda row: plain(row["value"]))
        )
    )
