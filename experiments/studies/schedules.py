"""How long the runs of the studies are trained and how often they are looked at, at paper size and in the small preset.

The one module of what is trained that knows torch: studies import it when their runs are built.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.runs.config import TRAINING, RunConfig, icl_run
from experiments.runs.training_config import SGD, Adam, Every, StopAt, TrainingConfig
from experiments.studies.study import REFERENCE, Arm, Size

PAPER_N_EVAL = 4_000
"""Sequences in every evaluation set at paper size. (The paper has 10,000: a standard error of 0.002 instead of 0.003 at
95 %, for a third more time.)"""
WHOLE = TrainingConfig(steps=75_000, optimizer=SGD(), n_eval=PAPER_N_EVAL, gradients_at=(Every(1_000, 0, 40_000),))
"""The paper's schedule to its end."""
TO_98 = replace(WHOLE, steps=40_000, stop_at=StopAt(0.98, "ic", 3))
"""To 40,000 steps, or until in-context accuracy has been 98 % at three evaluations in a row."""
TO_95 = replace(TO_98, stop_at=StopAt(0.95, "ic", 3))
AROUND_TRANSITION = (Every(5_000), Every(1_000, 15_000, 40_000))
WHOLE_SEEDS, GRADIENT_SEEDS, CHECKPOINT_SEEDS = 3, 5, 2
GATES = (REFERENCE, "value", "value-stop", "value-gradient-only")

SMALL = replace(TRAINING["small"], steps=3_000, checkpoint_at=(), stop_at=StopAt(0.98, "ic", 3))
"""The small preset to 3,000 steps, or until in-context accuracy has been 98 % at three evaluations in a row."""
SMALL_GRADIENTS = replace(SMALL, gradients_at=(Every(50),))


def at_rate(kind: str, rate: float, every: int) -> TrainingConfig:
    """Return the small preset's training with an optimizer's kind and rate, evaluated every so many steps.

    With SGD it is longer.
    """
    optimizer, steps = (Adam(rate), SMALL.steps) if kind == "Adam" else (SGD(rate), 4_000)
    return replace(SMALL, optimizer=optimizer, evaluate_at=(Every(every),), steps=steps)


def small(variant: str, seed: int) -> RunConfig:
    """Return a run of the small preset that logs its gradients."""
    return icl_run(variant, "small", seed, SMALL_GRADIENTS)


def seeds(size: Size, full: int, miniature: int = 2) -> range:
    """Return as many seeds as a size has."""
    return range(full if size == "full" else miniature)


def at_paper_size(variant: str, seed: int) -> RunConfig:
    """Return a run at paper size.

    Classic and value go to the very end with the first seeds; they and the value stream's gates to 98 % with the first
    five, all others to 95 %. The first two seeds keep checkpoints.
    """
    training = TO_98 if variant in GATES and seed < GRADIENT_SEEDS else TO_95
    if variant in (REFERENCE, "value") and seed < WHOLE_SEEDS:
        training = WHOLE
    if seed < CHECKPOINT_SEEDS:
        training = replace(training, checkpoint_at=AROUND_TRANSITION)
    return icl_run(variant, "paper", seed, training)


def named(
    label: str, variant: str, seed: int, training: TrainingConfig = SMALL, preset: str = "small", **model: Any
) -> Arm:
    """Return an arm whose label is not the name of a variant; ``model`` overrides fields of the model."""
    run = icl_run(variant, preset, seed, training, **model)
    return Arm(replace(run, variant=label, model=replace(run.model, name=label)))
