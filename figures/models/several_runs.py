"""Several runs in one figure: none hides another, and what is said of all is true of each."""

from __future__ import annotations

from typing import Any

import pandas as pd

from circuits.common.errors import require
from figures.words import counted, listed


def by_run(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame in which no two runs are of one variant: where they were, a variant is called by its run's seed
    too, or where that is the same, by the end of its run's name."""
    if not {"run", "variant"} <= set(frame):
        return frame
    runs = frame.drop_duplicates(["run", "variant"])
    if runs.run.duplicated().any() or not runs.variant.duplicated().any():
        return frame
    variant = runs.variant.astype(str)
    named = variant + ", " + runs.run.astype(str).str[-6:]
    if "seed" in runs and (seeds := variant + ", seed " + runs.seed.astype(str)).is_unique:
        named = seeds
    return frame.assign(variant=frame.run.map(dict(zip(runs.run, named, strict=True))))


def once(frame: pd.DataFrame, what: str, *place: str) -> None:
    """Refuse a frame in which several of what is drawn have one place, so that one would hide the other.

    Raises:
        ValueError: if rows agree in all columns of ``place`` that there are.
    """
    twice = int(frame.duplicated([column for column in place if column in frame]).sum())
    several = listed(
        name
        for name in ("run", "step", "direction", "phase")
        if name not in place and name in frame and frame[name].nunique() > 1
    )
    told = f"they are of more than one {several}" if several else "they may be of several runs, steps or directions"
    require(not twice, f"{counted(twice, what)} in the place of another: {told}; choose one of them first")


def alike(frame: pd.DataFrame, *columns: str) -> dict[str, Any]:
    """Return by name what every row says in those of some columns that there are.

    Raises:
        ValueError: if rows say different things there, which no caption and no axis can say of all.
    """
    there = {column: list(dict.fromkeys(frame[column])) for column in columns if column in frame}
    for column, values in there.items():
        require(
            len(values) == 1,
            f"what is drawn is of more than one {column} ({listed(map(str, values))}); choose one of them first",
        )
    return {column: values[0] for column, values in there.items()}
