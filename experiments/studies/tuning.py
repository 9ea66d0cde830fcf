"""Rates that are tuned: how soon every arm learns at every rate of a grid, and at which it is soonest."""

from __future__ import annotations

from functools import partial

import pandas as pd

from circuits.common.text_table import markdown, rows_of
from experiments.studies.committed_results import Bundle
from experiments.studies.study import Block, Experiment
from experiments.studies.times import times


def condition_of(kind: str, rate: float) -> str:
    """Return the condition of runs with an optimizer's kind and rate."""
    return f"{kind}, rate {rate:g}"


def rated(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """Return :func:`experiments.studies.times.times` of an experiment whose conditions are those of
    :func:`condition_of`, with kind, rate, and ``capped``: the steps, of a run that did not get there those to its
    end."""
    runs = times(bundle, experiment)
    parts = runs.condition.str.partition(", rate ")
    capped = runs.steps.fillna(runs["last"])
    return runs.assign(kind=parts[0], rate=parts[2].astype(float), capped=capped)


def best_rates(bundle: Bundle, experiment: Experiment) -> dict[tuple[str, str], float]:
    """Return the rate of the least mean of capped steps, by kind of optimizer and arm; the lowest one of several."""
    means = rated(bundle, experiment).groupby(["kind", "variant", "rate"], observed=True).capped.mean()
    best = means.groupby(["kind", "variant"], observed=True).idxmin()
    return {(str(kind), str(arm)): float(rate) for kind, arm, rate in best}


def _table(experiment: Experiment, bundle: Bundle) -> str:
    if said := experiment.waiting(bundle):
        return said
    runs, best = rated(bundle, experiment), best_rates(bundle, experiment)
    rows = []
    for (kind, arm), part in runs.groupby(["kind", "variant"], sort=False, observed=True):
        means = part.groupby("rate").agg(steps=("capped", "mean"), reached=("steps", "count"), n=("steps", "size"))
        said = [
            f"{row.Index:g}: {row.steps:,.0f}" + ("" if row.reached == row.n else f" ({row.reached} of {row.n})")
            for row in rows_of(means)
        ]
        rate = best[str(kind), str(arm)]
        at_end = " (an end of the grid)" if rate in (means.index.min(), means.index.max()) else ""
        rows.append({"optimiser": kind, "arm": arm, "best rate": f"{rate:g}{at_end}", "steps by rate": "; ".join(said)})
    return markdown(pd.DataFrame(rows))


def tuning_block(experiment: Experiment) -> Block:
    """Return the block of a page that says how soon arms learn at every rate, and how many of the runs got there where
    not all did."""
    return Block(experiment.name, partial(_table, experiment), f"{experiment.name}: {experiment.asks}", (experiment,))
