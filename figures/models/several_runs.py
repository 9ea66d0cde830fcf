"""Several runs in one figure: none hides another."""

from __future__ import annotations

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
