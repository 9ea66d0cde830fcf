"""What is trained for the demonstration, and asked: four variants, a few seeds, every question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import threshold_table, threshold_times
from experiments.questions.ablate import Ablate
from experiments.questions.attribute import Attribute
from experiments.questions.gradients import Gradients
from experiments.questions.heads import Heads
from experiments.questions.patch import Patch
from experiments.questions.question import Question
from experiments.runs.config import TRAINING, icl_run
from experiments.runs.pooling import all_metrics, labelled
from experiments.runs.run import Run
from experiments.runs.training_config import At, Every, TrainingConfig
from experiments.sweeps.sweep import sweep
from experiments.switchboard import explore

VARIANTS = ("classic", "value", "value-stop", "value-gradient-only")
THRESHOLD = 0.95


@dataclass(frozen=True)
class Size:
    """How much a demonstration does."""

    seeds: int
    training: TrainingConfig
    pairs: int
    sequences: int


SIZES: dict[str, Size] = {
    "standard": Size(seeds=3, training=TRAINING["small"], pairs=128, sequences=512),
    "smallest": Size(
        seeds=2,
        training=replace(
            TRAINING["small"], steps=900, evaluate_at=(Every(50),), checkpoint_at=(At((0, 450)),), n_eval=256
        ),
        pairs=16,
        sequences=64,
    ),
}
"""``smallest`` shows that everything runs; it trains too little to show more."""


@dataclass(frozen=True)
class Findings:
    """What a demonstration found."""

    runs: list[Run]
    metrics: pd.DataFrame
    table: pd.DataFrame
    heads: pd.DataFrame
    patches: pd.DataFrame
    edges: pd.DataFrame
    ablations: pd.DataFrame
    gradients: pd.DataFrame
    switchboard: dict[str, Any]
    """The document of the switchboard of the runs with the stream, the first seed's in full."""


def find(size: Size, root: str | Path | None, progress: bool = True) -> Findings:
    """Train what is not trained yet, and ask everything of the first seed's runs and of all learning curves."""
    configs = [icl_run(v, "small", seed, size.training) for seed in range(size.seeds) for v in VARIANTS]
    runs = sweep(configs, root, progress=progress)
    first = [run for run in runs if run.config.seed == 0]
    two = [run for run in first if run.config.variant in ("classic", "value")]
    metrics = all_metrics(runs)
    return Findings(
        runs=runs,
        metrics=metrics,
        table=threshold_table(threshold_times(metrics, THRESHOLD)),
        heads=_together(Heads(n=size.sequences), two),
        patches=_together(Patch(n=size.pairs), two),
        edges=_together(Attribute(n=size.pairs), two),
        ablations=_together(Ablate(n=size.sequences), two),
        gradients=_together(Gradients(n=size.sequences), [r for r in first if r.config.variant != "classic"]),
        switchboard=explore([r for r in runs if r.config.variant == "value"], n=size.pairs, progress=progress).document,
    )


def _together(question: Question, runs: Sequence[Run]) -> pd.DataFrame:
    return pd.concat([labelled(question.ask(run).to_frame(), run) for run in runs], ignore_index=True)
