"""The runs of a folder as a table, read from their records alone, so that listing them does not wait for torch."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.runs.names import directories
from experiments.runs.record import KINDS, DamagedRunWarning, RunError, kind_of, read_record
from experiments.runs.recorded import RecordedRun
from experiments.tasks.kinds import task_name

WATCHED = {"icl": ("ic", "accuracy"), "vectors": ("validation", "accuracy"), "lm": ("validation", "loss")}
"""The set and the measure that a list of runs shows, by kind."""
COLUMNS = ("run", "task", "variant", "preset", "seed", "status", "step", "measure", "value", "age", "size")
IN_NAME = ("task", "preset", "variant", "seed")
"""What a run's name says, too, so that a narrow screen may leave it out."""


def runs_table(root: str | Path | None = None) -> pd.DataFrame:
    """Return one row a run under ``root`` (default: :func:`runs_folder`).

    Columns: run (its name), task, variant, preset (or size), seed, status, step (that on the disk), measure and value
    (the last one of what its task is watched by), age (seconds since training wrote anything), size (bytes of all its
    files).

    A run whose files are damaged is left out with a :class:`DamagedRunWarning`.
    """
    rows = []
    for path in directories(root):
        try:
            rows.append(row_of(path))
        except RunError as error:
            warnings.warn(f"{path} is left out: {error}", DamagedRunWarning, stacklevel=2)
    return pd.DataFrame(rows, columns=[*COLUMNS])


def row_of(path: Path) -> dict[str, Any]:
    """Return the row of one run, as :func:`runs_table` has it.

    Raises:
        RunError: if it is no run, or its files are damaged.
    """
    record = read_record(path)
    run, config, kind = RecordedRun(path, record), record["config"], kind_of(record)
    if kind not in KINDS:
        raise RunError(f"{path} is a run of the kind {kind!r}, and this version knows {', '.join(KINDS)}")
    try:
        about = {
            "run": path.name,
            "task": "icl" if kind == "icl" else task_name(config["task"]["type"]),
            "variant": config["variant"],
            "preset": config["size" if kind == "lm" else "preset"],
            "seed": config["seed"],
        }
    except (KeyError, TypeError) as error:
        raise RunError(f"{path / 'run.json'} was changed, or is of another version: it lacks {error}") from error
    watched = WATCHED[kind]
    value = run.last(*watched)[1]
    seen = {"status": run.status, "step": run.step, "measure": " ".join(watched), "value": value}
    return about | seen | {"age": time.time() - _trained_at(path), "size": size_of(path)}


def _trained_at(path: Path) -> float:
    """When training last wrote into a run's directory; what is asked of it is written elsewhere."""
    files = (f for f in path.iterdir() if f.is_file() and not f.name.startswith(".") and f.name != "places.json")
    return max((f.stat().st_mtime for f in files), default=path.stat().st_mtime)


def size_of(path: Path) -> int:
    """Return the bytes of all files in a directory."""
    return sum(f.lstat().st_size for f in path.rglob("*") if f.is_file())


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of :func:`runs_table` with age and size as a reader wants them: ``3 h``, ``1.2 MB``."""
    return table.assign(age=table.age.map(age_in_words), size=table["size"].map(size_in_words))


def age_in_words(seconds: float) -> str:
    """Return a time that has passed, in the largest unit that fits: ``40 s``, ``5 min``, ``3 h``, ``12 d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size_in_words(n: int) -> str:
    """Return a number of bytes: ``820 B``, ``12 kB``, ``1.2 MB``, ``3.4 GB``."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if n >= length:
            return f"{n / length:.1f} {unit}"
    return f"{n / 1e3:.0f} kB" if n >= 1e3 else f"{n:.0f} B"
