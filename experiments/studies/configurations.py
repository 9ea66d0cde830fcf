"""Whether the runs of a bundle are those that the experiments declare today, each under its name and condition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from circuits.common.text_table import rows_of
from experiments.studies.committed_results import Bundle
from experiments.studies.registry import EXPERIMENTS
from experiments.studies.study import Experiment, Size

Key = tuple[str, str, int, str]
"""Of an arm: condition, label, seed, and the id of its run."""
Checked = tuple[str, str, bool, str]
"""A row of :func:`experiments.studies.freshness.check`: kind, name, whether it is fresh, and why not."""
NOT_TRAINED, PARTLY = "not trained", "partly trained"


def declared(bundle: Bundle, experiments: Iterable[Experiment]) -> dict[str, set[Key]]:
    """Return the arms that experiments declare today, by name.

    They are those of the full size; of a bundle that holds no others than those of the miniature, these. To build them
    imports torch and takes seconds, so it is done once, and what is checked is given them.
    """
    experiments = list(experiments)
    full = {experiment.name: _arms(experiment, "full") for experiment in experiments}
    held = {name: _held(bundle, name) for name in full}
    if all(held[name] in (set(), arms) for name, arms in full.items()):
        return full
    small = {experiment.name: _arms(experiment, "miniature") for experiment in experiments}
    return small if all(held[name] <= arms for name, arms in small.items()) else full


def _arms(experiment: Experiment, size: Size) -> set[Key]:
    return {(arm.condition, arm.label, arm.config.seed, arm.config.id) for arm in experiment.arms(size)}


def _held(bundle: Bundle, name: str) -> set[Key]:
    arms = bundle.arms[bundle.arms.experiment == name]
    return {(str(row.condition), str(row.variant), int(row.seed), str(row.run)) for row in rows_of(arms)}


def checked_experiments(bundle: Bundle, declared: Mapping[str, set[Key]]) -> Iterator[Checked]:
    """Yield one row an experiment that is declared: one of which the bundle holds nothing is not trained, and not
    stale, nor is one with a plan of which some runs are still to come."""
    for name, wanted in declared.items():
        held = _held(bundle, name)
        waits = name in EXPERIMENTS and len(held) < EXPERIMENTS[name].declared
        why = _differs(held, wanted, lacking=not waits) if held else ""
        waiting = PARTLY if held and waits else "" if held or not wanted else NOT_TRAINED
        yield "experiment", name, not why, why or waiting


def checked_runs(bundle: Bundle, declared: Mapping[str, set[Key]]) -> Iterator[Checked]:
    """Yield one row a run of the bundle, and one an experiment of it that there is no more; ``declared`` are all."""
    ids = {run for arms in declared.values() for *_, run in arms}
    for row in rows_of(bundle.runs):
        there = row.run in ids
        yield "run", str(row.name), there, "" if there else "no experiment builds it"
    for name in {*bundle.arms.experiment} - {*EXPERIMENTS}:
        yield "experiment", str(name), False, "there is no experiment of that name"


def _differs(held: set[Key], wanted: set[Key], lacking: bool) -> str:
    """In what arms that are held differ from those that are wanted, or lack some of them; nothing if they do not."""
    other, runs = held - wanted, {run for *_, run in held}
    missing = {key for key in wanted - held if lacking and key[-1] not in runs}
    named: dict[str, Key] = {key[-1]: key for key in wanted}
    moved = [f"{_told(key)} is {_told(named[key[-1]])}" for key in sorted(other) if key[-1] in named]
    more = [_told(key) for key in sorted(other) if key[-1] not in named]
    parts = {"it lacks": [_told(key) for key in sorted(missing)], "not declared:": more, "misnamed:": moved}
    return "; ".join(f"{words} {_some(told)}" for words, told in parts.items() if told)


def _told(key: Key) -> str:
    condition, label, seed, _ = key
    return f"{label} ({condition}) with seed {seed}"


def _some(told: list[str]) -> str:
    return ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")
