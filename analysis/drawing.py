"""How a result finds its figure: by name, through the entry points that a distribution declares.

``analysis`` and ``experiments`` may not import ``figures`` (arrows point one way); a drawing is looked up in the group
``valuestream.figures`` instead, to which any installed package may add its own.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from circuits.common.errors import known

GROUP = "valuestream.figures"


def drawing(name: str) -> Callable[..., Any]:
    """Return the function registered under ``name``.

    Raises:
        UnknownNameError: if there is none (nearest suggested).
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    return found[known("figure", name, found)].load()


def draw(name: str, *args: Any, **kwargs: Any) -> Any:
    """Return what the function registered under ``name`` draws."""
    return drawing(name)(*args, **kwargs)
