"""Rows of a committed table repeated on fresh seeds, and whether they fall where the table lets one expect them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.comparison import judge
from analysis.statistics.paired_seeds import PairedSeeds
from analysis.statistics.survival import shared_horizon
from circuits.common.errors import require
from circuits.common.text_table import interval, rows_of
from experiments.runs.run import Run
from experiments.studies.collection import read
from experiments.studies.committed_results import Bundle, stops_on
from experiments.studies.contrasts import paired
from experiments.studies.study import Arm, Experiment
from experiments.studies.table_rows import Row, plan_of
from experiments.studies.times import times_of_curves, verdict

CONFIDENCE = 0.95
FEW = "too few got there"


def fresh_seeds(
    bundle: Bundle, experiment: Experiment, rows: Sequence[Row], numbers: Sequence[int] = (), n: int | None = None
) -> dict[str, list[int]]:
    """Return the seeds on which each row is repeated, by its name.

    These are ``numbers``, or the first ``n`` that no run of the experiment in the bundle has; by default as many of
    those as the row has pairs.

    Raises:
        ValueError: for fewer than two seeds, one that is named twice or below 0, numbers together with ``n``, or a
            number that the bundle's runs of a row's arms have.
    """
    if numbers:
        require(n is None, "n is how many new seeds there are; leave it out where seeds are named")
        require(len({*numbers}) == len(numbers), f"each seed counts once, got {list(numbers)}")
        require(min(numbers) >= 0, f"seeds are numbers from 0 on, got {min(numbers)}")
        held = sorted({*committed_arms(bundle, experiment, rows).seed} & {*numbers})
        require(not held, f"the seeds {held} are not fresh: the committed runs of these arms have them")
    many = len(numbers) or n
    for row in rows:
        size = row.pairs if many is None else many
        require(size >= 2, f"a paired comparison needs two fresh seeds or more, got {size}")
    most = max(row.pairs if many is None else many for row in rows)
    trained = {*bundle.experiment(experiment.name).seed}
    seeds = list(numbers) or list(islice((seed for seed in count() if seed not in trained), most))
    return {row.name: seeds[: many or row.pairs] for row in rows}


def committed_arms(bundle: Bundle, experiment: Experiment, rows: Sequence[Row]) -> pd.DataFrame:
    """Return what :meth:`Bundle.experiment` says of the arms of some rows."""
    arms = bundle.experiment(experiment.name)
    named = pd.MultiIndex.from_frame(arms[["condition", "variant"]])
    return arms[named.isin([arm for row in rows for arm in row.arms])]


def arms_again(experiment: Experiment, rows: Sequence[Row], seeds: Mapping[str, Sequence[int]]) -> list[Arm]:
    """Return the arms that are trained: of every condition and label the one with the experiment's largest seed, which
    has the fewest extras as checkpoints, with each of the seeds instead.

    Raises:
        ValueError: if the experiment no longer has an arm of a row.
    """
    last: dict[tuple[str, str], Arm] = {}
    for arm in experiment.arms():
        before = last.setdefault((arm.condition, arm.label), arm)
        last[arm.condition, arm.label] = max(before, arm, key=lambda each: each.config.seed)
    wanted: dict[tuple[int, str, str], None] = {}
    for row in rows:
        for condition, label in row.arms:
            there = (condition, label) in last
            require(there, f"{experiment.name} has no arm {label!r} ({condition}) any more: collect its runs again")
            wanted |= {(seed, condition, label): None for seed in seeds[row.name]}
    of = [(last[condition, label], seed) for seed, condition, label in sorted(wanted, key=lambda key: key[0])]
    return [replace(arm, config=replace(arm.config, seed=seed)) for arm, seed in of]


def known_elsewhere(bundle: Bundle, arms: Iterable[Arm]) -> list[int]:
    """Return those seeds of fresh arms that other experiments of the bundle have with the same variant and preset.

    They are new to the table, but perhaps not to who reads them.
    """
    runs = bundle.runs
    known_runs = {*zip(runs.variant, runs.preset, runs.seed, strict=True)}
    each = {(arm.label, arm.config.preset, arm.config.seed) for arm in arms}
    return sorted({seed for _, _, seed in each & known_runs})


def fresh_times(experiment: Experiment, arms: Sequence[Arm], runs: Mapping[str, Run]) -> pd.DataFrame:
    """Return :func:`experiments.studies.times.times` of fresh arms; ``runs`` are theirs, by id.

    Threshold, split and measure are those of the experiment's committed table, and numbers are rounded as there.
    """
    plan, curves, ended = plan_of(experiment), [], []
    for arm in arms:
        found = read(runs[arm.config.id])
        label: dict[str, Any] = {"condition": arm.condition, "variant": arm.label, "seed": arm.config.seed}
        rows = found["metrics"]
        rows = rows[(rows.split == experiment.split) & (rows.measure == experiment.measure)]
        curves.append(rows.assign(**label))
        about = found["about"]
        ended.append(label | {name: about[name] for name in ("status", "steps", "stops_at")})
        ended[-1]["stops_on"] = stops_on(about["config"])
    threshold = plan.primary if plan else experiment.threshold
    return times_of_curves(pd.concat(curves, ignore_index=True), pd.DataFrame(ended), threshold)


def held_to(rows: Sequence[Row], fresh: pd.DataFrame, seeds: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Return one row a row: what the committed runs say, what the fresh ones (:func:`fresh_times`) say, and whether
    the fresh ratio lies in the committed row's prediction interval for a mean of so many new pairs.

    ``ratio``, ``low``, ``high`` and ``says`` are those of the committed table. The fresh interval and the prediction's
    are adjusted after Bonferroni over the rows.
    ``quotient`` is fresh over committed; its interval holds 1 exactly where ``verdict`` is "inside". Otherwise that is
    "outside", or says that too few of the fresh got there. Both are restricted to one ``horizon``: a committed estimate
    is another than the table's only where fresh runs were followed less far.

    Columns: row, pairs, ratio, low, high, says, fresh_pairs, fresh_ratio, fresh_low, fresh_high, fresh_says,
    predicted_low, predicted_high, quotient, quotient_low, quotient_high, verdict, same_side, same_verdict, horizon.
    """
    made = [_both(row, fresh, seeds[row.name]) for row in rows]
    level = (1 - CONFIDENCE) / len(rows)
    of_rows = ("pairs", "ratio", "low", "high")
    table = pd.DataFrame(
        [
            {"row": row.name} | {name: getattr(row.said, name) for name in of_rows} | {"says": verdict(row.said)}
            for row in rows
        ]
    )
    margin = float(rows[0].said.margin)
    found = judge([new for _, new, _, _ in made], confidence=CONFIDENCE, margin=margin)
    found = found.rename(columns={"estimate": "ratio"}).assign(margin=margin, same_as="")
    # Where none got there, both are the horizon, which is no measurement of their ratio.
    found.loc[[few for *_, few in made], ["ratio", "low", "high"]] = float("nan")
    table[[f"fresh_{name}" for name in of_rows]] = found[list(of_rows)]
    table["fresh_says"] = [verdict(row) for row in rows_of(found)]
    ends = [old.prediction(new.scores.size, 1 - level) for old, new, _, _ in made]
    middle, low, high = (np.array([getattr(end, name) for end in ends]) for name in ("mean", "low", "high"))
    table["predicted_low"], table["predicted_high"] = low, high
    for name, against in (("quotient", middle), ("quotient_low", high), ("quotient_high", low)):
        table[name] = table.fresh_ratio / against
    within = (table.quotient_low <= 1 + _ROUNDING) & (table.quotient_high >= 1 - _ROUNDING)
    table["verdict"] = np.where(table.fresh_ratio.isna(), FEW, np.where(within, "inside", "outside"))
    table["same_side"] = np.sign(np.log(table.fresh_ratio).round(12)) == np.sign(np.log(table.ratio).round(12))
    table["same_verdict"] = table.fresh_says == table.says
    return table.assign(horizon=[horizon for *_, horizon, _ in made])


