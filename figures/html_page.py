"""One self-contained HTML page: text, tables, figures and a switchboard, plotly embedded once."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from circuits.common.files import written_file
from figures.explore.page import STYLE, switchboard_part
from figures.files import SHOWN
from figures.images import side_by_side
from figures.theme import is_themed, laid_out

HERE = Path(__file__).parent
PANEL, COLUMN = 210, 24
"""Pixels that each of the plots beside each other needs, and each of the words below one; where a reader has fewer, the
figure scrolls in its box."""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and then a table, preformatted text, a figure or a switchboard, whichever there are."""

    heading: str
    text: Sequence[str] = ()
    table: pd.DataFrame | None = None
    code: str | None = None
    figure: go.Figure | None = None
    switchboard: Mapping[str, Any] | None = None
    """A document as :func:`figures.explore.page.switchboard_page` shows it."""


def write_page(
    path: str | Path,
    title: str,
    lead: Sequence[str],
    sections: Sequence[Mapping[str, Any]],
    footer: str,
    glossary: Mapping[str, str] | None = None,
) -> Path:
    """Write the page and return its path; it needs no other file and no network.

    ``lead`` is the sentence that the page is about, and what else is said before anything else. Each section is a
    mapping of the fields of :class:`Section`. What is wider than its reader's window scrolls in a box of its own; in
    print, figures are as wide as the paper.
    """
    verdict, *more = lead
    told = [Section(**section) for section in sections]
    body = "\n".join(_section(section, i) for i, section in enumerate(told))
    style = (HERE / "html_page.css").read_text("utf-8") + (STYLE if any(s.switchboard for s in told) else "")
    contents = [(s.heading, f"section-{i}") for i, s in enumerate(told)] + ([("Words", "words")] if glossary else [])
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style>
<script>{get_plotlyjs()}</script></head>
<body><header><h1>{html.escape(title)}</h1><p class="verdict">{html.escape(verdict)}</p>
{"".join(f'<p class="lead">{html.escape(paragraph)}</p>' for paragraph in more)}
<nav aria-label="On this page">{"".join(f'<a href="#{to}">{html.escape(name)}</a>' for name, to in contents)}</nav>
</header>
<main>{body}
{_glossary(glossary) if glossary else ""}</main>
<footer>{html.escape(footer)}</footer>
<script>{(HERE / "html_page.js").read_text("utf-8")}</script></body></html>
"""
    return written_file("a page", path, text.encode())


def _section(section: Section, number: int) -> str:
    parts = [f'<section id="section-{number}"><h2>{html.escape(section.heading)}</h2>']
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
    if section.table is not None:
        parts.append(f'<div class="wide">{section.table.to_html(index=False, border=0, escape=True)}</div>')
    if section.code is not None:
        parts.append(f'<pre tabindex="0">{html.escape(section.code)}</pre>')
    if section.figure is not None:
        parts.append(_figure(section.figure, f"figure-{number}"))
    if section.switchboard is not None:
        parts.append(switchboard_part(section.switchboard, f"switchboard-{number}"))
    return "\n".join([*parts, "</section>"])


def _figure(figure: go.Figure, name: str) -> str:
    """A figure whose texts are the page's own, so that they fit any window and are read aloud."""
    meta: Any = figure.layout.meta
    if not is_themed(figure):
        plot = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=SHOWN)
        return f'<figure><div class="wide">{plot}</div></figure>'
    narrowest = int(figure.layout.width or (figure.layout.margin.l or 0) + _room(figure))
    bare = go.Figure(figure)
    if not figure.layout.width:
        bare.layout.meta = {**meta, "title": "", "of": "", "caption": ""}
        bare = laid_out(bare, narrowest)
    plot = bare.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=SHOWN)
    return (
        f'<figure aria-label="{html.escape(meta["alt"])}"><p class="finding">{_marked(meta["title"])}</p>'
        f'<p class="of">{_marked(meta["of"])}</p>'
        f'<div class="wide" tabindex="0"><div style="min-width:{narrowest}px">{plot}</div></div>'
        f"<figcaption>{_marked(meta['caption'])}</figcaption></figure>"
    )


def _room(figure: go.Figure) -> int:
    """The pixels that the plots of a figure need, which stand beside each other."""
    traces: list[Any] = list(figure.data)
    words = max((len({x for x in t.x if isinstance(x, str)}) for t in traces if t.x is not None), default=0)
    return max(side_by_side(figure) * max(PANEL, COLUMN * words), 280)


def _marked(text: str) -> str:
    """A text of a figure, whose line breaks and bold letters are HTML already, without its breaks."""
    escaped = html.escape(text.replace("<br>", " "), quote=False)
    return escaped.replace("&lt;b&gt;", "<b>").replace("&lt;/b&gt;", "</b>")


def _glossary(words: Mapping[str, str]) -> str:
    entries = "".join(f"<dt>{html.escape(word)}</dt><dd>{html.escape(said)}</dd>" for word, said in words.items())
    return f'<section id="words"><h2>Words</h2><dl>{entries}</dl></section>'
