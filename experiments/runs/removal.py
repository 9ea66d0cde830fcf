"""Runs that are deleted: found by name, never those that are being trained, and each with all that it holds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from circuits.common.errors import require
from experiments.runs.locks import held_lock, is_held
from experiments.runs.names import directories_of
from experiments.runs.record import RunError


def to_remove(names: Sequence[str], root: str | Path | None = None) -> list[Path]:
    """Return the directories of the runs of some names, each once.

    Raises:
        RunError: for a name that no run has or that several have, a directory that is no run, or a run that is being
            trained.
    """
    found = []
    for name in names:
        fits = directories_of(name, root)
        if len(fits) > 1:
            listed = ", ".join(path.name for path in fits)
            raise RunError(f"{name!r} fits {len(fits)} runs: {listed}; name each that is to be removed by all of it")
        [path] = fits
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run directory: it has no run.json; nothing is removed")
        if path.is_symlink():
            raise RunError(f"{path} is a symbolic link to a run elsewhere; name the run there, or remove the link")
        if is_held(path):
            raise RunError(f"{path.name} is being trained; stop that first, nothing is removed")
        found.append(path)
    return list(dict.fromkeys(found))


def remove(path: Path) -> None:
    """Delete a run's directory.

    Raises:
        RunError: if a process trains it by now.
    """
    require(path.is_dir(), f"{path} is gone already")
    with held_lock(path):
        shutil.rmtree(path)
