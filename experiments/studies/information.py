"""Information or gradient, as declared beforehand: the two-by-two of gates, its interaction, and the gradient as a
dose."""

from __future__ import annotations

from experiments.studies.builders import AT_PAPER_SIZE, IN_SMALL
from experiments.studies.contrasts import decided_picture, plan_blocks
from experiments.studies.plan import Plan
from experiments.studies.study import Arm, Experiment, Size, Study, only
from experiments.studies.times import curves_picture

PLAN, AT_SIZE = Plan.read("information"), Plan.read("information-paper")
DOSES = {"value, gradient x0.3": 0.3, "value, gradient x3": 3.0}
"""Arms whose gradient into the stream is multiplied by a number."""


def _arms(size: Size) -> list[Arm]:
    from circuits.config.streams import Stream
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import SMALL, named

    arms = []
    for seed in PLAN.seeds(size):
        for arm in PLAN.arms:
            dose = DOSES.get(arm)
            if dose is None:
                arms.append(Arm(icl_run(arm, "small", seed, SMALL)))
            else:
                arms.append(named(arm, "value", seed, streams=(Stream("v", gradient=dose),)))
    return arms


def _at_paper_size(size: Size) -> list[Arm]:
    """The first seeds are those of the study of the gradient; the others go to 98 %, too."""
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import GRADIENT_SEEDS, TO_98, at_paper_size

    return [
        Arm(at_paper_size(arm, seed) if seed < GRADIENT_SEEDS else icl_run(arm, "paper", seed, TO_98))
        for seed in (AT_SIZE.seeds("full") if size == "full" else ())
        for arm in AT_SIZE.arms
    ]


GATES = Experiment("information", _arms, PLAN.question, only(*PLAN.pairs), of=IN_SMALL, declared=PLAN.n_runs)
PAPER = Experiment(
    "information-paper",
    _at_paper_size,
    AT_SIZE.question,
    only(*AT_SIZE.pairs),
    of=AT_PAPER_SIZE,
    declared=AT_SIZE.n_runs,
)
STUDY = Study(
    name="information",
    question="Information or gradient, at enough seeds to say so?",
    experiments=(GATES, PAPER),
    pictures=(
        decided_picture("information", PLAN, GATES),
        curves_picture("information_curves", GATES),
        decided_picture("information_paper", AT_SIZE, PAPER),
    ),
    blocks=(*plan_blocks(PLAN, GATES), *plan_blocks(AT_SIZE, PAPER)),
)
