"""The demonstration as one command: train, ask, say, draw."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from circuits.common.errors import known
from circuits.common.screen import say
from circuits.common.text_table import as_text
from experiments.studies.demonstration.asking import SIZES, Findings, find
from experiments.studies.demonstration.page import write_page
from experiments.studies.demonstration.told import printable, sentences, verdict


def demo(
    size: str = "standard",
    root: str | Path | None = None,
    out: str | Path = "demo",
    progress: bool = True,
    images: bool = False,
) -> Path:
    """Train, ask and draw; print the table of steps to 95 % and return the path of the page.

    Raises:
        UnknownNameError: for an unknown size.
        RuntimeError: if ``images`` (PNG and SVG) are wanted and cannot be drawn here; the page is there all the same.
        RunError: as :func:`experiments.sweeps.sweep.sweep`.
    """
    found = find(SIZES[known("size", size, SIZES)], root, progress)
    print(as_text(printable(found.table)))
    tell(found)
    return write_page(found, Path(out), images)


def tell(found: Findings) -> None:
    """Print the verdict and what else was found, a sentence each."""
    say(f"\n{verdict(found.table)}\n")
    for sentence in chain.from_iterable(sentences(found).values()):
        say(f"- {sentence}")
