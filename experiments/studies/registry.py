"""All studies in order, and by name what they train, draw and say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from circuits.common.errors import known
from experiments.studies import (
    carriers,
    connections,
    controls,
    gate_windows,
    gradient,
    information,
    language_model_sources,
    language_models,
    optimisers,
    real_text,
    sources,
    thresholds,
    training_data,
)
from experiments.studies.associative_memory import study as associative_memory
from experiments.studies.heads_and_routes import study as heads_and_routes
from experiments.studies.indirect_objects import study as indirect_objects
from experiments.studies.interference import study as interference
from experiments.studies.learned_gains import gains_in_training
from experiments.studies.learned_gains import study as learned_gains
from experiments.studies.step_cost import study as step_cost
from experiments.studies.study import Experiment, Picture, RunConfig, Size, Study

_STREAM = (carriers, gradient, information, sources, interference, gate_windows, controls)
_WHERE = (connections, training_data, optimisers, thresholds)
_LANGUAGE = (language_models, language_model_sources, real_text, step_cost, indirect_objects)
_GAINS = (learned_gains, gains_in_training)
_ALL = (associative_memory, *_STREAM, *_WHERE, heads_and_routes, *_LANGUAGE, *_GAINS)
STUDIES: dict[str, Study] = {module.STUDY.name: module.STUDY for module in _ALL}
EXPERIMENTS: dict[str, Experiment] = {e.name: e for study in STUDIES.values() for e in study.experiments}
PICTURES: dict[str, Picture] = {p.name: p for study in STUDIES.values() for p in study.pictures}


def experiment(name: str) -> Experiment:
    """Return an experiment by name.

    Raises:
        UnknownNameError: for an unknown name (nearest suggested).
    """
    return EXPERIMENTS[known("experiment", name, EXPERIMENTS)]


def configs(names: Sequence[str], size: Size = "full") -> list[RunConfig]:
    """Return the configurations of several experiments, each once, in order."""
    return list(dict.fromkeys(arm.config for name in names for arm in experiment(name).arms(size)))


def pictures(names: Iterable[str]) -> list[Picture]:
    """Return pictures by name, all of them where none is named.

    Raises:
        UnknownNameError: for an unknown figure (nearest suggested).
    """
    return [PICTURES[known("figure", name, PICTURES)] for name in names] or list(PICTURES.values())
