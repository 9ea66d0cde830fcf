"""The rows of committed tables of times, with the runs that each is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from circuits.common.errors import known, require
from circuits.common.text_table import rows_of
from experiments.studies.committed_results import Bundle
from experiments.studies.contrasts import decided
from experiments.studies.plan import PLANS, Plan
from experiments.studies.study import Experiment
from experiments.studies.times import compared, times, told


@dataclass(frozen=True)
class Row:
    """A row of a committed table: a comparison of two arms, or of four, and the runs that it is of."""

    name: str
    """As the pages write it; where there are several conditions, its own stands before."""
    condition: str
    of: tuple[str, ...]
    said: Any
    """The row of the table."""
    runs: pd.DataFrame
    """Those runs, as :func:`experiments.studies.times.times` returns them."""

    @property
    def pairs(self) -> int:
        """How many pairs the row has."""
        return int(self.said.pairs)

    @property
    def arms(self) -> list[tuple[str, str]]:
        """Condition and label of its arms."""
        return [(self.condition, label) for label in self.of]


def plan_of(experiment: Experiment) -> Plan | None:
    """Return the plan by which an experiment was declared, whose file has its name, if there is one."""
    return Plan.read(experiment.name) if (PLANS / f"{experiment.name}.toml").is_file() else None


def table_rows(bundle: Bundle, experiment: Experiment) -> list[Row]:
    """Return the rows of an experiment's committed table that say something of times.

    They are its own contrasts in every condition, or those of its plan, of four arms too. Left out are those of which
    the table gives no ratio, as their runs went the same way or too few got there.

    Raises:
        UnknownNameError: for an experiment of which the bundle holds no run (nearest suggested).
        ValueError: if its runs logged no such times, no comparison has two pairs, or runs that a plan declared are to
            come.
    """
    waiting = experiment.waiting(bundle)
    require(
        not waiting, f"{experiment.name} has no table yet: {waiting} 'valuestream sweep {experiment.name}' trains them"
    )
    metrics = bundle.metrics(experiment.name)
    timed = (metrics.split == experiment.split) & (metrics.measure == experiment.measure)
    require(
        bool(timed.any()),
        f"{experiment.name} has no table of times: its runs did not log {experiment.measure} on {experiment.split}",
    )
    plan = plan_of(experiment)
    found = _declared(plan, experiment, bundle) if plan else _contrasts(experiment, bundle)
    require(
        bool(found),
        f"no comparison of {experiment.name} has two pairs in {bundle.path} of which some got there, so there is "
        f"nothing to hold fresh seeds to",
    )
    return found


def _declared(plan: Plan, experiment: Experiment, bundle: Bundle) -> list[Row]:
    runs = times(bundle, experiment, plan.primary)
    shared = set.intersection(*({*runs.seed[runs.variant == arm]} for arm in plan.arms))
    runs = runs[runs.seed.isin(shared)]
    table, condition = decided(plan, experiment, bundle), str(runs.condition.iloc[0])
    both = zip(plan.contrasts, rows_of(table), strict=True)
    return [Row(told(contrast.of), condition, contrast.of, row, runs) for contrast, row in both if pd.notna(row.ratio)]


def _contrasts(experiment: Experiment, bundle: Bundle) -> list[Row]:
    runs, table = times(bundle, experiment), compared(bundle, experiment)
    several, found = table.condition.nunique() > 1, []
    for row in rows_of(table[table.ratio.notna()]):
        of = (row.variant, row.reference)
        its = runs[(runs.condition == row.condition) & runs.variant.isin(of)]
        shared = set.intersection(*({*its.seed[its.variant == arm]} for arm in of))
        name = f"{row.condition}: {told(of)}" if several else told(of)
        found.append(Row(name, row.condition, of, row, its[its.seed.isin(shared)]))
    return found


def chosen(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return rows by name, all where none is named; without its condition, one stands for those in all of them.

    Raises:
        UnknownNameError: for an unknown row (nearest suggested).
    """
    by_name: dict[str, list[Row]] = {row.name: [row] for row in rows}
    for row in rows:
        if (short := told(row.of)) != row.name:
            by_name.setdefault(short, []).append(row)
    wanted = [row for name in names for row in by_name[known("row of the table", name, by_name)]]
    return list({row.name: row for row in wanted}.values()) or list(rows)
