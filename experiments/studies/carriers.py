"""Which stream speeds up in-context learning: of values, of keys, or of queries? The paper's own comparison."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.curves import over_seeds
from analysis.statistics.survival import survival_curves
from circuits.common.text_table import rows_of
from experiments.studies.builders import AT_PAPER_SIZE, IN_SMALL, at_paper_size, in_small
from experiments.studies.committed_results import Bundle
from experiments.studies.pictures import curves_picture, drawn, on_novel_classes, picture_of, ratios_picture
from experiments.studies.study import (
    REFERENCE,
    Arm,
    Block,
    Experiment,
    Picture,
    Size,
    Study,
    only,
)
from experiments.studies.times import IN_CONTEXT, compared, row_of, sensitivity, times, verdict
from experiments.studies.wording import final_block, shown, speed_block, times_word
from figures.trainings.progress import PROGRESS, progress_measures
from figures.trainings.times import SPLITS, all_curves, survival

CARRIERS = (REFERENCE, "value", "key", "query")
QUERY_KEY_SEEDS = 5
LAST_STEP = 75_000
"""Of the paper's schedule."""
SAID = 0.24
"""How much sooner the value stream is said to be at 95 %."""


def _at_paper_size(size: Size) -> list[Arm]:
    """Classic and value have more seeds than keys and queries."""
    arms = at_paper_size(CARRIERS, 10)(size)
    return [arm for arm in arms if arm.config.seed < QUERY_KEY_SEEDS or arm.label in CARRIERS[:2]]


_CONTRASTS = only(("value", REFERENCE), ("key", REFERENCE), ("query", REFERENCE), ("key", "value"), ("query", "value"))
_ASKS = "Which stream speeds up in-context learning"
PAPER = Experiment("streams-paper", _at_paper_size, f"{_ASKS}, at the paper's size?", _CONTRASTS, of=AT_PAPER_SIZE)
SMALL = Experiment("streams", in_small(CARRIERS, 10, 3), f"{_ASKS}, in the small preset?", _CONTRASTS, of=IN_SMALL)


def _shift(bundle: Bundle) -> str:
    """Whether value is a constant number of steps before classic or takes a constant share of them."""
    table = sensitivity(bundle, (PAPER,), ("interpolated",))
    table = table[(table.variant == "value") & (table.reference == REFERENCE)]
    pairs = table.pairs.max()
    rows: dict[float, Any] = {row.threshold: row for row in rows_of(table[table.pairs == pairs])}
    saved, ratios = [r.reference_steps - r.steps for r in rows.values()], [r.ratio for r in rows.values()]
    cells = [f"{at:.0%}: {s:,.0f} ({r:.2f})" for at, s, r in zip(rows, saved, ratios, strict=True)]
    by_ratio, by_steps = max(np.log(ratios)) / min(np.log(ratios)), min(saved) / max(saved)
    says = "nearer to a shift than to a constant ratio" if by_steps > by_ratio else "nearer to a constant ratio"
    test = row_of(compared(bundle, PAPER, split="test"), "value", REFERENCE)
    return (
        f"Steps that the value stream saves at each threshold, and its ratio to classic ({pairs} seeds): "
        f"{'; '.join(cells)}: {says}. "
        f"To 95% on the *test* set ({test.pairs} seeds that went on that far) it takes {times_word(test)} classic's "
        f"steps: {verdict(test)}; these seeds could have shown {shown(test.smallest)}."
    )


def _paper_says(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    """What is claimed of the speed and of the best carrier, and what is found."""
    table = compared(bundle, PAPER)
    value, key, query = (row_of(table, *pair) for pair in (("value", REFERENCE), ("key", "value"), ("query", "value")))
    sooner = row_of(compared(bundle, PAPER, 0.90), "value", REFERENCE)
    fewer, fewer_90 = (f"{1 - r.ratio:.0%} [{1 - r.high:.0%}, {1 - r.low:.0%}]" for r in (value, sooner))
    outside = "less than said" if 1 - value.low < SAID else "more than said"
    agrees = "agrees" if 1 - value.high <= SAID <= 1 - value.low else outside
    # Of query against value, thresholds that say the same are put together.
    by_threshold = defaultdict(list)
    several = sensitivity(bundle, (PAPER,), ("interpolated",))
    for row in rows_of(several[(several.variant == "query") & (several.reference == "value")]):
        by_threshold[verdict(row)].append(f"{row.threshold:.0%}")
    best = "; ".join(f"{says} at {', '.join(thresholds)}" for says, thresholds in by_threshold.items())
    return [
        ("fewer steps to 95 %, value", f"about {SAID:.0%} (said)", fewer, agrees),
        ("fewer steps to 90 %, value", "-", fewer_90, "-"),
        ("the best carrier", "value (said)", f"query: {times_word(query)} value's steps", best),
        ("", "", f"key: {times_word(key)} value's steps", verdict(key)),
    ]


def _of_whole_runs(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """Of those that went to the paper's last step."""
    metrics = bundle.metrics(experiment.name)
    whole = metrics[metrics.groupby("run")["step"].transform("max") == LAST_STEP]
    return over_seeds(drawn(whole, SPLITS, ("accuracy", "loss")))


def _survival(bundle: Bundle) -> dict[str, Any]:
    runs, curves = list(bundle.experiment(PAPER.name).name), survival_curves(times(bundle, PAPER))
    return {"curves": curves, "runs": runs, "of": f"{PAPER.of}; there: {PAPER.threshold:.0%} accuracy on novel classes"}


STUDY = Study(
    name="carriers",
    question=f"{_ASKS}?",
    experiments=(PAPER, SMALL),
    pictures=(
        curves_picture("streams_paper_curves", PAPER),
        picture_of("streams_paper_all", all_curves, PAPER, _of_whole_runs),
        picture_of("streams_paper_progress", progress_measures, PAPER, partial(on_novel_classes, measures=PROGRESS)),
        Picture("streams_paper_survival", survival, _survival, (PAPER,)),
        ratios_picture("streams_paper_ratios", PAPER),
        ratios_picture("streams_ratios", SMALL),
    ),
    blocks=(
        speed_block(PAPER),
        Block("shift", _shift, "A shift or a ratio", (PAPER,)),
        final_block("whole", "Where the longest runs end", PAPER, IN_CONTEXT, LAST_STEP, lead="runs"),
        speed_block(SMALL),
    ),
    verdict=_paper_says,
)
