"""Runs by name, told from their directories alone, so that a mistyped name does not wait for torch."""

from __future__ import annotations

from difflib import SequenceMatcher
from heapq import nlargest
from os import PathLike
from pathlib import Path

from experiments.runs.folder import runs_folder
from experiments.runs.record import RunError, read_record

NEAREST = 3


def directories(root: str | Path | None = None) -> list[Path]:
    """Return the directories under ``root`` (:func:`runs_folder`) that have a ``run.json``, by name."""
    return [file.parent for file in sorted(runs_folder(root).glob("*/run.json"))]


def directories_of(name: str | Path, root: str | Path | None = None) -> list[Path]:
    """Return the directory at a path or of a name under ``root``; else all of that name up to the id; else all whose
    name begins so and ends there with one of its parts (task, variant, preset, seed), or whose id begins so.

    Raises:
        RunError: if there is none, naming the nearest three, and for what is neither a string nor a path.
    """
    if not isinstance(name, (str, PathLike)):
        raise RunError(f"a run is named by a string or a path, got {name!r}; 'valuestream runs' lists them")
    for path in (Path(name), runs_folder(root) / name):
        if path.is_dir():
            return [path]
    there = directories(root)
    if not there:
        raise RunError(f"there are no runs in {runs_folder(root)}; train one with 'valuestream train icl'")
    fits = [path for path in there if path.name.rpartition("-")[0] == str(name)]
    fits = fits or [path for path in there if _begins(path, str(name))]
    fits = fits or [path for path in there if id_of(path).startswith(str(name))]
    if fits:
        return fits
    near = nlargest(NEAREST, there, key=lambda path: _likeness(str(name), path))
    listed = " or ".join(repr(path.name) for path in near)
    more = f" ('valuestream runs' lists all {len(there)})" if len(there) > len(near) else ""
    raise RunError(f"unknown run {str(name)!r}: did you mean {listed}?{more}")


def _begins(path: Path, name: str) -> bool:
    """Whether a directory's name begins so: within its id anywhere, before it where a part ends, so that seed 1 is not
    seed 10, and ``value`` not ``value-stop``."""
    parts, _, _ = path.name.rpartition("-")
    if name.startswith(f"{parts}-"):
        return path.name.startswith(name)
    name = name.removesuffix("-")
    if not parts.startswith(f"{name}-"):
        return False
    try:
        variant = f"-{read_record(path)['config'].get('variant')}-"
    except RunError:
        return True
    begin = f"{parts}-".find(variant)
    return not 0 <= begin < len(name) < begin + len(variant) - 1


def id_of(path: Path) -> str:
    """Return a run's id, as its record states it; of one that cannot be read what its directory's name ends with."""
    try:
        return str(read_record(path)["id"])
    except RunError:
        return path.name.rpartition("-")[2]


def _likeness(name: str, path: Path) -> float:
    """How much a name is like a directory's, with its id and without."""
    candidates = (path.name, path.name.rpartition("-")[0])
    return max(SequenceMatcher(None, name, candidate).ratio() for candidate in candidates)
