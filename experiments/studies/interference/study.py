"""Is it interference? The edge from the first layer into the second one's values is cut, as declared beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics.intervals import grouped_intervals
from circuits.common.text_table import interval, markdown, rows_of
from experiments.studies.builders import IN_SMALL
from experiments.studies.committed_results import Bundle
from experiments.studies.declared import Declared
from experiments.studies.pictures import curves_picture
from experiments.studies.study import Arm, Asking, Block, Picture, Size, Study
from figures.trainings.value_parts import value_parts

WINDOWS: dict[str, tuple[int, int | None]] = {"": (0, None), " to 400": (0, 400), " from 400": (400, None)}
"""Steps in which the edge is cut, by what an arm's name adds to "cut": from 400, value models learn."""
MEASURES = ("size", "overlap", "signal")


def _arm(arm: str, seed: int) -> Arm:
    from circuits.interventions.intervention import Intervention, Without
    from circuits.sites import Site
    from experiments.runs.training_config import Every
    from experiments.studies.schedules import SMALL, named

    variant, is_cut, when = arm.partition(", cut")
    if not is_cut:
        return named(arm, variant, seed, replace(SMALL, checkpoint_at=(Every(100),)))
    first, last = WINDOWS[when]
    edge = Intervention(Site(1, "v"), Without(0), first=first, last=last)
    return named(arm, variant, seed, replace(SMALL, interventions=(edge,)))


DECLARED = Declared.of("interference", _arm, IN_SMALL)
INTERFERENCE = DECLARED.experiment


def ask(roots: Sequence[Path], size: Size = "full") -> dict[str, pd.DataFrame]:
    """Return :func:`experiments.studies.interference.asking.study` of the finished runs in some directories that keep
    checkpoints."""
    from experiments.runs.run import runs_in
    from experiments.studies.interference.asking import study

    there = runs_in(roots, [arm.config for arm in INTERFERENCE.arms(size)])
    return study([run for run in there if run.finished and len(run.checkpoints()) > 2])


def parts(bundle: Bundle) -> pd.DataFrame:
    """Return means over seeds of the frame "interference" at the steps at which all runs of a variant have a
    checkpoint: variant, step, part, measure, mean, low, high, n."""
    frame = bundle.frame("interference")
    runs_at = frame.groupby(["variant", "step"], observed=True).run.transform("nunique")
    frame = frame[runs_at == frame.groupby("variant", observed=True).run.transform("nunique")]
    long = frame.melt(["variant", "seed", "step", "part"], MEASURES, "measure")
    return grouped_intervals(long, ["variant", "step", "part", "measure"], scale="linear")


def _parts_table(bundle: Bundle) -> str:
    """At the last step to which all runs of a variant went."""
    if said := INTERFERENCE.waiting(bundle):
        return said
    table = parts(bundle)
    ends = table[table.step == table.groupby("variant").step.transform("max")]
    forms = {measure: "+.2f" if measure == "overlap" else ".2f" for measure in MEASURES}
    rows = []
    for (variant, step, part), some in ends.groupby(["variant", "step", "part"], sort=False):
        told = {row.measure: interval(row.mean, row.low, row.high, forms[row.measure]) for row in rows_of(some)}
        rows.append({"variant": variant, "step": f"{step:,}", "values": part} | told)
    return markdown(pd.DataFrame(rows))


def _value_parts(bundle: Bundle) -> dict[str, Any]:
    return {"table": parts(bundle), "runs": list(bundle.frame("interference").run.unique()), "of": IN_SMALL}


STUDY = Study(
    name="interference",
    question="Does what the first layer writes hurt the second layer's values?",
    experiments=(INTERFERENCE,),
    asking=Asking(("interference",), ask, (INTERFERENCE,)),
    pictures=(
        DECLARED.picture,
        curves_picture("interference_curves", INTERFERENCE),
        Picture("value_parts", value_parts, _value_parts, (INTERFERENCE,), ("interference",)),
    ),
    blocks=(
        *DECLARED.blocks,
        Block("interference-parts", _parts_table, "What the second layer's values are made of", (INTERFERENCE,)),
    ),
)
