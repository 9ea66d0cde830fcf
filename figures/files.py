"""Figures onto the disk, as JSON and HTML."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from circuits.common.files import made_folder, path_of, write_atomically

PLOTLY_JS = "plotly.min.js"
SHOWN = {"displaylogo": False, "displayModeBar": "hover", "responsive": True}
"""How plotly shows a figure in HTML: its buttons only under the pointer."""
DIGITS = 6
"""Of a number in a figure: more than can be seen, and fewer than processors differ in."""


def rounded(figure: go.Figure) -> go.Figure:
    """Return a figure with its fractions to :data:`DIGITS` digits, so that the same results give the same figure
    everywhere: the last bits of a sum or a logarithm differ from one kind of processor to another."""
    whole = go.Figure(figure)
    traces: Any = whole.data
    for trace in traces:
        trace.update(_rounded(trace.to_plotly_json()), overwrite=True)
    return whole.update_layout(_rounded(whole.layout.to_plotly_json()), overwrite=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "fO":
        flat = [_rounded(part) for part in value.ravel().tolist()]
        return np.array(flat, dtype=value.dtype).reshape(value.shape)
    return float(f"{value:.{DIGITS}g}") if isinstance(value, (float, np.floating)) else value


def write_figure(figure: go.Figure, stem: str | Path, shared: str | Path | None = None) -> list[Path]:
    """Write ``<stem>.json`` and ``<stem>.html`` and return their paths.

    HTML files load one ``plotly.min.js`` in the folder ``shared`` (default: beside the figure), so they open offline
    and stay small.
    """
    stem = path_of("a figure's file", stem)
    folder = path_of("the folder of what figures share", shared) if shared else stem.parent
    for made in (folder, stem.parent):
        made_folder(made)
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
