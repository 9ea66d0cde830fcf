"""Figures onto the disk, as JSON and HTML."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from circuits.common.files import write_atomically

PLOTLY_JS = "plotly.min.js"
SHOWN = {"displaylogo": False, "displayModeBar": "hover", "responsive": True}
"""How plotly shows a figure in HTML: its buttons only under the pointer."""


def write_figure(figure: go.Figure, stem: str | Path, shared: str | Path | None = None) -> list[Path]:
    """Write ``<stem>.json`` and ``<stem>.html`` and return their paths.

    HTML files load one ``plotly.min.js`` in the folder ``shared`` (default: beside the figure), so they open offline
    and stay small.
    """
    stem = Path(stem)
    folder = Path(shared) if shared else stem.parent
    for made in (folder, stem.parent):
        made.mkdir(parents=True, exist_ok=True)
    script = folder / PLOTLY_JS
    if not script.exists():
        write_atomically(script, get_plotlyjs().encode())
    json_path, html_path = (stem.with_name(stem.name + end) for end in (".json", ".html"))
    write_atomically(json_path, (figure.to_json() or "").encode())
    # Plotly puts both into the page as they are, so a name must not be able to end what it stands in.
    where, name = quote(os.path.relpath(script, html_path.parent)), re.sub(r"[^\w.-]", "-", stem.name)
    html = figure.to_html(include_plotlyjs=where, div_id=name, config=SHOWN)
    write_atomically(html_path, html.encode())
    return [json_path, html_path]
