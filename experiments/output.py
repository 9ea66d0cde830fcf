"""How a command speaks: tables for people on a screen, or as JSON or CSV on the standard output and the rest beside it.

A command prints what people read (:func:`say`, :func:`show`) and returns its tables whole; the command line prints
those where JSON or CSV is asked for.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import CascadeSubcommandArgs, FlagCreatePairsOff, UseAppendAction

from circuits.common.errors import require
from circuits.common.screen import say
from experiments.options import option

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
else:
    Frame = Any

__all__ = ["Output", "Tables", "answer", "say", "show", "written_tables"]

Tables = Mapping[str, Frame]
"""What a command found, whole: tables by name."""
_Flag = Annotated[bool, CascadeSubcommandArgs, FlagCreatePairsOff]
_answers: ContextVar[Any] = ContextVar("answers", default=None)
"""Where answers go; ``None``: to the standard output."""


@dataclass(frozen=True)
class Output:
    """How a command speaks; the same with every command."""

    json: Annotated[_Flag, option("whole tables as JSON, by name; everything else on the error stream")] = False
    csv: Annotated[_Flag, option("likewise as CSV")] = False
    quiet: Annotated[_Flag, option("no progress and no notes; warnings and errors stay")] = False
    plugin: Annotated[
        tuple[str, ...],
        CascadeSubcommandArgs,
        UseAppendAction,
        option("a module that registers kinds of its own, imported first", metavar="MODULE"),
    ] = ()

    @property
    def for_machines(self) -> bool:
        """Whether tables are printed as JSON or CSV."""
        return self.json or self.csv

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Let answers alone go to the standard output where that is asked for, and no notes anywhere if quiet."""
        require(not (self.json and self.csv), "--json and --csv are two forms of one output; leave one out")
        with contextlib.ExitStack() as stack:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            answers = nowhere if self.for_machines else sys.stdout
            errors = nowhere if self.quiet else sys.stderr
            notes = errors if self.quiet or self.for_machines else sys.stdout
            token = _answers.set(answers)
            stack.callback(_answers.reset, token)
            stack.enter_context(contextlib.redirect_stdout(notes))
            stack.enter_context(contextlib.redirect_stderr(errors))
            yield

    def write(self, tables: Tables) -> None:
        """Print whole tables in the form that is asked for, numbers with all their digits; none in that for people.

        JSON is an object with a list of rows a table, what is missing being null. CSV is one table: of several, the
        first column says of which table a row is, and columns that it does not have are empty.
        """
        if self.json:
            print(json.dumps({name: rows(table) for name, table in tables.items()}, indent=1, allow_nan=False))
        elif self.csv:
            print(_one_table(tables).to_csv(index=False, lineterminator="\n"), end="")


def rows(table: Frame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain data; a number that is none, or not finite, is ``None``."""
    # By ``tolist`` numpy's numbers become Python's, with all their digits.
    columns = {str(name): [_plain(value) for value in table[name].tolist()] for name in table}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    import pandas as pd

    none = value is pd.NA or (isinstance(value, float) and not math.isfinite(value))
    return None if none else value


def _one_table(tables: Tables) -> Frame:
    import pandas as pd

    if len(tables) == 1:
        return next(iter(tables.values()))
    marked = []
    for name, table in tables.items():
        table = table.copy()
        table.insert(0, "table", name)
        marked.append(table.astype(object))
    return pd.concat(marked, ignore_index=True) if marked else pd.DataFrame()


def answer(text: object) -> None:
    """Print what was asked for as it stands; it is no note, and quiet commands print it too."""
    print(text, file=_answers.get(), flush=True)


def show(table: Frame, spare: Sequence[str] = ()) -> None:
    """Print a table for people, so that it fits the screen (:func:`as_text`); nothing where tables are printed for
    machines."""
    from circuits.common.text_table import as_text

    answer(as_text(table, spare=spare))


def written_tables(paths: Sequence[Path]) -> dict[str, Frame]:
    """Return the results (Parquet) among files that were written, by name; those of several runs are one table."""
    import pandas as pd

    from experiments.runs.frames import read_sealed

    found: dict[str, list[Frame]] = {}
    for path in paths:
        if path.suffix == ".parquet":
            found.setdefault(path.stem, []).append(read_sealed(path))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
