"""Frames in which a variant and a seed name one run, so that a mean over rows is one over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from circuits.errors import require


def require_one_run_each(frame: pd.DataFrame, group: Sequence[str] = ("variant",)) -> None:
    """Refuse a frame in which a group and a seed name several runs, or none.

    ``frame`` has the columns of ``group``, seed and run.

    Raises:
        ValueError: naming the group, the seed and the runs.
    """
    by = [*group, "seed"]
    require(
        not frame[by].isna().any(axis=None),
        f"some rows have no {' or no '.join(by)}: give all, or drop those rows",
    )
    runs = frame[[*by, "run"]].drop_duplicates()
    twice = runs[runs.duplicated(by, keep=False)]
    if len(twice):
        first = twice.iloc[:1]
        those = ", ".join(map(str, twice.merge(first[by])["run"].iloc[:3]))
        of = ", ".join(f"{name} {value!r}" for name, value in first[by].iloc[0].items())
        raise ValueError(
            f"several runs are of {of} ({those}) and would count as one or as several seeds: copies of one run, or runs "
            f"that differ in something else; keep those that differ in {' and '.join(by)} alone, each once, and ask of "
            f"the others by themselves"
        )
