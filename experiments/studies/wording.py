"""Frames of numbers as words: intervals, Markdown tables, and the blocks of pages that studies share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from circuits.common.text_table import interval, markdown, rows_of
from experiments.studies.committed_results import Bundle
from experiments.studies.study import REFERENCE, Block, Experiment
from experiments.studies.times import compared, differences, ends, means, verdict


def times_word(row: Any) -> str:
    """Return the ratio of a row of :func:`experiments.studies.times.speed`, as in "0.80 [0.76, 0.85] times"."""
    return interval(row.ratio, row.low, row.high, ".2f") + " times"


def shown(smallest: float) -> str:
    """Return the ratios that seeds could have shown: the smallest above 1, and its inverse."""
    return f"{1 / smallest:.2f} or {smallest:.2f}"


def speed_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`experiments.studies.times.speed` in words."""
    rows = []
    for row in rows_of(table):
        reached = f"{row.reached:.0f}" + (
            "" if row.reached == row.reference_reached else f", {row.reference_reached:.0f}"
        )
        reached += f" of {row.pairs}" + (f" ({row.diverged:.0f} diverged)" if row.diverged else "")
        # Two digits, or three where two would hide on which side of 0.05 a p is.
        p = f"{row.p_adjusted:.3g}" if f"{row.p_adjusted:.2g}" == "0.05" else f"{row.p_adjusted:.2g}"
        rows.append(
            {
                "condition": row.condition,
                "compared": f"{row.variant} / {row.reference}",
                "got there": reached if row.pairs else "-",
                "steps": "-" if np.isnan(row.steps) else f"{row.steps:,.0f} / {row.reference_steps:,.0f}",
                "ratio": "-" if row.same_as else interval(row.ratio, row.low, row.high, ".2f"),
                "p": "-" if row.same_as or np.isnan(row.p_adjusted) else p,
                "could show": "-" if row.same_as or np.isnan(row.smallest) else shown(row.smallest),
                "verdict": verdict(row),
            }
        )
    found = pd.DataFrame(rows)
    return found.drop(columns="condition") if found.condition.nunique() == 1 else found


def speed_block(experiment: Experiment, name: str = "", heading: str = "") -> Block:
    """Return the table of an experiment's times, by default called as the experiment."""

    def text(bundle: Bundle) -> str:
        return markdown(speed_table(compared(bundle, experiment)))

    return Block(name or experiment.name, text, heading or experiment.asks, (experiment,))


def final_block(
    name: str,
    heading: str,
    experiment: Experiment,
    columns: Mapping[str, tuple[str, str]],
    at_step: int | None = None,
    lead: Literal["condition", "runs"] = "condition",
) -> Block:
    """Return the table of where an experiment's runs end; the other arguments are those of
    :func:`experiments.studies.times.ends`.

    Beside the variant stands its condition, or of how many runs its values are. Two rows more a condition are of value
    minus classic and of what its seeds could show; a star stands where a difference is clear.
    """

    def text(bundle: Bundle) -> str:
        if said := experiment.waiting(bundle):
            return said
        last = ends(bundle, experiment, columns, at_step)
        table = means(last)
        table["text"] = [interval(row.mean, row.low, row.high, ".3f") for row in rows_of(table)]
        wide: Any = table.pivot(index=["condition", "variant"], columns="title", values="text")[list(columns)]
        order = list(dict.fromkeys(zip(table.condition, table.variant, strict=True)))
        wide = wide.loc[order].reset_index()
        shown = ["condition", "variant"] if lead == "condition" else ["variant", "runs"]
        wide["runs"] = wide.variant.map(table.groupby("variant", observed=True).n.max())
        return _with_differences(wide, differences(last), [*shown, *columns])

    return Block(name, text, heading, (experiment,))


def _with_differences(wide: pd.DataFrame, table: pd.DataFrame, columns: list[str]) -> str:
    clear = {(r.condition, r.variant, r.title) for r in rows_of(table[table.p_adjusted < 0.05])}
    rows = []
    for condition in dict.fromkeys(table.condition):
        for row in wide[wide.condition == condition].to_dict("records"):
            stars = {name: f"{row[name]} *" for name in row if (condition, row["variant"], name) in clear}
            rows.append(row | stars)
        ours = table[(table.variant == "value") & (table.condition == condition)]
        if len(ours):
            where = {"condition": condition, "runs": ours.pairs.iloc[0]}
            minus = {r.title: interval(r.difference, r.low, r.high, "+.3f") for r in rows_of(ours)}
            rows.append(where | {"variant": f"value minus {REFERENCE}"} | minus)
            rows.append(where | {"variant": "could show"} | {r.title: f"{r.smallest:.2g}" for r in rows_of(ours)})
    return (
        f"{markdown(pd.DataFrame(rows)[columns])}\n\nA star: differs from {REFERENCE} (paired by "
        f"seed, adjusted over the {len(table)} differences of the table, as is the interval of a difference)."
    )
