"""Which stream speeds up in-context learning: of values, of keys, or of queries? The paper's own comparison."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from analysis.statistics.curves import over_seeds
from experiments.studies.committed_results import Bundle
from experiments.studies.study import REFERENCE, Arm, Block, Experiment, Picture, Size, Study, only
from experiments.studies.times import (
    IN_CONTEXT,
    compared,
    drawn,
    metrics_picture,
    ratios_picture,
    row_of,
    sensitivity,
    survival_picture,
    verdict,
)
from experiments.studies.wording import fewer, final_block, rows_of, shown, speed_block, times_word
from figures.trainings.learning import PROGRESS, learning_curves, progress_measures
from figures.trainings.times import SPLITS, all_curves

CARRIERS = (REFERENCE, "value", "key", "query")
PAIR = (REFERENCE, "value")
QUERY_KEY_SEEDS = 5
"""At paper size queries and keys have fewer seeds than classic and value."""
LAST_STEP = 75_000
"""Of the paper's schedule."""
SAID = 0.24
"""How much sooner the value stream is said to be at 95 %."""

# --- what is trained --------------------------------------------------------------------------------------------------


def at_paper_size(size: Size) -> list[Arm]:
    """Return the runs at the paper's size."""
    from experiments.studies import schedules

    every = schedules.seeds(size, 10, 0)
    pairs = [(v, seed) for seed in every for v in CARRIERS if seed < QUERY_KEY_SEEDS or v in PAIR]
    return [Arm(schedules.at_paper_size(v, seed)) for v, seed in pairs]


def small(size: Size) -> list[Arm]:
    """Return the runs of the small preset."""
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import SMALL_GRADIENTS, seeds

    return [Arm(icl_run(v, "small", seed, SMALL_GRADIENTS)) for seed in seeds(size, 10, 3) for v in CARRIERS]


_CONTRASTS = only(("value", REFERENCE), ("key", REFERENCE), ("query", REFERENCE), ("key", "value"), ("query", "value"))
PAPER = Experiment(
    "streams-paper",
    at_paper_size,
    "Which stream speeds up in-context learning, at the paper's size?",
    _CONTRASTS,
)
SMALL = Experiment("streams", small, "Which stream speeds up in-context learning, in the small preset?", _CONTRASTS)

# --- what it says -----------------------------------------------------------------------------------------------------


def shift(bundle: Bundle) -> str:
    """Return whether value is a constant number of steps before classic or takes a constant share of them."""
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


def paper_says(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    """Return what is claimed of the speed and of the best carrier, and what is found."""
    table = compared(bundle, PAPER)
    value, key, query = (row_of(table, *pair) for pair in (("value", REFERENCE), ("key", "value"), ("query", "value")))
    sooner = row_of(compared(bundle, PAPER, 0.90), "value", REFERENCE)
    outside = "less than said" if 1 - value.low < SAID else "more than said"
    agrees = "agrees" if 1 - value.high <= SAID <= 1 - value.low else outside
    # Of query against value, thresholds that say the same are put together.
    by_threshold = defaultdict(list)
    several = sensitivity(bundle, (PAPER,), ("interpolated",))
    for row in rows_of(several[(several.variant == "query") & (several.reference == "value")]):
        by_threshold[verdict(row)].append(f"{row.threshold:.0%}")
    best = "; ".join(f"{says} at {', '.join(thresholds)}" for says, thresholds in by_threshold.items())
    return [
        ("fewer steps to 95 %, value", f"about {SAID:.0%} (said)", fewer(value), agrees),
        ("fewer steps to 90 %, value", "-", fewer(sooner), "-"),
        ("the best carrier", "value (said)", f"query: {times_word(query)} value's steps", best),
        ("", "", f"key: {times_word(key)} value's steps", verdict(key)),
    ]


def _whole_curves(bundle: Bundle) -> dict[str, Any]:
    """Of the runs that went to the paper's last step alone."""
    metrics = bundle.metrics(PAPER.name)
    whole = metrics[metrics.groupby("run")["step"].transform("max") == LAST_STEP]
    return {"metrics": over_seeds(drawn(whole, SPLITS, ("accuracy", "loss")))}


STUDY = Study(
    name="carriers",
    question="Which stream speeds up in-context learning?",
    experiments=(PAPER, SMALL),
    pictures=(
        metrics_picture("streams_paper_curves", learning_curves, PAPER),
        Picture("streams_paper_all", all_curves, _whole_curves, (PAPER,)),
        metrics_picture("streams_paper_progress", progress_measures, PAPER, PROGRESS),
        survival_picture("streams_paper_survival", PAPER),
        ratios_picture("streams_paper_ratios", PAPER),
        ratios_picture("streams_ratios", SMALL),
    ),
    blocks=(
        speed_block(PAPER),
        Block("shift", shift, "A shift or a ratio", (PAPER,)),
        final_block("whole", "Where the longest runs end", PAPER, IN_CONTEXT, LAST_STEP, lead="runs"),
        speed_block(SMALL),
    ),
    verdict=paper_says,
)
