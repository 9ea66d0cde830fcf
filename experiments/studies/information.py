"""Information or gradient, as declared beforehand: the two-by-two of gates, its interaction, and the gradient as a
dose."""

from __future__ import annotations

from experiments.studies.plan import Plan
from experiments.studies.study import Arm, Experiment, Size, only

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
