"""One look for every figure: a finding as its title, of whom below it, and colours that mean the same everywhere."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from circuits.common.palette import (
    AQUA,
    BLACK,
    BLUE,
    FONT,
    GREEN,
    OLIVE,
    ORANGE,
    PINK,
    PURPLE,
    SKY,
    TEAL,
    VERMILION,
)

_KNOWN = {
    "classic": BLACK,
    "value": BLUE,
    "value-stop": SKY,
    "value-gradient-only": ORANGE,
    "key": GREEN,
    "query": PINK,
    "cumulative": VERMILION,
    "resformer-constant": OLIVE,
    "svformer": AQUA,
}
_CYCLE = (PURPLE, TEAL, OLIVE, AQUA, VERMILION, PINK)
_DASHES = {"-stop": "dash", "-gradient-only": "dot"}
WIDTH = 1100
"""Pixels that a figure is wide, unless it says so itself or is asked for another width."""
NARROWEST = 900
"""Pixels that a figure's texts fit into, unless it is laid out for another width: an HTML page is as wide as its reader
has room for."""
LEFT = 16
"""Pixels before a title and a caption."""
DIVERGING = [[0.0, "#B2182B"], [0.25, "#F4A582"], [0.5, "#F7F7F7"], [0.75, "#92C5DE"], [1.0, "#2166AC"]]
_MUTED = "#555555"
# Pixels of a character in the mean, and of a line, by font size.
_TITLE, _OF, _CAPTION = (17, 8.4, 22), (13, 6.5, 18), (11.5, 5.7, 16)


def colours(names: Iterable[str], others: str = "") -> dict[str, str]:
    """Return a colour for every variant; the well-known ones always have the same, and all the rest that of ``others``,
    where it is given."""
    found: dict[str, str] = {}
    unknown = 0
    for name in names:
        base = next((name.removesuffix(s) for s in _DASHES if name.endswith(s)), name)
        known = _KNOWN.get(name) or _KNOWN.get(base)
        found[name] = known or others or _CYCLE[unknown % len(_CYCLE)]
        unknown += known is None
    return found


def dash(name: str) -> str:
    """Return the line style of a variant: its gate."""
    return next((style for suffix, style in _DASHES.items() if name.partition(",")[0].endswith(suffix)), "solid")


def faded(colour: str, opacity: float) -> str:
    """Return a hexadecimal colour with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def themed(
    figure: go.Figure,
    title: str,
    caption: str,
    runs: Iterable[str] = (),
    height: int = 440,
    below: int = 56,
    left: int = 70,
    of: str = "",
    above: int = 0,
) -> go.Figure:
    """Return ``figure`` with the house's look: what was found, of whom below it, and how to read it below the plots.

    ``title`` says what was found, ``of`` of whom (size, n, task), ``caption`` how the figure is read; the
    three, the ids of the runs and a text for who cannot see it are in the figure's metadata. ``below`` and ``left`` are
    the room that the labels of the axes take, in pixels, ``above`` that of menus and of panels' titles of more than one
    line, and ``height`` what the rest takes with one line of each text.
    """
    figure.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 13},
        meta={
            "runs": sorted(set(runs)),
            "title": title,
            "of": of,
            "caption": caption,
            "alt": plain(f"{title}. {of}" if of else title),
            "height": height,
            "below": below,
            "above": above,
        },
    )
    figure.update_layout(margin={"l": left, "r": 30})
    figure.update_xaxes(title_font_size=13)
    figure.update_yaxes(title_font_size=13)
    return laid_out(figure, int(figure.layout.width or NARROWEST))


def plain(text: str) -> str:
    """Return text without the marks and the line breaks that plotly reads."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()


def is_themed(figure: go.Figure) -> bool:
    """Return whether a figure is of :func:`themed`, so that it can be laid out for another width."""
    return isinstance(figure.layout.meta, dict) and "below" in figure.layout.meta


def laid_out(figure: go.Figure, width: int) -> go.Figure:
    """Return ``figure``, of :func:`themed`, with its texts broken into lines for a width in pixels.

    Plots keep their height: what the lines take is added.
    """
    meta: Any = figure.layout.meta
    title, of, caption = (
        _broken(meta[name], width - 2 * LEFT, each)
        for name, (_, each, _) in (("title", _TITLE), ("of", _OF), ("caption", _CAPTION))
    )
    head = 14 + len(title) * _TITLE[2] + (len(of) * _OF[2] + 4 if of else 0)
    legend = 20 * _legend_rows(figure, width)
    top, bottom = head + legend + 34 + meta["above"], meta["below"] + 22 + len(caption) * _CAPTION[2]
    # What one line of title and caption without a legend took is in the height already.
    height = meta["height"] + (top - 78) + (bottom - meta["below"] - 54)
    heading = "<br>".join(title)
    if of:
        heading += f'<br><span style="font-size:{_OF[0]}px;color:{_MUTED}">{"<br>".join(of)}</span>'
    figure.update_layout(
        title={
            "text": heading,
            "x": 0,
            "xref": "container",
            "pad": {"l": LEFT},
            # Of one line plotly places the top there, of several the foot of the first.
            "y": 1 - (12 if heading.count("<br>") == 0 else 24) / height,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": _TITLE[0], "color": BLACK},
        },
        height=height,
        margin={"t": top, "b": bottom},
        legend={"orientation": "h", "yref": "container", "y": 1 - (head + 4) / height, "yanchor": "top"},
    )
    figure.update_layout(legend={"xref": "container", "x": LEFT / width})
    figure.layout.annotations = [a for a in figure.layout.annotations if a.name != "caption"]
    figure.add_annotation(
        name="caption",
        text="<br>".join(caption),
        xref="paper",
        yref="paper",
        x=0,
        xshift=LEFT - (figure.layout.margin.l or 0),
        y=0,
        yshift=-meta["below"],
        yanchor="top",
        xanchor="left",
        showarrow=False,
        align="left",
        font={"size": _CAPTION[0], "color": _MUTED},
    )
    return figure


def _broken(text: str, width: int, each: float) -> list[str]:
    """Lines of a text of which every character takes so many pixels; breaks that it has stay."""
    return [line for part in text.split("<br>") for line in textwrap.wrap(part, max(20, int(width / each)))]


def _legend_rows(figure: go.Figure, width: int) -> int:
    traces: list[Any] = list(figure.data)
    names = {trace.name for trace in traces if trace.showlegend is not False and trace.name}
    pixels = sum(60 + 8 * len(name) for name in names)
    return -(-pixels // int(0.86 * width)) if len(names) > 1 else 0
