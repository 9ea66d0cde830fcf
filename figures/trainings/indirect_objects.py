"""Figures of indirect-object identification: answers by sentence, effects by route and position, scores of heads."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.errors import known, require
from figures.curves import span, whiskers
from figures.theme import DIVERGING, colours, dash, faded, themed

ROLES = ("IO", "S1", "S1+1", "S2", "END")
ROUTES = ("own", "residual", "mixed", "outgoing", "-")
SCORES = ("previous token", "duplicate token", "induction", "s-inhibition", "name mover")
ANSWERS = {"right": "right name (IO)", "wrong": "wrong name (S)"}
FEW = 4
"""Sentences that have room for long lines."""
_PALE = 0.3
_PATTERNS = {"solid": "", "dash": "/", "dot": "."}
_SHADES = [[0.0, "#F7FBFF"], [0.5, "#6BAED6"], [1.0, "#08306B"]]
_PANELS = {"matched": "in the architecture that they were trained in", "transplanted": "in another architecture"}


def ioi_by_sentence(
    table: pd.DataFrame,
    runs: Sequence[str] = (),
    order: str | None = None,
    title: str = "Who is it given to, by sentence",
) -> go.Figure:
    """Return the probability of the right and the wrong name, by sentence: bars with whiskers, a colour a variant.

    ``table`` has columns variant (whose weights), body ("own", or the variant whose architecture they run in), prompt,
    answer ("right" or "wrong"), mean, low, high, n, and where they are told apart sentence (a number) and order. Above:
    weights in their own body; below: transplanted ones. ``order`` picks rows; by default those of "both", and where
    there are none all, told apart.

    Raises:
        ValueError: if two rows are of one bar.
        UnknownNameError: for an order that is not there.
    """
    table = _of_order(table if "order" in table else table.assign(order="both"), order)
    table = table.assign(sentence=_sentences(table), group=_groups(table))
    twice = table.duplicated(["sentence", "group", "answer"])
    require(not twice.any(), f"{int(twice.sum())} rows are of bars that others are of too; choose among them first")
    there = table.group == table.variant
    parts = {name: part for name, part in zip(_PANELS, (table[there], table[~there]), strict=True) if len(part)}
    titles = [f"<b>{name}</b>: weights {_PANELS[name]}" for name in parts]
    figure = make_subplots(
        len(parts),
        1,
        subplot_titles=titles,
        shared_xaxes=True,
        shared_yaxes="all",  # type: ignore[arg-type] # documented, beside True
        vertical_spacing=0.1,
    )
    palette = colours(dict.fromkeys(["classic", *table.variant, *table.body[~there]]))
    for row, part in enumerate(parts.values(), start=1):
        for (group, answer), bars in part.groupby(["group", "answer"], sort=False):
            figure.add_trace(_bars(bars, str(group), str(answer), palette), row=row, col=1)
    figure.add_traces([_key(answer) for answer in ANSWERS])
    top = min(1.03, 1.08 * float(np.nanmax(table[["mean", "high"]])))
    figure.update_yaxes(title_text="probability", range=[0, top])
    figure.update_xaxes(categoryorder="array", categoryarray=list(dict.fromkeys(table.sentence)), tickangle=0)
    figure.update_xaxes(tickfont_size=12 if table.sentence.nunique() <= FEW else 11)
    figure.update_layout(barmode="group", bargap=0.22, bargroupgap=0.06)
    figure.update_annotations(font_size=13)
    lines = 1 + max(label.count("<br>") for label in table.sentence)
    return themed(figure, title, _bar_caption(table), runs, height=250 + 250 * len(parts), below=22 + 17 * lines)


def _of_order(table: pd.DataFrame, order: str | None) -> pd.DataFrame:
    orders = list(dict.fromkeys(table.order))
    if order is None and "both" not in orders:
        return table
    return table[table.order == known("order", order or "both", orders)]


def _sentences(table: pd.DataFrame) -> list[str]:
    """What stands under every row's bars: its prompt, in lines."""
    several = table.order.nunique() > 1
    width = 36 if len(table[["prompt", "order"]].drop_duplicates()) <= FEW else 19
    prompts = table.prompt if "sentence" not in table else table.sentence.astype(str) + " " + table.prompt
    texts = ["<br>".join(textwrap.wrap(prompt, width)) for prompt in prompts]
    return [f"{text}<br>({order})" if several else text for text, order in zip(texts, table.order, strict=True)]


def _groups(table: pd.DataFrame) -> list[str]:
    """Whose weights run in whose body, in words."""
    both = zip(table.variant, table.body, strict=True)
    return [variant if body in ("own", variant) else f"{variant} in {body}" for variant, body in both]


