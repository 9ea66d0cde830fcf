"""Language models with enough seeds: information or gradient, which values, when, and with hierarchy, as declared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuits.config.streams import Gate, Stream
from circuits.config.topologies import First, Tables
from experiments.studies.declared import Declared
from experiments.studies.gate_windows import CHANGES
from experiments.studies.study import Arm, Experiment, Size, Study
from experiments.studies.tuning import condition_of, tuning_block

N_LAYERS = 4
_READERS = range(1, N_LAYERS)
_OWN_TABLES = tuple((layer, table) for table, layer in enumerate(_READERS))
MODELS: dict[str, tuple[Stream, ...]] = {
    "classic": (),
    "value": (Stream("v"),),
    "value-stop": (Stream("v", gate="stop"),),
    "value-gradient-only": (Stream("v", gate="gradient-only"),),
    "x0": (Stream("v", topology=Tables(_OWN_TABLES, of="x0")),),
    "token tables": (Stream("v", topology=Tables(_OWN_TABLES)),),
    "first": (Stream("v", topology=First()),),
}
"""The streams of the arms, all beside own values and into every layer but the first."""
RATES = (0.0015, 0.003, 0.006)
"""Those among which every arm has its best."""
TUNING_SEEDS = (20, 21)
STORIES = "0.2 million parameters, stories"
_NAMES = ("ioi train", "probability")
"""Split and measure by which a model has learned."""


def _run(arm: str, seed: int, size: str = "0.2m", task: Any = "stories", **training: Any) -> Arm:
    """The run of an arm, with other training than the size's own as far as it is given."""
    from experiments.runs.config import LM_TRAINING, lm_run

    trained = replace(LM_TRAINING[size], checkpoint_at=(), **training)
    run = lm_run(size, task, "classic", seed, trained, streams=MODELS[arm])
    # Called after the arm, and not after a variant that happens to have the same streams.
    return Arm(replace(run, variant=arm, model=replace(run.model, name=arm)), size)


def _until_learned() -> Any:
    from experiments.runs.training_config import StopAt

    return StopAt(0.7, _NAMES[0], 2, _NAMES[1])


def _at_rate(arm: str, seed: int, rate: float) -> Arm:
    from experiments.runs.training_config import AdamW

    return _run(arm, seed, optimizer=AdamW(rate=rate), stop_at=_until_learned())


def _tuning(size: Size) -> list[Arm]:
    return [
        replace(_at_rate(arm, seed, rate), condition=condition_of("AdamW", rate))
        for seed in (TUNING_SEEDS if size == "full" else ())
        for rate in RATES
        for arm in MODELS
    ]


def _window(arm: str, seed: int) -> Arm:
    from experiments.runs.training_config import Every, GateChange

    what, _, at = arm.partition(" at ")
    logged: dict[str, Any] = {"gradients_at": (Every(250),)}
    if not at:
        return _run(arm, seed, **logged)
    first, then = CHANGES[what]
    step = int(at.replace(",", ""))
    gates: tuple[tuple[int, Gate], ...] = ((0, first), (step, then))
    made = _run("value", seed, gates=tuple(GateChange(s, g) for s, g in gates if (s, g) != (0, "full")), **logged)
    return replace(made, config=replace(made.config, variant=arm, model=replace(made.config.model, name=arm)))


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
    declared=len(MODELS) * len(RATES) * len(TUNING_SEEDS),
)
# Its arms are those of the tuning at their best rates, which are not known before it is done.
SOURCES = Declared.of("lm-sources", None, STORIES, *_NAMES)
WINDOWS = Declared.of("lm-windows", _window, STORIES, *_NAMES)
MILLION = Declared.of("lm-sources-1m", _million, "1 million parameters, stories", *_NAMES)
NESTED = Declared.of("lm-nested-long", _nested, "0.2 million parameters, clauses inside clauses", "depth 1")
_ALL = (SOURCES, WINDOWS, MILLION, NESTED)
STUDY = Study(
    name="language_model_sources",
    question="Which values do language models need, and is it information or gradient?",
    experiments=(TUNING, *(each.experiment for each in _ALL)),
    pictures=tuple(each.picture for each in _ALL),
    blocks=(tuning_block(TUNING), *(block for each in _ALL for block in each.blocks)),
)
