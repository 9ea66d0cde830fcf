"""The command that lists runs, and removes those that are named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff

from circuits.common.errors import require
from experiments.options import Root, option
from experiments.output import Frame, Tables, say, show


def runs(
    remove: Annotated[tuple[str, ...], option("delete these, with all that was asked of them", metavar="RUN...")] = (),
    yes: Annotated[bool, FlagCreatePairsOff, option("delete without a question, as in a script")] = False,
    root: Root = None,
) -> Tables:
    """List the runs: status, last step, what is watched, age and size. Or remove some, by their names or ids."""
    from experiments.runs.folder import runs_folder
    from experiments.runs.table import IN_NAME, in_words, runs_table

    if remove:
        return {"removed": _removed(remove, yes, root)}
    table = runs_table(root)
    if table.empty:
        say(f"no runs in {runs_folder(root)}; train one with: valuestream train icl --variant value --preset small")
    else:
        show(in_words(table), spare=IN_NAME)
    return {"runs": table}


def _removed(names: Sequence[str], yes: bool, root: Path | None) -> Frame:
    """The runs that were deleted; none of them, where the answer is no."""
    import pandas as pd

    from experiments.runs.removal import remove, to_remove
    from experiments.runs.table import size_in_words, size_of

    paths = to_remove(names, root)
    found = pd.DataFrame({"run": [path.name for path in paths], "size": [size_of(path) for path in paths]})
    show(found.assign(size=found["size"].map(size_in_words)))
    if not yes:
        require(
            sys.stdin is not None and sys.stdin.isatty(),
            "nobody can be asked whether these are to go, as the input is no terminal; nothing is removed. Give --yes",
        )
        # Seen whatever the command may say otherwise.
        say("delete them for good, with all that they hold? [y/N]", sys.__stderr__)
        if input().strip().lower() not in ("y", "yes"):
            say("nothing is removed")
            return found.iloc[:0]
    for path in paths:
        remove(path)
    say(f"removed {len(paths)} run{'s' * (len(paths) != 1)}")
    return found
