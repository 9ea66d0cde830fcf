"""Does the stream help with every optimiser and rate? A grid of rates, alike for all, and each at its own best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from circuits.common.text_table import markdown, rows_of
from experiments.studies.builders import IN_SMALL
from experiments.studies.committed_results import Bundle
from experiments.studies.declared import Declared
from experiments.studies.pictures import ratios_picture
from experiments.studies.sources import MODELS
from experiments.studies.study import Arm, Block, Experiment, Size, Study
from experiments.studies.times import speed
from experiments.studies.tuning import best_rates, condition_of, rated, tuning_block
from experiments.studies.wording import speed_block, speed_table

RATES = {"Adam": (3e-4, 1e-3, 3e-3, 1e-2), "SGD": (0.1, 0.3, 1.0)}
FINE = {"Adam": (0.002, 0.003, 0.0045, 0.0065, 0.01, 0.015, 0.022, 0.032), "SGD": (0.3, 0.5, 0.8, 1.25, 2.0, 3.2)}
"""Rates among which every arm of the tuned comparisons has its best."""
ARMS = ("classic", "value", "value-stop", "value-gradient-only", "x0", "x0 alone")
"""Those of the tuned comparisons."""
TUNING_SEEDS = range(58, 63)


def _grid(rates: Mapping[str, Sequence[float]]) -> list[tuple[str, float]]:
    """Kind of optimiser, rate."""
    return [(kind, rate) for kind, some in rates.items() for rate in some]


def _optimisers(size: Size) -> list[Arm]:
    """Those of SGD are evaluated less often."""
    from experiments.runs.config import icl_run
    from experiments.studies.carriers import CARRIERS
    from experiments.studies.schedules import at_rate, seeds

    return [
        Arm(icl_run(v, "small", seed, at_rate(kind, rate, {"Adam": 25, "SGD": 100}[kind])), condition_of(kind, rate))
        for kind, rate in _grid(RATES)
        for seed in seeds(size, 3)
        for v in CARRIERS
    ]


def _tuned(kind: str, arm: str, seed: int, rate: float) -> Arm:
    """Evaluated more often, as at a good rate there is less to wait for."""
    from experiments.studies.schedules import at_rate, named

    return named(arm, "classic", seed, at_rate(kind, rate, {"Adam": 10, "SGD": 25}[kind]), **MODELS[arm])


def _tuning(kind: str, size: Size) -> list[Arm]:
    return [
        replace(_tuned(kind, arm, seed, rate), condition=condition_of(kind, rate))
        for rate in FINE[kind]
        for seed in (TUNING_SEEDS if size == "full" else ())
        for arm in ARMS
    ]


OPTIMISERS = Experiment("optimisers", _optimisers, "Does it help with every optimiser and rate?", of=IN_SMALL)
TUNING = {
    kind: Experiment(
        f"tuning-{kind.lower()}",
        partial(_tuning, kind),
        f"Which rate of {kind} is best for every model?",
        of=IN_SMALL,
        declared=len(rates) * len(TUNING_SEEDS) * len(ARMS),
    )
    for kind, rates in FINE.items()
}
BEST: dict[str, dict[str, float]] = {
    "Adam": {
        "classic": 0.0065,
        "value": 0.01,
        "value-stop": 0.01,
        "value-gradient-only": 0.0065,
        "x0": 0.01,
        "x0 alone": 0.01,
    },
    "SGD": {
        "classic": 0.5,
        "value": 0.8,
        "value-stop": 0.8,
        "value-gradient-only": 0.5,
        "x0": 0.5,
        "x0 alone": 0.8,
    },
}
"""By kind of optimizer and arm, the rate that was best in :data:`TUNING`: what is compared is not known before it."""


def _at_best(kind: str, arm: str, seed: int) -> Arm:
    return _tuned(kind, arm, seed, BEST[kind][arm])


TUNED = {
    kind: Declared.of(f"tuned-{kind.lower()}", partial(_at_best, kind) if kind in BEST else None, IN_SMALL)
    for kind in FINE
}


def tuned(bundle: Bundle) -> pd.DataFrame:
    """Return every variant at its own best rate against classic at its own, for each kind of optimiser: the columns of
    :func:`experiments.studies.times.speed`, rate and reference_rate.

    The best rate has the least restricted mean over the same seeds on which it is then compared, alike for every
    variant.
    """
    runs, rates = rated(bundle, OPTIMISERS), best_rates(bundle, OPTIMISERS)
    best = [
        rows[rows.rate == rates[str(kind), str(variant)]].assign(condition=str(kind))
        for (kind, variant), rows in runs.groupby(["kind", "variant"], sort=False)
    ]
    table = speed(pd.concat(best, ignore_index=True))
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
    experiments=(OPTIMISERS, *TUNING.values(), *(each.experiment for each in TUNED.values())),
    pictures=(
        ratios_picture("optimisers", OPTIMISERS),
        ratios_picture("optimisers_tuned", OPTIMISERS, tuned, "every variant at its own best rate"),
        *(each.picture for each in TUNED.values()),
    ),
    blocks=(
        Block("optimisers", _tuned_table, OPTIMISERS.asks, (OPTIMISERS,)),
        speed_block(OPTIMISERS, "optimisers-all", "The same at every rate"),
        *(tuning_block(each) for each in TUNING.values()),
        *(block for each in TUNED.values() for block in each.blocks),
    ),
)
