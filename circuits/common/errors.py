"""Errors that say what was wrong and what to do: mistyped names with the nearest that exist, and contradictions."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from textwrap import shorten
from typing import Any


class UnknownNameError(KeyError, ValueError):
    """A name outside a known set; both a ``KeyError`` and a ``ValueError``, with a readable message."""

    def __str__(self) -> str:
        return str(self.args[0])


def known(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``choices``."""
    choices = list(choices)
    if name in choices:
        return name
    if not isinstance(name, str):
        listed = ", ".join(map(repr, choices[:20]))
        raise UnknownNameError(f"a {kind} is named by a string, got {name!r}; there are {listed or 'none'}")
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    shown = ", ".join(map(repr, choices[:20])) + (f" and {len(choices) - 20} more" if len(choices) > 20 else "")
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {shown or 'none'}"
    raise UnknownNameError(f"unknown {kind} {name!r}: {hint}")


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def several(what: str, given: Any, *kinds: type, least: int = 1, how: str = "") -> list[Any]:
    """Return things of these kinds as a list: what gives each but once, as a generator, is read once.

    ``how`` says how to come by them.

    Raises:
        ValueError: for one thing instead of several, one of another kind (True is no number), or fewer than ``least``.
    """
    wanted = f"{what} are a list of {' or '.join(kind.__name__ for kind in kinds)}{how and f' ({how})'}"
    if isinstance(given, (str, *kinds)) or not isinstance(given, Iterable):
        raise ValueError(f"{wanted}, got {shorten(repr(given), 200)}")
    found = list(given)
    odd = [one for one in found if isinstance(one, bool) or not isinstance(one, kinds)]
    require(not odd, f"{wanted}, and it holds {shorten(repr(odd[:1]), 200)}")
    require(len(found) >= least, f"{wanted}, {least} or more, and it is empty")
    return found


def real(name: str, value: Any, above: float | int) -> float:
    """Return a number of Python, numpy or torch above ``above`` as a ``float``.

    Raises:
        ValueError: for what is no number (a text, True), NaN, infinity, or too small.
    """
    is_truth = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    try:
        number = math.nan if is_truth or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    require(above < number < math.inf, f"{name} must be a number above {above:g}, got {value!r}")
    return number


def whole(name: str, value: Any, least: int | None = 1) -> int:
    """Return a whole number of Python, numpy or torch as an ``int``; ``least=None`` takes negative ones too.

    Raises:
        ValueError: for what is none (True and 1.0 are none), or is below ``least``.
    """
    is_truth = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    try:
        number = None if is_truth else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")
    return number
