"""Which of many runs is meant: by a path, a name, an id, or the beginning of either."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import pandas as pd

from circuits.common.errors import UnknownNameError, known
from circuits.common.plain_data import differences
from experiments.runs.files import RunFiles
from experiments.runs.record import DamagedRunWarning, RunError, kind_of, read_record


@runtime_checkable
class Config(Protocol):
    """What a run's configuration tells of itself."""

    @property
    def id(self) -> str:
        """The hash that names the run."""
        ...

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        ...

    @property
    def usual(self) -> bool:
        """Whether the name, without the id, says all of it."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """The configuration as plain data."""
        ...


R = TypeVar("R", bound=RunFiles)


def directory_of(root: str | Path, config: Config) -> Path:
    """Return where the run of a configuration is under ``root``, or would be; the id tells, whatever the name says
    before it."""
    path = Path(root) / config.name
    return path if path.exists() else next(Path(root).glob(f"*-{config.id}"), path)


def others(root: str | Path, kind: str, name: str | Path) -> Iterator[Path]:
    """Yield the directories of runs of other kinds that a name fits."""
    for file in sorted(Path(root).glob("*/run.json")):
        with suppress(RunError):
            record = read_record(file.parent)
            if kind_of(record) != kind and begins(name, file.parent.name, record):
                yield file.parent


def begins(beginning: str | Path, name: str, record: Mapping[str, Any]) -> bool:
    """Return whether a run's name or id begins so."""
    return name.startswith(str(beginning)) or str(record["id"]).startswith(str(beginning))


def the_one(name: str, runs: Sequence[R]) -> R:
    """Return the one of some runs whose name or id begins so; of several, the one that is made of its name alone, with
    the preset's task, model and training.

    Raises:
        RunError: if none does (nearest suggested), or several and not just one is of its name alone.
    """
    fits = [run for run in runs if begins(name, run.path.name, run.record)]
    if len(fits) > 1:
        usual = [run for run in fits if run.config.usual]
        if len(usual) != 1:
            names = ", ".join(sorted(run.path.name for run in fits))
            one, other = (run.config.to_plain() for run in fits[:2])
            apart = "; ".join(differences(one, other)[:3])
            what = f"the id (the first two differ in {apart})" if apart else "the path (two are one run, copied)"
            raise RunError(f"{name!r} fits {len(fits)} runs: {names}; give {what}")
        return usual[0]
    if fits:
        return fits[0]
    try:
        known("run", name, [run.path.name for run in runs])
    except UnknownNameError as error:
        raise RunError(str(error)) from error
    raise AssertionError("unreachable: a known name fits")


def table_of(runs: Sequence[R], row: Callable[[R], dict[str, Any]]) -> pd.DataFrame:
    """Return a row a run; one whose files are damaged is left out with a :class:`DamagedRunWarning`."""
    rows = []
    for run in runs:
        try:
            rows.append(row(run))
        except RunError as error:
            warnings.warn(f"{run.path} is left out: {error}", DamagedRunWarning, stacklevel=2)
    return pd.DataFrame(rows)
