"""Errors that say what was wrong and what to do: mistyped names with the nearest that exist, and contradictions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnknownNameError(KeyError, ValueError):
    """A name outside a known set; both a ``KeyError`` and a ``ValueError``, with a readable message."""

    def __str__(self) -> str:
        return str(self.args[0])


def known(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``choices``.

    Raises:
        UnknownNameError: naming the nearest choices, or all of them where none is near.
    """
    choices = list(choices)
    if name in choices:
        return name
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    shown = ", ".join(map(repr, choices[:20])) + (f" and {len(choices) - 20} more" if len(choices) > 20 else "")
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {shown or 'none'}"
    raise UnknownNameError(f"unknown {kind} {name!r}: {hint}")


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)
