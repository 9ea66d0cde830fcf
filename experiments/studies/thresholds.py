"""Does it depend on the threshold by which a run is said to have learned? The runs are those of other studies."""

from __future__ import annotations

from typing import Any

import pandas as pd

from circuits.common.text_table import interval, markdown, rows_of
from experiments.studies import carriers, gradient
from experiments.studies.committed_results import Bundle
from experiments.studies.study import Block, Picture, Study
from experiments.studies.times import THRESHOLDS, sensitivity
from figures.trainings.thresholds import sensitivity as draw_sensitivity

READ = (carriers.PAPER, gradient.PAPER, gradient.SMALL)
"""The experiments whose times are read at several thresholds."""
DRAWN = READ[:2]


def _by_threshold(bundle: Bundle) -> str:
    """The ratios, a row a comparison and rule of crossing, a column a threshold."""
    table, by = sensitivity(bundle, READ), ["experiment", "variant", "reference", "rule"]
    rows = []
    for (name, variant, reference, rule), part in table.groupby(by, sort=False):
        at = {row.threshold: interval(row.ratio, row.low, row.high, ".2f") for row in rows_of(part)}
        row = {"experiment": name, "compared": f"{variant} / {reference}", "crossing": rule}
        rows.append(row | {f"{threshold:.0%}": at.get(threshold, "-") for threshold in THRESHOLDS})
    return markdown(pd.DataFrame(rows))


def _drawn(bundle: Bundle) -> dict[str, Any]:
    runs = [run for experiment in DRAWN for run in bundle.experiment(experiment.name).name]
    words = {carriers.PAPER.name: "which stream", gradient.PAPER.name: "value or gradient"}
    return {"table": sensitivity(bundle, DRAWN), "runs": runs, "of": carriers.PAPER.of, "words": words}


STUDY = Study(
    name="thresholds",
    question="Does it depend on the threshold?",
    pictures=(Picture("sensitivity", draw_sensitivity, _drawn, DRAWN),),
    blocks=(Block("sensitivity", _by_threshold, "Does it depend on the threshold?", READ),),
)
