"""On which data does the stream help? More or fewer classes, repetitions, novel classes, and wrong labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.studies.builders import IN_SMALL
from experiments.studies.pictures import ratios_picture
from experiments.studies.study import REFERENCE, Arm, Experiment, Size, Study, only
from experiments.studies.wording import speed_block

CONDITIONS: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "each class once in a context": {"burstiness": 1},
    "each class four times": {"burstiness": 4},
    "known classes never bursty": {"p_bursty": 0.0},
    "known classes always bursty": {"p_bursty": 1.0},
    "a quarter novel classes": {"p_novel": 0.25},
    "novel classes only": {"p_novel": 1.0},
    "128 classes": {"n_classes": 128},
    "2,048 classes": {"n_classes": 2_048},
    "one context label in ten wrong": {"label_noise": 0.1},
    "three in ten wrong": {"label_noise": 0.3},
}


def _data(size: Size) -> list[Arm]:
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import SMALL, seeds

    return [
        Arm(replace(run, task=replace(run.task, **changed)), condition)
        for condition, changed in CONDITIONS.items()
        for seed in seeds(size, 5)
        for run in (icl_run(v, "small", seed, SMALL) for v in (REFERENCE, "value", "value-stop"))
    ]


DATA = Experiment(
    "data", _data, "On which data does it help?", only(("value", REFERENCE), ("value-stop", "value")), of=IN_SMALL
)
STUDY = Study(
    name="training_data",
    question=DATA.asks,
    experiments=(DATA,),
    pictures=(ratios_picture("data", DATA),),
    blocks=(speed_block(DATA),),
)
