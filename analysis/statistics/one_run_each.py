"""Frames in which a variant and a seed name one run, so that a mean over rows is one over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from circuits.common.errors import require


def require_columns(frame: pd.DataFrame, needed: Sequence[str], of: str) -> None:
    """Refuse a frame that lacks a column; ``of`` says what such a frame is of, and what makes one."""
    missing = [name for name in needed if name not in frame]
    require(not missing, f"a frame of {of} has columns {[*needed]}, and here is no {missing}")


def require_one_run_each(frame: pd.DataFrame, group: Sequence[str] = ("variant",), at: Sequence[str] = ()) -> None:
    """Refuse a frame in which a group and a seed name several runs, or none, or a run's rows come twice.

    ``frame`` has the columns of ``group`` and seed, and mostly run; one run has one row at each value of ``at``.
    """
    by = [*group, "seed"]
    require_columns(frame, [*by, *at], "runs")
    known = [name for name in (*by, "run") if name in frame]
    complete = not frame[by].isna().any(axis=None)
    require(complete, f"some rows have no {' or no '.join(by)}: give all of these, or drop those rows")
    runs = frame[known].drop_duplicates()
    twice = runs[runs.duplicated(by, keep=False)]
    if twice.empty and at:
        twice = frame[frame.duplicated([*known, *at], keep=False)]
    if len(twice):
        first = twice.iloc[:1]
        of = ", ".join(f"{name} {first[name].item()!r}" for name in by)
        runs = twice.merge(first[by])["run"].unique()[:3] if "run" in frame else []
        those = f" ({', '.join(map(str, runs))})" if len(runs) else ""
        raise ValueError(
            f"several runs are of {of}{those}, or one comes twice, and would be merged or counted as several seeds; "
            f"keep those that differ in {' and '.join(by)} alone, each once, and ask of the others by themselves"
        )