def _bars(rows: pd.DataFrame, group: str, answer: str, palette: dict[str, str]) -> go.Bar:
    variant, body = (str(rows[column].iloc[0]) for column in ("variant", "body"))
    colour, edge = palette[variant], palette.get(body, palette[variant])
    fill = colour if answer == "right" else faded(colour, _PALE)
    pattern = {"shape": _PATTERNS[dash(variant)], "fgcolor": "white", "size": 6, "solidity": 0.3}
    bars = {"symmetric": False, "thickness": 1.2, "width": 3, "color": "#777777"}
    return go.Bar(
        x=rows.sentence,
        y=rows["mean"],
        error_y=whiskers(rows["mean"], rows.low, rows.high, **bars),
        name=group,
        legendgroup=group,
        showlegend=answer == "right",
        marker={"color": fill, "line": {"color": edge, "width": 2}, "pattern": pattern},
        hovertemplate="%{y:.3f}<extra>" + f"{group}: {ANSWERS[answer]}" + "</extra>",
    )


def _key(answer: str) -> go.Scatter:
    """What full and pale mean: a trace of the legend alone."""
    colour = "#777777" if answer == "right" else faded("#777777", _PALE)
    marker: dict[str, Any] = {"symbol": "square", "size": 11, "color": colour, "line": {"color": "#777777", "width": 2}}
    return go.Scatter(x=[None], y=[None], mode="markers", name=ANSWERS[answer], marker=marker)


def _bar_caption(table: pd.DataFrame) -> str:
    below = " (some reach below 0)" if (table.low < 0).any() else ""
    seeds = f"Means over {span(table.n)} seeds; whiskers are 95 % intervals over seeds{below}."
    averaged = " Means over either name as subject." if set(table.order) == {"both"} else ""
    edges = "<br>A bar's edge has the colour of the architecture, its inside that of the weights."
    moved = edges if (table.group != table.variant).any() else ""
    return ("One seed; no interval." if table.n.max() == 1 else seeds) + averaged + moved


def route_maps(frame: pd.DataFrame, title: str = "Patching by route and position") -> go.Figure:
    """Return the effect of every patched site: a row a component and route, a column a variant, layers by positions.

    ``frame`` is :meth:`analysis.patching.patch.PatchResult.to_frame` with columns variant and run; it needs layer,
    component, route, head, position, effect, low, high. Sites of single heads are left out. Of several runs of a
    variant it holds the means (:func:`analysis.statistics.curves.effects_over_runs`). One scale for all panels.

    Raises:
        ValueError: if all sites are of single heads, or several runs of a variant are not averaged.
    """
    whole = frame[frame["head"] == "all"]
    require(len(whole) > 0, "every site here is of a single head; patch with heads='all', or draw patch_heat_map")
    cell = ["variant", "component", "route", "layer", "position"]
    require(
        bool((whole.groupby(cell)["effect"].nunique() <= 1).all()),
        "several runs of a variant are here: analysis.statistics.curves.effects_over_runs(frame) averages them",
    )
    cells = whole.drop_duplicates(cell)
    variants = list(dict.fromkeys(cells.variant))
    sites = sorted(dict.fromkeys(zip(cells.component, cells.route, strict=True)), key=lambda s: _rank(cells, *s))
    there = set(zip(cells.variant, cells.component, cells.route, strict=True))
    layers = sorted(int(layer) for layer in cells.layer.unique())
    panel = 30 + 24 * len(layers)
    figure = make_subplots(
        len(sites),
        len(variants),
        specs=[[{} if (v, *site) in there else None for v in variants] for site in sites],
        subplot_titles=[f"{v}: {_site(*site)}" for site in sites for v in variants if (v, *site) in there],
        horizontal_spacing=0.04,
        vertical_spacing=54 / ((panel + 54) * len(sites)),
    )
    limit = max(1e-9, float(cells.effect.abs().max()))
    scale = {"coloraxis": "coloraxis"}
    for i, site in enumerate(sites, start=1):
        for j, variant in enumerate(variants, start=1):
            if (variant, *site) in there:
                chosen = cells[(cells.variant == variant) & (cells.component == site[0]) & (cells.route == site[1])]
                figure.add_trace(_effects(chosen, layers).update(scale), row=i, col=j)
    bar = {"title": "effect", "thickness": 12}
    figure.update_layout(coloraxis={"cmin": -limit, "cmax": limit, "colorscale": DIVERGING, "colorbar": bar})
    figure.update_yaxes(autorange="reversed", tickvals=layers, showgrid=False, zeroline=False)
    for i, site in enumerate(sites, start=1):
        first = next(j for j, variant in enumerate(variants, start=1) if (variant, *site) in there)
        figure.update_yaxes(title_text="layer", row=i, col=first)
    figure.update_xaxes(showgrid=False)
    figure.update_annotations(font_size=12.5)
    return themed(figure, title, _route_caption(whole), whole.run, height=150 + (panel + 54) * len(sites), below=40)


def _rank(cells: pd.DataFrame, component: str, route: str) -> tuple[int, int]:
    # Routes of sites that are patched together have names of their own.
    return list(dict.fromkeys(cells.component)).index(component), [*ROUTES, route].index(route)


