"""Effects of patches by route and position, of language models side by side."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.errors import require
from figures.findings import DIRECTIONS, joined, over, spelt, whom
from figures.models.cells import crosses, fitted, printed, with_ends
from figures.models.patch_findings import finding
from figures.models.patching import NO_SITE, SITES
from figures.models.several_runs import alike
from figures.theme import DIVERGING, themed
from figures.words import sentence, span

ROLES = ("IO", "S1", "S1+1", "S2", "END")
ROUTES = ("own", "residual", "mixed", "outgoing", "-")
_ACROSS = 3
"""Panels side by side; a variant begins a row."""
_LAYER, _BETWEEN = 27, 62
"""Pixels of a layer, and from the cells of a panel to those of the next below."""


def route_maps(frame: pd.DataFrame, of: str = "") -> go.Figure:
    """Return the effect of every patched site: a panel a variant, component and route, layers by positions.

    ``frame`` is :meth:`analysis.patching.patch.PatchResult.to_frame` with columns variant and run; it needs layer,
    component, route, head, position, effect, low, high. Sites of single heads are left out. Of several runs of a
    variant it holds the means (:func:`analysis.statistics.curves.effects_over_runs`). One scale for all panels. ``of``
    says of what size and task.

    Raises:
        ValueError: if all sites are of single heads, several runs of a variant are not averaged, or what is drawn is
            of several metrics or directions.
    """
    whole = frame[frame["head"] == "all"]
    require(len(whole) > 0, "every site here is of a single head; patch with heads='all', or draw patch_heat_map")
    cell = ["variant", "component", "route", "layer", "position"]
    require(
        bool((whole.groupby(cell)["effect"].nunique() <= 1).all()),
        "several runs of a variant are here: analysis.statistics.curves.effects_over_runs(frame) averages them",
    )
    cells = whole.drop_duplicates(cell)
    panels = _places(cells)
    layers = sorted(int(layer) for layer in cells.layer.unique())
    down, across = (1 + max(place[i] for place in panels.values()) for i in (0, 1))
    tall = down * _LAYER * len(layers) + (down - 1) * _BETWEEN
    titles = {place: f"{variant}: {_site(*site)}" for (variant, *site), place in panels.items()}
    figure = make_subplots(
        down,
        across,
        specs=[[{} if (row, column) in titles else None for column in range(across)] for row in range(down)],
        subplot_titles=[titles[place] for place in sorted(titles)],
        horizontal_spacing=0.04,
        vertical_spacing=_BETWEEN / tall if down > 1 else 0,
    )
    limit = max(1e-9, float(cells.effect.abs().max()))
    for (variant, component, route), (row, column) in panels.items():
        chosen = cells[(cells.variant == variant) & (cells.component == component) & (cells.route == route)]
        traces = _effects(chosen, layers)
        figure.add_traces(traces, rows=[row + 1] * 2, cols=[column + 1] * 2)
        across_range, up = fitted(len(traces[0].x), len(layers))  # type: ignore[arg-type] # a heat map's columns
        figure.update_xaxes(range=across_range, row=row + 1, col=column + 1)
        figure.update_yaxes(range=up[::-1], row=row + 1, col=column + 1)
    bar = {"title": "effect", "thickness": 12}
    figure.update_layout(coloraxis={"cmin": -limit, "cmax": limit, "colorscale": DIVERGING, "colorbar": bar})
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=layers, showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="layer", title_standoff=4, col=1)
    figure.update_xaxes(showgrid=False, tickangle=0)
    figure.update_annotations(font_size=12.5)
    size: dict[str, Any] = {"height": 150 + tall, "below": 34, "left": 52}
    return themed(figure, finding(cells), _caption(whole), whole.run, of=joined(of, _of(whole)), **size)


def _places(cells: pd.DataFrame) -> dict[tuple[str, str, str], tuple[int, int]]:
    """The row and column of every panel (variant, component, route): a variant begins a row."""
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    top = 0
    for variant, part in cells.groupby("variant", sort=False):
        sites = dict.fromkeys(zip(part.component, part.route, strict=True))
        for i, site in enumerate(sorted(sites, key=lambda one: _rank(cells, *one))):
            found[str(variant), *site] = (top + i // _ACROSS, i % _ACROSS)
        top += -(-len(sites) // _ACROSS)
    return found


def _rank(cells: pd.DataFrame, component: str, route: str) -> tuple[int, int]:
    # Routes of sites that are patched together have names of their own.
    return list(dict.fromkeys(cells.component)).index(component), [*ROUTES, route].index(route)


def _site(component: str, route: str) -> str:
    name = "resid + stream" if component == "state" else component
    return name if route == "-" else f"{name}, {route}"


def _effects(cells: pd.DataFrame, layers: list[int]) -> tuple[go.Heatmap, go.Scatter]:
    positions = [role for role in ROLES if role in set(cells.position)]
    positions += [other for other in dict.fromkeys(cells.position) if other not in ROLES]
    effect, low, high = (
        cells.pivot(index="layer", columns="position", values=value)
        .reindex(index=layers, columns=positions)
        .to_numpy(float)
        for value in ("effect", "low", "high")
    )
    of = joined(over(cells, "pair"), _runs(cells))
    rows = list(range(len(layers)))
    beside, ends = with_ends(effect, low, high)
    heat = go.Heatmap(
        z=effect,
        x=positions,
        y=rows,
        text=printed(effect),
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=beside,
        hovertemplate=f"layer %{{y}}, %{{x}}: %{{z:.3f}}{ends}, {of}<extra>{cells.variant.iloc[0]}</extra>",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
    return heat, crosses(effect, positions, rows, NO_SITE)


def _runs(cells: pd.DataFrame) -> str:
    n = int(cells["runs"].iloc[0]) if "runs" in cells else cells.run.nunique()
    return "one run" if n == 1 else f"mean of {n} runs"


def _of(whole: pd.DataFrame) -> str:
    runs, asked = whole.groupby("variant")["run"].nunique(), alike(whole, "metric")
    of = "one run a variant" if runs.max() == 1 else f"means over {span(runs)} runs"
    pairs = f"{over(whole, 'pair')} each" if "n" in whole else ""
    metric = f"share of the {spelt(asked['metric'])} between clean and corrupt" if asked else ""
    named = whom(whole)
    return joined(named if runs.max() == 1 else "", "" if "seed" in named else of, pairs, metric)


def _caption(whole: pd.DataFrame) -> str:
    direction = alike(whole, "direction").get("direction", "")
    done = f"{DIRECTIONS[direction].capitalize()} ({direction}): 1 is the whole difference; " if direction else ""
    rest = f"intervals stand on hover. A cross: {NO_SITE}. {SITES}"
    return done + rest if done else sentence(rest)
