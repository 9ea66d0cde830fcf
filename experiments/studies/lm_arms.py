"""What is trained for each question about language models: builders of plain lists of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.runs.config import LM_TRAINING, lm_run
from experiments.runs.training_config import TokenTraining
from experiments.studies.arms import Arm, Size
from experiments.tasks.nested_relations import NestedConfig
from experiments.tasks.registry import TokenTaskConfig

VARIANTS = ("classic", "value", "value-stop", "value-gradient-only", "resformer-constant", "cumulative")
FEW = ("classic", "value", "value-stop")
PAIR = ("classic", "value")
SEEDS = 5
SIZES = ("0.2m", "1m", "3m")
SEEDS_BY_SIZE = {"0.2m": SEEDS, "1m": 3, "3m": 3}


def _arms(
    size: str,
    task: str | TokenTaskConfig,
    variants: Sequence[str],
    n_seeds: int,
    training: TokenTraining,
    condition: str,
) -> list[Arm]:
    return [
        Arm(lm_run(size, task, variant, seed, training), condition) for seed in range(n_seeds) for variant in variants
    ]


def _seeds(size: Size, full: int) -> int:
    return full if size == "full" else 2


def stories(size: Size) -> list[Arm]:
    """Return every variant on stories, asked about indirect objects."""
    variants = VARIANTS if size == "full" else FEW
    return _arms("0.2m", "stories", variants, _seeds(size, SEEDS), LM_TRAINING["0.2m"], "0.2m")


def sizes(size: Size) -> list[Arm]:
    """Return classic and value in three sizes; the smallest are those of :func:`stories`."""
    if size != "full":
        return []
    seeds = SEEDS_BY_SIZE
    return [arm for name in SIZES for arm in _arms(name, "stories", PAIR, seeds[name], LM_TRAINING[name], name)]


def nested(size: Size) -> list[Arm]:
    """Return classic and value on relations inside relations, learning from the answers alone."""
    training = replace(LM_TRAINING["0.2m"], steps=4_000, checkpoint_at=())
    task = NestedConfig(answers_only=True)
    return [] if size != "full" else _arms("0.2m", task, PAIR, SEEDS, training, "0.2m")
