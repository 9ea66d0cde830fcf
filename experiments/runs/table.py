"""The runs of a folder as a table, read from their records alone, so that listing them does not wait for torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.runs.record import KINDS, DamagedRunWarning, RunError, kind_of, read_record
from experiments.runs.recorded import RecordedRun
from experiments.tasks.kinds import task_name

WATCHED = {"icl": ("ic", "accuracy"), "vectors": ("validation", "accuracy"), "lm": ("validation", "loss")}
"""The set and the measure that a list of runs shows, by kind."""


def runs_table(root: str | Path = "runs") -> pd.DataFrame:
    """Return one row a run: name, task, variant, preset (or size), seed, status, the step on the disk, and the last
    value of what its task is watched by.

    A run whose files are damaged is left out with a :class:`DamagedRunWarning`.
    """
    rows = []
    for file in sorted(Path(root).glob("*/run.json")):
        try:
            rows.append(_row(file.parent))
        except RunError as error:
            warnings.warn(f"{file.parent} is left out: {error}", DamagedRunWarning, stacklevel=2)
    return pd.DataFrame(rows)


def _row(path: Path) -> dict[str, Any]:
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
    value = round(run.last(*watched)[1], 4)
    return about | {"status": run.status, "step": run.step, "measure": " ".join(watched), "value": value}