def _site(component: str, route: str) -> str:
    name = "resid + stream" if component == "state" else component
    return name if route == "-" else f"{name}, {route}"


def _effects(cells: pd.DataFrame, layers: list[int]) -> go.Heatmap:
    positions = [role for role in ROLES if role in set(cells.position)]
    positions += [other for other in dict.fromkeys(cells.position) if other not in ROLES]
    effect, low, high = (
        cells.pivot(index="layer", columns="position", values=value).reindex(index=layers, columns=positions).to_numpy()
        for value in ("effect", "low", "high")
    )
    return go.Heatmap(
        z=effect,
        x=positions,
        y=layers,
        text=_printed(effect),
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="layer %{y}, %{x}: %{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )


def _printed(values: np.ndarray) -> list[list[str]]:
    # Adding 0.0 takes the sign off a zero.
    return [["" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}" for value in row] for row in values]


def _route_caption(frame: pd.DataFrame) -> str:
    runs = frame.groupby("variant")["run"].nunique()
    of = "One run a variant" if runs.max() == 1 else f"Means over {span(runs)} runs"
    first = frame.iloc[0]
    pairs = f", {first.n} pairs each" if "n" in frame else ""
    convention = f" ({first.direction}, {first.metric})" if {"direction", "metric"} <= set(frame.columns) else ""
    return (
        f"{of}{pairs}; effect as a share of the clean-corrupt difference{convention}; 95 % intervals on hover. 'mixed' "
        "is what attention uses,<br>'residual' what comes in through the stream, 'outgoing' what a layer passes on. A "
        "cell or panel is missing where the model has no such site."
    )


def head_score_maps(frame: pd.DataFrame, title: str = "Heads of the circuit for indirect objects") -> go.Figure:
    """Return heat maps of head scores, layers down and heads across: a row a run, a column a score.

    ``frame`` has columns variant, run, layer, head, score, value, stderr, and may have seed. Heads of different runs
    are different heads, so runs are not averaged. Scores lie between 0 and 1, and so does the scale of all panels.

    Raises:
        ValueError: if a head of a run has a score twice, at several steps for example.
    """
    twice = frame.duplicated(["run", "layer", "head", "score"])
    require(not twice.any(), f"{int(twice.sum())} scores are there twice (of several steps?); choose one of them first")
    runs = frame.drop_duplicates("run").to_dict("records")
    scores = [s for s in SCORES if s in set(frame.score)] + [s for s in dict.fromkeys(frame.score) if s not in SCORES]
    several = frame.groupby("variant")["run"].nunique().max() > 1
    called = [f"seed {run['seed']}" if "seed" in run else str(run["run"])[-6:] for run in runs]
    names = [
        f"{run['variant']}, {one}" if several else str(run["variant"]) for run, one in zip(runs, called, strict=True)
    ]
    panel = 30 + 26 * frame.layer.nunique()
    figure = make_subplots(
        len(runs),
        len(scores),
        subplot_titles=scores,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=20 / ((panel + 20) * len(runs)),
    )
    for i, (run, name) in enumerate(zip(runs, names, strict=True), start=1):
        figure.update_yaxes(title_text=f"<b>{name}</b><br>layer", row=i, col=1)
        for j, score in enumerate(scores, start=1):
            chosen = frame[(frame.run == run["run"]) & (frame.score == score)]
            figure.add_trace(_head_map(chosen), row=i, col=j)
    bar = {"title": "score", "thickness": 12}
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorscale": _SHADES, "colorbar": bar})
    figure.update_yaxes(autorange="reversed", tickvals=sorted(frame.layer.unique()), showgrid=False, zeroline=False)
    figure.update_xaxes(tickvals=sorted(frame["head"].unique()), showgrid=False, zeroline=False)
    figure.update_xaxes(title_text="head", row=len(runs))
    figure.update_annotations(font_size=13)
    n = f", mean over {frame.n.max()} prompts" if "n" in frame else ""
    one = "" if several else " One run a variant; heads of different runs are different heads."
    caption = f"Attention to the positions of the score's name{n}; between 0 and 1; standard errors on hover.{one}"
    return themed(figure, title, caption, frame.run, height=190 + (panel + 20) * len(runs))


def _head_map(rows: pd.DataFrame) -> go.Heatmap:
    value, error = (rows.pivot(index="layer", columns="head", values=name) for name in ("value", "stderr"))
    return go.Heatmap(
        z=value.to_numpy(),
        x=list(value.columns),
        y=list(value.index),
        text=_printed(value.to_numpy()),
        texttemplate="%{text}" if len(value.columns) <= 8 else None,
        textfont={"size": 10},
        customdata=error.to_numpy(),
        hovertemplate="L%{y}H%{x}: %{z:.3f}, standard error %{customdata:.3f}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
