"""Frames of numbers as words: Markdown tables and intervals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from experiments.studies import times as answers


def rows_of(frame: pd.DataFrame) -> Iterable[Any]:
    """Return a frame's rows as named tuples."""
    return frame.itertuples()


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame of words as a Markdown table."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def interval(mean: float, low: float, high: float, form: str) -> str:
    """Return a number with its interval; of numbers without spread, or of one alone, there is none to print."""
    if np.isnan(mean):
        return "-"
    if np.isnan(low):
        return f"{mean:{form}} (no interval)"
    return f"{mean:{form}} (no spread)" if low == high else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def speed_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`experiments.studies.times.speed` in words."""
    rows = [
        {
            "condition": row.condition,
            "compared": f"{row.variant} / {row.reference}",
            "got there": _reached(row),
            "steps": "-" if np.isnan(row.steps) else f"{row.steps:,.0f} / {row.reference_steps:,.0f}",
            "ratio": "-" if row.same_as else interval(row.ratio, row.low, row.high, ".2f"),
            "p": "-" if row.same_as or np.isnan(row.p_adjusted) else _p(row.p_adjusted),
            "could show": "-" if row.same_as or np.isnan(row.smallest) else shown(row.smallest),
            "verdict": answers.verdict(row),
        }
        for row in rows_of(table)
    ]
    found = pd.DataFrame(rows)
    return found.drop(columns="condition") if found.condition.nunique() == 1 else found


def shown(smallest: float) -> str:
    """Return the ratios that seeds could have shown: the smallest above 1, and its inverse."""
    return f"{1 / smallest:.2f} or {smallest:.2f}"


def with_differences(wide: pd.DataFrame, table: pd.DataFrame, column: str) -> str:
    """Return a table of final values with two rows more a condition, and a star where a difference is clear.

    ``wide`` has columns variant, maybe condition, and those that ``column`` of ``table`` names, which is what
    :func:`experiments.studies.times.differences` returns. The rows are of value minus classic, and of what its seeds
    could
    show.
    """
    clear = {(r["condition"], r["variant"], r[column]) for r in table[table.p_adjusted < 0.05].to_dict("records")}
    rows = []
    for condition in dict.fromkeys(table.condition):
        part = wide[wide.condition == condition] if "condition" in wide else wide
        for row in part.to_dict("records"):
            stars = {name: f"{row[name]} *" for name in row if (condition, row["variant"], name) in clear}
            rows.append(row | stars)
        ours = table[(table.variant == "value") & (table.condition == condition)].to_dict("records")
        if ours:
            where = {"condition": condition, "runs": ours[0]["pairs"]}
            minus = {r[column]: interval(r["difference"], r["low"], r["high"], "+.3f") for r in ours}
            rows.append(where | {"variant": f"value minus {answers.REFERENCE}"} | minus)
            rows.append(where | {"variant": "could show"} | {r[column]: f"{r['smallest']:.2g}" for r in ours})
    return (
        f"{markdown(pd.DataFrame(rows)[list(wide.columns)])}\n\nA star: differs from {answers.REFERENCE} (paired by "
        f"seed, adjusted over the {len(table)} differences of the table, as is the interval of a difference)."
    )


def _p(p: float) -> str:
    """A p with two digits, or three where two would hide on which side of 0.05 it is."""
    return f"{p:.3g}" if f"{p:.2g}" == "0.05" else f"{p:.2g}"


def _reached(row: Any) -> str:
    if not row.pairs:
        return "-"
    both = (
        f"{row.reached:.0f}"
        if row.reached == row.reference_reached
        else f"{row.reached:.0f}, {row.reference_reached:.0f}"
    )
    return f"{both} of {row.pairs}" + (f" ({row.diverged:.0f} diverged)" if row.diverged else "")
