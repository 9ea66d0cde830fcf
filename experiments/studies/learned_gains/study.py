"""Does a learned gain tell what a layer uses? Gains and scalars beside the causal share of each route."""

from __future__ import annotations

from experiments.studies.study import Arm, Experiment, Size, Study

SIZE = "0.2m"
SEEDS = 3


def _makes(size: Size) -> list[Arm]:
    from experiments.runs.config import lm_run
    from experiments.studies.learned_gains.makes import MAKES

    seeds = range(SEEDS if size == "full" else 1)
    return [
        Arm(lm_run(SIZE, "stories", rule, seed, **parts), condition)
        for seed in seeds
        for rule, (condition, parts) in MAKES.items()
    ]


LEARNED_GAINS = Experiment("learned-gains", _makes, "Does a learned gain tell what a layer uses?")

STUDY = Study(name="learned_gains", question=LEARNED_GAINS.asks, experiments=(LEARNED_GAINS,))
