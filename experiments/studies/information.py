"""Information or gradient, as declared beforehand: the two-by-two of gates, its interaction, and the gradient as a
dose."""

from __future__ import annotations

from experiments.studies.builders import AT_PAPER_SIZE, IN_SMALL
from experiments.studies.declared import Declared
from experiments.studies.pictures import curves_picture
from experiments.studies.study import Arm, Study

DOSES = {"value, gradient x0.3": 0.3, "value, gradient x3": 3.0}
"""Arms whose gradient into the stream is multiplied by a number."""


def _arm(arm: str, seed: int) -> Arm:
    from circuits.config.streams import Stream
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import SMALL, named

    dose = DOSES.get(arm)
    if dose is None:
        return Arm(icl_run(arm, "small", seed, SMALL))
    return named(arm, "value", seed, streams=(Stream("v", gradient=dose),))


def _at_paper_size(arm: str, seed: int) -> Arm:
    """The first seeds are those of the study of the gradient; the others go to 98 %, too."""
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import GRADIENT_SEEDS, TO_98, at_paper_size

    return Arm(at_paper_size(arm, seed) if seed < GRADIENT_SEEDS else icl_run(arm, "paper", seed, TO_98))


GATES = Declared.of("information", _arm, IN_SMALL)
PAPER = Declared.of("information-paper", _at_paper_size, AT_PAPER_SIZE)
STUDY = Study(
    name="information",
    question="Information or gradient, at enough seeds to say so?",
    experiments=(GATES.experiment, PAPER.experiment),
    pictures=(
        GATES.picture,
        curves_picture("information_curves", GATES.experiment),
        PAPER.picture,
        curves_picture("information_paper_curves", PAPER.experiment),
    ),
    blocks=(*GATES.blocks, *PAPER.blocks),
)
