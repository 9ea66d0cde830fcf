"""The named studies of language models: which runs they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from circuits.errors import known
from experiments.config import Every
from experiments.lm import LM_TRAINING, LMRunConfig, LMTraining, lm_run

SEEDS = range(5)
VARIANTS = ("classic", "value", "value-stop", "value-gradient-only", "resformer-constant", "cumulative")


@dataclass(frozen=True)
class LMStudy:
    """A question, and the runs that answer it."""

    name: str
    asks: str
    configs: Callable[[], list[LMRunConfig]]


def _runs(
    size: str, task: str, variants: Sequence[str], seeds: Sequence[int], training: LMTraining
) -> list[LMRunConfig]:
    return [lm_run(size, task, variant, seed, training) for seed in seeds for variant in variants]


def _of_size(size: str, seeds: Sequence[int]) -> list[LMRunConfig]:
    return _runs(size, "stories", ("classic", "value", "value-stop"), seeds, LM_TRAINING[size])


def _main() -> list[LMRunConfig]:
    return _runs("0.2m", "stories", VARIANTS, SEEDS, LM_TRAINING["0.2m"])


def _nested() -> list[LMRunConfig]:
    training = replace(LM_TRAINING["0.2m"], checkpoint_at=(), evaluate_at=(Every(100),))
    return _runs("0.2m", "nested", ("classic", "value", "value-stop"), SEEDS, training)


LM_STUDIES: dict[str, LMStudy] = {
    study.name: study
    for study in (
        LMStudy("lm", "Does a residual values stream help a small language model, and is it the gradient?", _main),
        LMStudy("lm-1m", "Does it help a model of a million parameters as much?", lambda: _of_size("1m", range(3))),
        LMStudy("lm-3m", "And one of three millions?", lambda: _of_size("3m", range(3))),
        LMStudy("lm-nested", "Does it help with relations inside relations, by depth?", _nested),
    )
}


def lm_configs(names: Sequence[str]) -> list[LMRunConfig]:
    """Return the runs of some studies.

    Raises:
        UnknownNameError: for an unknown study (nearest suggested).
    """
    return [config for name in names for config in LM_STUDIES[known("study", name, LM_STUDIES)].configs()]
