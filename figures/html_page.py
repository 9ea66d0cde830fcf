"""One self-contained HTML page: text, tables and figures, plotly embedded once."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from circuits.common.files import write_atomically
from figures.files import SHOWN

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 Inter, Helvetica, Arial, sans-serif; color: #222; max-width: 1120px; margin: 2.5rem auto;
padding: 0 1.2rem; } h1 { font-size: 1.7rem; line-height: 1.25; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin-
top: 2.6rem; border-top: 1px solid #ddd; padding-top: 1.2rem; } p.lead { color: #555; margin-top: 0; } table { border-
collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; } th, td { padding: .35rem .9rem .35rem 0;
text-align: right; border-bottom: 1px solid #eee; } th:first-child, td:first-child { text-align: left; } th { font-
weight: 600; border-bottom: 2px solid #222; } code, pre { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace;
background: #f6f6f6; border-radius: 4px; } pre { padding: .8rem 1rem; overflow-x: auto; } code { padding: .1rem .3rem;
} footer { color: #777; font-size: .85rem; margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
"""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and then a table, preformatted text or a figure, whichever there are."""

    heading: str
    text: Sequence[str] = ()
    table: pd.DataFrame | None = None
    code: str | None = None
    figure: go.Figure | None = None


def write_page(path: str | Path, title: str, lead: str, sections: Sequence[Mapping[str, Any]], footer: str) -> Path:
    """Write the page and return its path; it needs no other file and no network.

    Each section is a mapping of the fields of :class:`Section`.
    """
    body = "\n".join(_section(Section(**section), i) for i, section in enumerate(sections))
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{_STYLE}</style>
<script>{get_plotlyjs()}</script></head>
<body><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>
{body}
<footer>{html.escape(footer)}</footer></body></html>
"""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), text.encode())
    return Path(path)


def _section(section: Section, number: int) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
    if section.table is not None:
        parts.append(section.table.to_html(index=False, border=0, escape=True))
    if section.code is not None:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    if section.figure is not None:
        name = f"figure-{number}"
        parts.append(section.figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=SHOWN))
    return "\n".join(parts)
