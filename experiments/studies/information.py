"""Information or gradient, as declared beforehand: the two-by-two of gates, its interaction, and the gradient as a
dose."""

from __future__ import annotations

import pandas as pd

from experiments.studies.committed_results import Bundle
from experiments.studies.contrasts import decided, plan_blocks
from experiments.studies.plan import Plan
from experiments.studies.study import Arm, Experiment, Size, Study, only
from experiments.studies.times import picture_of, ratios_picture
from figures.trainings.learning import learning_curves

PLAN = Plan.read("information")
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


GATES = Experiment("information", _arms, PLAN.question, only(*PLAN.pairs))


def _contrasts(bundle: Bundle) -> pd.DataFrame:
    """The contrasts at the threshold that decides, as :func:`figures.trainings.times.time_ratios` draws them."""
    table = decided(PLAN, GATES, bundle)
    return table.assign(variant=table.what, reference="no effect", condition="", margin=PLAN.smallest_of_interest)


STUDY = Study(
    name="information",
    question="Information or gradient, at enough seeds to say so?",
    experiments=(GATES,),
    pictures=(
        ratios_picture("information", GATES, _contrasts),
        picture_of("information_curves", learning_curves, GATES),
    ),
    blocks=plan_blocks(PLAN, GATES),
)
