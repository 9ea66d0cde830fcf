"""The screen: how wide printed text may be, and sentences that fit it."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import Any

PLAIN, LEAST, ENDLESS = 80, 40, 10_000
"""Columns where there is no terminal, the fewest that anything is laid out for, and those of a notebook, which
scrolls."""
TOGETHER = re.compile(
    r" (?=>)|(?<=>) | (?=\((?:residual|stream|own)\))|(?<=,) (?=-?[\d.]+(?:e-?\d+)?\])| (?==)|(?<==) "
)
"""Spaces at which no line is broken: within the name of an edge, an interval, and beside an equals sign."""
HARD = "\u00a0"


def in_notebook() -> bool:
    """Return whether what is displayed is seen: a kernel runs this."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and hasattr(running, "kernel")


def columns() -> int:
    """Return the columns of the terminal (of ``COLUMNS``, where that is set), 80 where there is none; a notebook's
    pages scroll."""
    return ENDLESS if in_notebook() else max(LEAST, shutil.get_terminal_size((PLAIN, 24)).columns)


def folded(text: str, width: int | None = None) -> str:
    """Return a text whose lines fit a width (default: the screen's), broken at spaces; no word is broken.

    Lines that go on are indented as the line that they belong to, and further under a list's dash.
    """
    width = columns() if width is None else width
    return "\n".join(_line(line, width) for line in text.split("\n"))


def broken(text: str, width: int, indent: str = "") -> list[str]:
    """Return the lines of a text of one line, broken at spaces, those after the first indented; no word, no number, no
    interval and no name of an edge is broken."""
    kept = TOGETHER.sub(HARD, text)
    lines = textwrap.wrap(kept, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(HARD, " ") for line in lines]


def _line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    begins = line.lstrip()
    indent = " " * (len(line) - len(begins) + (2 if begins.startswith("- ") else 0))
    return "\n".join(broken(line, width, indent))


def say(text: object, file: Any = None) -> None:
    """Print a text so that its lines fit the screen (default: on the standard output)."""
    print(folded(str(text)), file=file, flush=True)
