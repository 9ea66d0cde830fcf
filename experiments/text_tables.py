"""Frames of numbers as words: Markdown tables, intervals, and sentences on times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from experiments import answers

LISTED = 14
"""Tables with more rows than this are put into words by condition instead of row by row."""


def rows_of(frame: pd.DataFrame) -> Iterable[Any]:
    """Return a frame's rows as named tuples."""
    return frame.itertuples()


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame of words as a Markdown table."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def interval(mean: float, low: float, high: float, form: str) -> str:
    """Return a number with its interval; a dash where there is none."""
    if np.isnan(mean):
        return "-"
    return f"{mean:{form}}" if np.isnan(low) else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def speed_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`experiments.answers.speed` in words."""
    rows = [
        {
            "condition": row.condition,
            "variant": row.variant,
            "got there": f"{row.reached} of {row.runs}" + (f" ({row.diverged} diverged)" if row.diverged else ""),
            "steps": interval(row.steps, row.steps_low, row.steps_high, ",.0f"),
            "times classic's": interval(row.ratio, row.low, row.high, ".2f"),
            "p (Holm)": "-" if np.isnan(row.p_adjusted) else f"{row.p_adjusted:.2g}",
        }
        for row in rows_of(table)
    ]
    found = pd.DataFrame(rows)
    return found.drop(columns="condition") if found.condition.nunique() == 1 else found


def in_words(table: pd.DataFrame) -> str:
    """Return what a table says: a sentence a row, or a condition where it is long."""
    compared = table[table.pairs > 0]
    if len(compared) <= LISTED:
        return "\n".join(f"- {answers.verdict(row)}" for row in rows_of(compared))
    return "\n".join(
        f"- {condition}: {_condensed(rows)}" for condition, rows in compared.groupby("condition", sort=False)
    )


def _condensed(rows: pd.DataFrame) -> str:
    clear = rows.p_adjusted < 0.05
    groups = {
        "sooner": rows[clear & (rows.ratio < 1)],
        "later": rows[clear & (rows.ratio > 1)],
        "not distinguishable": rows[~clear & rows.ratio.notna()],
        "too few got there to compare": rows[rows.ratio.isna()],
    }
    parts = [
        f"{what}: "
        + ", ".join(f"{r.variant}" + ("" if np.isnan(r.ratio) else f" {r.ratio:.2f}") for r in rows_of(group))
        for what, group in groups.items()
        if len(group)
    ]
    return "; ".join(parts) + "."
