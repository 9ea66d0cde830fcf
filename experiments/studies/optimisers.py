"""Does the stream help with every optimiser and rate? A grid of rates, alike for all, and each at its own best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from circuits.common.text_table import markdown, rows_of
from experiments.studies.builders import IN_SMALL
from experiments.studies.committed_results import Bundle
from experiments.studies.study import Arm, Block, Experiment, Size, Study
from experiments.studies.times import ratios_picture, speed, times
from experiments.studies.wording import speed_block, speed_table

RATES = {"Adam": (3e-4, 1e-3, 3e-3, 1e-2), "SGD": (0.1, 0.3, 1.0)}


GRID = [(f"{kind}, rate {rate:g}", kind, rate) for kind, rates in RATES.items() for rate in rates]
"""Condition, kind of optimiser, rate."""


def _optimisers(size: Size) -> list[Arm]:
    """Those of SGD are longer and evaluated less often."""
    from experiments.runs.config import icl_run
    from experiments.runs.training_config import SGD, Adam, Every
    from experiments.studies.carriers import CARRIERS
    from experiments.studies.schedules import SMALL, seeds

    trained = {
        "Adam": lambda rate: replace(SMALL, optimizer=Adam(rate), evaluate_at=(Every(25),)),
        "SGD": lambda rate: replace(SMALL, optimizer=SGD(rate), evaluate_at=(Every(100),), steps=4_000),
    }
    return [
        Arm(icl_run(v, "small", seed, trained[kind](rate)), condition)
        for condition, kind, rate in GRID
        for seed in seeds(size, 3)
        for v in CARRIERS
    ]


OPTIMISERS = Experiment("optimisers", _optimisers, "Does it help with every optimiser and rate?", of=IN_SMALL)


def tuned(bundle: Bundle) -> pd.DataFrame:
    """Return every variant at its own best rate against classic at its own, for each kind of optimiser: the columns of
    :func:`experiments.studies.times.speed`, rate and reference_rate.

    The best rate has the least restricted mean over the same seeds on which it is then compared, alike for every
    variant.
    """
    grid = pd.DataFrame(GRID, columns=["condition", "kind", "rate"])
    runs = times(bundle, OPTIMISERS).merge(grid, on="condition")
    best = []
    for (kind, _), rows in runs.groupby(["kind", "variant"], sort=False):
        capped = rows.assign(steps=rows.steps.fillna(rows["last"]))
        rate = capped.groupby("rate")["steps"].mean().idxmin()
        best.append(rows[rows.rate == rate].assign(condition=str(kind)))
    chosen = pd.concat(best, ignore_index=True)
    rates: Any = chosen.drop_duplicates(["condition", "variant"]).set_index(["condition", "variant"]).rate
    table = speed(chosen)
    at = {of: [rates[r.condition, getattr(r, of)] for r in rows_of(table)] for of in ("variant", "reference")}
    return table.assign(rate=at["variant"], reference_rate=at["reference"])


def _tuned_table(bundle: Bundle) -> str:
    table = tuned(bundle)
    words = speed_table(table)
    words.insert(2, "best rates", [f"{r.rate:g} / {r.reference_rate:g}" for r in rows_of(table)])
    return markdown(words)


STUDY = Study(
    name="optimisers",
    question=OPTIMISERS.asks,
    experiments=(OPTIMISERS,),
    pictures=(
        ratios_picture("optimisers", OPTIMISERS),
        ratios_picture("optimisers_tuned", OPTIMISERS, tuned, "every variant at its own best rate"),
    ),
    blocks=(
        Block("optimisers", _tuned_table, OPTIMISERS.asks, (OPTIMISERS,)),
        speed_block(OPTIMISERS, "optimisers-all", "The same at every rate"),
    ),
)
