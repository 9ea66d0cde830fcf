"""A pair position by position: what stands there, what differs, and which role it has."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.common.palette import BLACK
from figures.findings import joined
from figures.theme import themed
from figures.words import counted, listed, span

MOST = 6
"""Examples that are drawn."""
_LONGEST = 9
"""Characters of a word that fit into a cell of a long input."""
_SHADES = [[0.0, "#F4F4F4"], [0.001, "#FBE3D6"], [1.0, "#F0A878"]]


def pair_grid(frame: pd.DataFrame) -> go.Figure:
    """Return the first examples of a pair, one a row: clean inputs, shaded where the corrupt ones differ.

    ``frame`` is :meth:`analysis.pairs.Pair.to_frame`. Roles stand below the words; the position that is read is bold.
    """
    shown = frame[frame.example < MOST]
    cells = [_cell(row) for row in shown.to_dict("records")]
    wide = shown.assign(
        text=cells,
        hover=[_hover(row) for row in shown.to_dict("records")],
        shade=shown.differ.where(~shown.padding),
    )
    grid, text, hover = (wide.pivot(index="example", columns="position", values=c) for c in ("shade", "text", "hover"))
    heat = go.Heatmap(
        z=grid.astype(float).to_numpy(),
        x=list(grid.columns),
        y=list(grid.index),
        text=text.to_numpy(),
        texttemplate="%{text}",
        textfont={"size": 9, "color": BLACK},
        customdata=hover.to_numpy(),
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=_SHADES,
        zmin=0,
        showscale=False,
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title_text="position", dtick=1, showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="example", autorange="reversed", dtick=1, showgrid=False, zeroline=False)
    shown_of = joined(counted(frame.example.nunique(), "example"), f"the first {shown.example.nunique()} drawn")
    caption = (
        "Clean inputs, shaded where the corrupt input differs (both on hover). Roles stand in their places; bold: "
        "where the answer is read."
    )
    size: dict[str, Any] = {"height": 190 + 44 * shown.example.nunique(), "below": 50}
    return themed(figure, _finding(frame), caption, of=shown_of, **size)


def _finding(frame: pd.DataFrame) -> str:
    """At how many positions the two inputs of an example differ, and which roles stand there."""
    there = frame[~frame.padding.astype(bool)]
    differ = there[there.differ > 0]
    n = differ.groupby("example").size().reindex(there.example.unique(), fill_value=0)
    if differ.empty:
        return "Clean and corrupt inputs do not differ"
    lengths = there.groupby("example").size()
    roles = list(dict.fromkeys(_plain(str(role)) for role in differ.role if role))
    at = f": {listed(roles)}" if 0 < len(roles) <= 4 else ""
    return f"Clean and corrupt inputs differ at {span(n)} of {span(lengths)} positions{at}"


def _cell(row: dict) -> str:
    if row["padding"]:
        return ""
    role = _plain(row["role"]).replace(" ", "<br>")
    if isinstance(row["clean"], float):
        # A vector says nothing by itself: its role does.
        return f"<b>{role}</b>" if row["read"] else role
    word = _plain(str(row["clean"])[:_LONGEST])
    word = f"<b>{word}</b>" if row["read"] else word
    return f"{word}<br><i>{role}</i>" if role else word


def _hover(row: dict) -> str:
    clean, corrupt = (f"{x:.3f}" if isinstance(x, float) else _plain(str(x)) for x in (row["clean"], row["corrupt"]))
    role = f"<br>{_plain(row['role'])}" if row["role"] else ""
    return f"position {row['position']}<br>clean {clean}<br>corrupt {corrupt}{role}"


def _plain(text: str) -> str:
    """Text that plotly shows as it is, and does not read as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
