"""Figures as images, where a browser is found: of the same data the same SVG, at the sizes that journals print."""

from __future__ import annotations

import html
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go

from circuits.common.files import made_folder, path_of
from figures.theme import WIDTH, is_themed, laid_out

Kind = Literal["png", "svg", "pdf"]
Size = Literal["screen", "page", "column"]
PRINTED: dict[str, tuple[int, int]] = {"page": (183, WIDTH), "column": (89, 620)}
"""Millimetres that a size is wide in print, and the pixels that a figure is laid out in for it: letters of 13 pixels
become 6 points, or 5."""
PANEL = 170
"""Pixels that a plot needs at least beside others, or what is written in it runs into what is beside: where a column
has many, all of it becomes smaller."""
DOTS = 300
"""Dots per inch of a printed PNG."""


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
    figures: dict[str, go.Figure],
    folder: str | Path,
    formats: Sequence[Kind] = ("png", "svg"),
    size: Size = "screen",
) -> list[Path]:
    """Write every figure as images into ``folder``, without its buttons, and return their paths.

    SVG and PDF have the same bytes whenever they are made of the same data by the same plotly. ``size`` is that of the
    screen (1,100 pixels, of which a PNG has twice as many), or a printed page's width (183 mm) or a column's (89 mm), a
    PNG then with 300 dots per inch. Figures that say their width themselves keep their layout.

    Raises:
        RuntimeError: if kaleido or a browser is missing, saying what to install.
    """
    require_browser()
    import kaleido

    made_folder(path_of("the images' folder", folder))
    paths = []
    with _drawing():
        for name, figure in figures.items():
            picture, width, printed = _picture(figure, size)
            for kind in formats:
                path = Path(folder) / f"{name}.{kind}"
                scale = _scale(kind, width, printed)
                kaleido.write_fig_sync(picture, path=path, opts={"format": kind, "width": width, "scale": scale})
                if kind != "png":
                    path.write_bytes(_settled(path.read_bytes(), kind, alternative(figure)))
                paths.append(path)
    return paths


@contextmanager
def _drawing() -> Iterator[None]:
    import kaleido

    try:
        kaleido.start_sync_server(silence_warnings=True)
        yield
    except Exception as error:
        raise RuntimeError(f"no image can be drawn: the browser failed ({error})") from error
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def _picture(figure: go.Figure, size: Size) -> tuple[dict[str, Any], int, int | None]:
    """A figure as plain data for a size, the pixels that it is wide and the millimetres, where it is printed."""
    printed, width = PRINTED.get(size, (None, WIDTH))
    own = figure.layout.width
    if not own and is_themed(figure):
        width = min(WIDTH, max(width, (figure.layout.margin.l or 0) + PANEL * side_by_side(figure)))
        figure = laid_out(go.Figure(figure), width)
    picture = _without_buttons(figure.to_dict())
    # Else plotly gives every trace another name at every drawing.
    picture["data"] = [trace | {"uid": str(i)} for i, trace in enumerate(picture["data"])]
    return picture, int(own or width), printed


def side_by_side(figure: go.Figure) -> int:
    """Return how many plots stand beside each other at most."""
    return len({axis.domain[0] for axis in figure.select_xaxes() if axis.domain})


def _scale(kind: Kind, width: int, printed: int | None) -> float:
    """What an image's pixels are multiplied by; those of SVG and PDF are 1/96 of an inch."""
    if printed is None:
        return 2.0 if kind == "png" else 1.0
    return printed / 25.4 * (DOTS if kind == "png" else 96) / width


def alternative(figure: go.Figure) -> str:
    """Return what a figure says to who cannot see it, or nothing of a figure that is not :func:`themed`."""
    meta: Any = figure.layout.meta
    return str(meta.get("alt", "")) if isinstance(meta, dict) else ""


def _settled(image: bytes, kind: Kind, told: str) -> bytes:
    """An SVG or PDF without what is of the moment in which it was drawn; an SVG says what the figure says."""
    if kind == "pdf":
        # As long as before, or the places that it keeps of its own parts would be wrong.
        return re.sub(rb"(/(?:Creation|Mod)Date \(D:)\d{14}", rb"\g<1>20000101000000", image)
    text = image.decode()
    if found := re.search(r'id="defs-([0-9a-f]{6})"', text):
        # Only in names and in what refers to them: colours and numbers are written with these letters, too.
        named = rf'((?:id|class|href)="[^"]*?|url\([^)]*?){found[1]}'
        while (settled := re.sub(named, r"\1-", text)) != text:
            text = settled
    if told:
        said = html.escape(told)
        text = text.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)
    return text.encode()


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
        figure = go.Figure(picture)
        # Drawings that need more room say so themselves.
        png.width = figure.layout.width or width
        if not figure.layout.width and is_themed(figure):
            picture = laid_out(figure, width).to_dict()
        return draw(_without_buttons(picture))

    png.to_mimebundle = shown
    plotly.io.renderers.default = "png"
    # Under load it logs messages of the browser that it could not read, and goes on.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