_ROUNDING = 1e-9
"""Where pairs have no spread, the interval has no width and its ends are rounded."""


def _both(row: Row, fresh: pd.DataFrame, seeds: Sequence[int]) -> tuple[PairedSeeds, PairedSeeds, float, bool]:
    """The pairs of a row, those of its fresh runs, their horizon, and whether of the fresh none got there."""
    its = fresh[(fresh.condition == row.condition) & fresh.variant.isin(row.of) & fresh.seed.isin(list(seeds))]
    horizon = shared_horizon(pd.concat([row.runs, its.assign(variant=its.variant + " again")]))
    none = not bool((its.steps < horizon).any())
    return paired(row.runs, row.of, horizon), paired(its, row.of, horizon), horizon, none


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`held_to` for people: ratios with their intervals and pairs, and what they say."""
    rows = [
        {
            "row": row.row,
            "committed": f"{interval(row.ratio, row.low, row.high, '.2f')}, {row.pairs} pairs",
            "fresh": f"{interval(row.fresh_ratio, row.fresh_low, row.fresh_high, '.2f')}, {row.fresh_pairs} pairs",
            "fresh / committed": interval(row.quotient, row.quotient_low, row.quotient_high, ".3f"),
            "falls": row.verdict,
            "says": row.fresh_says + (", as before" if row.same_verdict else f"; before: {row.says}"),
        }
        for row in rows_of(table)
    ]
    return pd.DataFrame(rows)


def sentence(table: pd.DataFrame) -> str:
    """Return how many rows fall inside, and how often one falls outside by chance."""
    inside, n = int((table.verdict == "inside").sum()), len(table)
    rows = "1 row falls" if n == 1 else f"{n} rows fall"
    adjusted = "" if n == 1 else f", adjusted after Bonferroni over the {n} rows"
    any_row = "it falls" if n == 1 else "any row falls"
    return (
        f"{inside} of {rows} inside: the fresh ratio lies in the committed row's {CONFIDENCE:.0%} prediction interval "
        f"for so many new pairs{adjusted}. Where nothing but the seeds differs, {any_row} outside in one of 20 reruns."
    )
