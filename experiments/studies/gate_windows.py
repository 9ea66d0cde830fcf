"""When must the stream be open? It is opened, closed, or closed to the gradient alone, in the middle of training."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd

from circuits.config.streams import Gate
from experiments.studies.builders import AT_PAPER_SIZE, IN_SMALL
from experiments.studies.committed_results import Bundle
from experiments.studies.pictures import on_novel_classes
from experiments.studies.study import Arm, Experiment, Picture, Size, Study, against_value
from experiments.studies.times import IN_CONTEXT, compared
from experiments.studies.wording import final_block, speed_block
from figures.trainings.windows import windows

CHANGES: dict[str, tuple[Gate, Gate]] = {
    "opened": ("off", "full"),
    "closed": ("full", "off"),
    "gradient cut": ("full", "stop"),
}
"""The gate before and from a step on: open from then on, closed from then on, or closed to the gradient alone."""
STEPS = {"before": 150, "within": 400, "after": 800}
"""Before, within and after the transition of a value model."""
SMALL_CHANGES = tuple((change, when, at) for change, (when, at) in product(CHANGES, STEPS.items()))
PAPER_CHANGES = (("opened", "within", 18_000), ("closed", "within", 18_000))
"""What is done at the paper's size, where a run is minutes."""
PAIR = ("classic", "value")


def _label(change: str, when: str, at: int) -> str:
    return f"{change} {when} ({at:,})"


def gates(change: str, at: int) -> Any:
    """Return the changes of gates of a training in which the stream is opened, closed or cut at a step."""
    from experiments.runs.training_config import GateChange

    first, then = CHANGES[change]
    return (*([GateChange(0, first)] if first != "full" else []), GateChange(at, then))


def _changed(change: str, when: str, at: int, seed: int, preset: str, training: Any) -> Arm:
    from experiments.studies.schedules import named

    return named(_label(change, when, at), "value", seed, replace(training, gates=gates(change, at)), preset)


def _small(size: Size) -> list[Arm]:
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import SMALL, seeds

    window, arms = replace(SMALL, steps=1_500, stop_at=None), []
    for seed in seeds(size, 10):
        arms += [Arm(icl_run(v, "small", seed, window)) for v in PAIR]
        arms += [_changed(*change, seed, "small", window) for change in SMALL_CHANGES]
    return arms


def _at_paper_size(size: Size) -> list[Arm]:
    from experiments.studies import schedules

    arms = []
    for seed in schedules.seeds(size, 5, 0):
        arms += [Arm(schedules.at_paper_size(v, seed)) for v in PAIR]
        arms += [_changed(*change, seed, "paper", schedules.TO_95) for change in PAPER_CHANGES]
    return arms


_ASKS = "When must the stream be open"
SMALL = Experiment("windows", _small, f"{_ASKS}, in the small preset?", against_value, of=IN_SMALL)
PAPER = Experiment("windows-paper", _at_paper_size, f"{_ASKS}, at the paper's size?", against_value, of=AT_PAPER_SIZE)


def _curves(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """What the runs measured, with what is changed in every variant: change, when, at (a step)."""
    rows = [*SMALL_CHANGES, *PAPER_CHANGES]
    changes = pd.DataFrame(rows, columns=["change", "when", "at"]).assign(variant=[_label(*row) for row in rows])
    return on_novel_classes(bundle, experiment).merge(changes, on="variant", how="left")


def _picture(name: str, experiment: Experiment) -> Picture:
    def arguments(bundle: Bundle) -> dict[str, Any]:
        told = {"ratios": compared(bundle, experiment), "of": experiment.of, "threshold": experiment.threshold}
        return {"metrics": _curves(bundle, experiment)} | told

    return Picture(name, windows, arguments, (experiment,))


STUDY = Study(
    name="gate_windows",
    question=f"{_ASKS}?",
    experiments=(SMALL, PAPER),
    pictures=(_picture("windows_paper", PAPER), _picture("windows", SMALL)),
    blocks=(
        speed_block(SMALL),
        final_block(
            "windows-final", "Where the runs end whose stream was opened or closed", SMALL, IN_CONTEXT, lead="runs"
        ),
        speed_block(PAPER),
    ),
)
