"""Language models with enough seeds: information or gradient, which values, when, and with hierarchy, as declared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuits.common.errors import known
from circuits.config.streams import Stream
from circuits.config.topologies import First, Tables
from circuits.presets import LM_SIZES
from experiments.studies.declared import Declared
from experiments.studies.gate_windows import gates
from experiments.studies.language_models import NESTED_FINALS
from experiments.studies.study import Arm, Experiment, Size, Study
from experiments.studies.tuning import condition_of, tuning_block
from experiments.studies.wording import final_block

ARMS = ("classic", "value", "value-stop", "value-gradient-only", "x0", "token tables", "first")
"""All are beside own values and into every layer but the first."""
RATES = (0.0015, 0.003, 0.006)
"""Those among which every arm has its best."""
TUNING_SEEDS = (20, 21)
BEST = {
    "classic": 0.003,
    "value": 0.003,
    "value-stop": 0.003,
    "value-gradient-only": 0.006,
    "x0": 0.006,
    "token tables": 0.003,
    "first": 0.006,
}
"""By arm, the rate that was best in :data:`TUNING`: what is compared is not known before it."""
STORIES = "0.2 million parameters, stories"
_NAMES = ("ioi train", "probability")
"""Split and measure by which a model has learned."""


def streams_of(arm: str, size: str) -> tuple[Stream, ...]:
    """Return the streams of one of :data:`ARMS` in a model of a size; every reader of a table has one of its own.

    Raises:
        UnknownNameError: for another arm or size (nearest suggested).
    """
    readers = range(1, LM_SIZES[known("size", size, LM_SIZES)].n_layers)
    tables = tuple((layer, table) for table, layer in enumerate(readers))
    streams: dict[str, tuple[Stream, ...]] = {
        "classic": (),
        "value": (Stream("v"),),
        "value-stop": (Stream("v", gate="stop"),),
        "value-gradient-only": (Stream("v", gate="gradient-only"),),
        "x0": (Stream("v", topology=Tables(tables, of="x0")),),
        "token tables": (Stream("v", topology=Tables(tables)),),
        "first": (Stream("v", topology=First()),),
    }
    return streams[known("arm", arm, streams)]


def _run(
    arm: str,
    seed: int,
    size: str = "0.2m",
    task: Any = "stories",
    streams: tuple[Stream, ...] | None = None,
    **training: Any,
) -> Arm:
    """The run of an arm, with other streams and other training than its own and the size's as far as they are given."""
    from experiments.runs.config import LM_TRAINING, lm_run

    trained = replace(LM_TRAINING[size], checkpoint_at=(), **training)
    run = lm_run(size, task, "classic", seed, trained, streams=streams_of(arm, size) if streams is None else streams)
    # Called after the arm, and not after a variant that happens to have the same streams.
    return Arm(replace(run, variant=arm, model=replace(run.model, name=arm)), size)


def _until_learned() -> Any:
    from experiments.runs.training_config import StopAt

    return StopAt(0.7, _NAMES[0], 2, _NAMES[1])


def _at_rate(arm: str, seed: int, rate: float) -> Arm:
    from experiments.runs.training_config import AdamW

    return _run(arm, seed, optimizer=AdamW(rate=rate), stop_at=_until_learned())


def _at_best(arm: str, seed: int) -> Arm:
    return _at_rate(arm, seed, BEST[arm])


def _tuning(size: Size) -> list[Arm]:
    return [
        replace(_at_rate(arm, seed, rate), condition=condition_of("AdamW", rate))
        for seed in (TUNING_SEEDS if size == "full" else ())
        for rate in RATES
        for arm in ARMS
    ]


def _window(arm: str, seed: int) -> Arm:
    from experiments.runs.training_config import Every

    change, _, at = arm.partition(" at ")
    changes = {"gates": gates(change, int(at.replace(",", "")))} if at else {}
    return _run(arm, seed, streams=streams_of("value" if at else arm, "0.2m"), gradients_at=(Every(250),), **changes)


def _million(arm: str, seed: int) -> Arm:
    return _run(arm, seed, "1m", stop_at=_until_learned())


def _nested(arm: str, seed: int) -> Arm:
    from experiments.runs.training_config import StopAt
    from experiments.tasks.nested_relations import NestedConfig

    stop = StopAt(0.95, "depth 1", 2)
    return _run(arm, seed, task=NestedConfig(answers_only=True), steps=20_000, stop_at=stop)


TUNING = Experiment(
    "lm-tuning",
    _tuning,
    "Which rate is best for every language model?",
    split=_NAMES[0],
    measure=_NAMES[1],
    threshold=0.5,
    of=STORIES,
    declared=len(ARMS) * len(RATES) * len(TUNING_SEEDS),
)
SOURCES = Declared.of("lm-sources", _at_best, STORIES, *_NAMES)
WINDOWS = Declared.of("lm-windows", _window, STORIES, *_NAMES)
MILLION = Declared.of("lm-sources-1m", _million, "1 million parameters, stories", *_NAMES)
NESTED = Declared.of("lm-nested-long", _nested, "0.2 million parameters, clauses inside clauses", "depth 1")
_ALL = (SOURCES, WINDOWS, MILLION, NESTED)
STUDY = Study(
    name="language_model_sources",
    question="Which values do language models need, and is it information or gradient?",
    experiments=(TUNING, *(each.experiment for each in _ALL)),
    pictures=tuple(each.picture for each in _ALL),
    blocks=(
        tuning_block(TUNING),
        *(block for each in _ALL for block in each.blocks),
        final_block(
            "lm-nested-long-finals", "lm-nested-long: where models end", NESTED.experiment, NESTED_FINALS, lead="runs"
        ),
    ),
)
