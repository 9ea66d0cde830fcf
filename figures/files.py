"""Figures onto the disk: JSON and HTML always, images where a browser is found."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any
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


def require_browser() -> None:
    """Refuse where no images can be drawn.

    Raises:
        RuntimeError: if kaleido or a browser is missing, saying what to install.
    """
    try:
        import kaleido  # noqa: F401
        from choreographer.browsers import Chromium
    except ImportError as error:
        raise RuntimeError(
            "images need kaleido: pip install 'valuestream[images]', and a browser (chromium)"
        ) from error
    # Without one, kaleido's server waits for ever.
    if not (os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False)):
        raise RuntimeError("no image can be drawn: no browser was found; install one such as chromium")


def write_images(
    figures: dict[str, go.Figure], folder: str | Path, formats: tuple[str, ...] = ("png", "svg")
) -> list[Path]:
    """Write every figure as images into ``folder``, without its buttons, and return their paths.

    Raises:
        RuntimeError: if kaleido or a browser is missing, saying what to install.
    """
    require_browser()
    import kaleido

    paths = {(name, kind): Path(folder) / f"{name}.{kind}" for name in figures for kind in formats}
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        kaleido.start_sync_server(silence_warnings=True)
        for (name, kind), path in paths.items():
            layout: Any = figures[name].layout
            size = {"width": layout.width or 1100, "scale": 2 if kind == "png" else 1}
            picture = _without_buttons(figures[name].to_dict())
            kaleido.write_fig_sync(picture, path=path, opts={"format": kind, **size})
    except Exception as error:
        raise RuntimeError(f"no image can be drawn: the browser failed ({error})") from error
    finally:
        kaleido.stop_sync_server(silence_warnings=True)
    return list(paths.values())


def _without_buttons(picture: dict[str, Any]) -> dict[str, Any]:
    """A figure as plain data, for an image, whose buttons nobody can press."""
    return picture | {"layout": {name: part for name, part in picture["layout"].items() if name != "updatemenus"}}


def show_images(width: int) -> None:
    """Show figures from here on as PNGs of so many pixels, or of a width of their own, without buttons.

    Raises:
        RuntimeError: as :func:`write_images`.
    """
    require_browser()
    import plotly.io

    png: Any = plotly.io.renderers["png"]
    draw = png.to_mimebundle

    def shown(picture: dict[str, Any]) -> Any:
        # Drawings that need more room say so themselves.
        png.width = picture.get("layout", {}).get("width") or width
        return draw(_without_buttons(picture))

    png.to_mimebundle = shown
    plotly.io.renderers.default = "png"
    # Under load it logs messages of the browser that it could not read, and goes on.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
