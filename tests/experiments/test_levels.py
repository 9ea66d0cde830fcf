"""Evaluations that follow a run's own curve: never too many, close where it crosses levels, the same after any stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.commands.train import TrainICL, TrainLM
from experiments.runs.config import RunConfig, icl_run, lm_run
from experiments.runs.levels import WIDEST, AtLevels
from experiments.runs.run import Run
from experiments.runs.training_config import Adam, Every, StopAt, most_evaluations, scheduled
from experiments.studies.pages import _looks
from experiments.studies.times import THRESHOLDS
from experiments.training.stacked_seeds import train_stacked
from experiments.training.together import train
from tests.experiments.test_one_trainer import tiny_lm
from tests.experiments.test_training import files_of, tiny, trained
from tests.helpers import committed_curves, evaluated

FEW = settings(max_examples=60)
CURVES = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=30)
LEVELS = st.lists(st.floats(0, 1), min_size=1, max_size=5).map(tuple)


def piecewise(values: Sequence[float], total: int) -> Callable[[float], float]:
    """A curve that jumps from one value to the next."""
    return lambda step: values[min(int(step * len(values) / (total + 1)), len(values) - 1)]


# --- the schedule -----------------------------------------------------------------------------------------------------


def more_often(steps: Sequence[int], every: int, total: int) -> list[int]:
    """The steps up to which there were more evaluations than every so many, the last step apart."""
    return [step for i, step in enumerate(steps) if step < total and i > step // every]


@FEW
@given(CURVES, LEVELS, st.integers(1, 60), st.integers(1, 900))
def test_whatever_the_curve_no_step_is_reached_with_more_evaluations_than_of_every(
    values: list[float], levels: tuple[float, ...], n: int, total: int
) -> None:
    steps = evaluated(piecewise(values, total), total, AtLevels(levels, n))
    assert more_often(steps, n, total) == []
    assert len(steps) <= len(scheduled([Every(n)], total)) == most_evaluations([AtLevels(levels, n)], total)
    assert steps[0] == 0
    assert steps[-1] == total
    assert all(0 < gap <= WIDEST * n for gap in np.diff(steps))


def test_the_bound_is_used_where_a_curve_asks_for_it_and_more_would_be_seen() -> None:
    climbing = evaluated(lambda step: 1 - math.exp(-step / 300), 2_000, AtLevels((0.2, 0.4, 0.6, 0.8, 0.9), 50))
    assert max(i - step // 50 for i, step in enumerate(climbing)) == 0
    assert more_often(climbing, 51, 2_000), "a bound that is not kept"


@FEW
@given(CURVES, LEVELS, st.integers(1, 60))
def test_a_curve_that_falls_is_followed_as_its_mirror_image_that_rises(
    values: list[float], levels: tuple[float, ...], n: int
) -> None:
    rising, total = piecewise(values, 500), 500
    fallen = AtLevels(tuple(-level for level in levels), n)
    assert evaluated(rising, total, AtLevels(levels, n)) == evaluated(lambda step: -rising(step), total, fallen)


def test_what_comes_later_changes_nothing_before_and_another_curve_gives_other_steps() -> None:
    schedule = AtLevels((0.5, 0.95), 25)
    early, late = (evaluated(lambda s, c=c: sigmoid(s, c), 2_000, schedule) for c in (500, 900))
    assert early != late
    until = 400
    cut = evaluated(lambda step: sigmoid(step, 500) if step < until else 0.0, 2_000, schedule)
    assert [step for step in cut if step <= until] == [step for step in early if step <= until]
    assert cut != early


def test_beside_other_schedules_it_adds_evaluations_that_those_leave_over() -> None:
    def steps_beside(every: Every) -> list[int]:
        return evaluated(lambda step: sigmoid(step, 500), 1_000, every, AtLevels((0.5,), 25))

    seldom = steps_beside(Every(100, 30))
    assert len(seldom) <= most_evaluations((Every(100, 30), AtLevels((0.5,), 25)), 1_000)
    assert set(range(30, 1_001, 100)) < set(seldom)
    assert len([step for step in seldom if 430 < step <= 500]) == 4, "and Every has none of them"
    assert steps_beside(Every(10)) == list(range(0, 1_001, 10))


# --- what it is for ---------------------------------------------------------------------------------------------------


def sigmoid(step: float, centre: float, width: float = 60) -> float:
    return 1 / (1 + math.exp(-(step - centre) / width))


def first_above(curve: Callable[[float], Any], steps: Sequence[int], level: float) -> tuple[int, int]:
    """The evaluations between which a curve first crosses a level."""
    i = next(i for i, step in enumerate(steps) if curve(step) >= level)
    return steps[max(i - 1, 0)], steps[i]


@pytest.mark.parametrize("centre", [502, 601, 777, 1_004])
def test_a_known_crossing_is_found_to_two_percent_where_equal_distances_miss_it(centre: int) -> None:
    def curve(step: float) -> float:
        return sigmoid(step, centre)

    found = evaluated(curve, 2_000, AtLevels((0.5,), 25))
    equal = sorted(scheduled([Every(25)], 2_000))
    off = [first_above(curve, steps, 0.5)[1] / centre - 1 for steps in (found, equal)]
    assert off[0] <= 0.02 < off[1]
    assert len(found) <= len(equal)


def test_crossings_of_committed_curves_are_resolved_with_fewer_evaluations() -> None:
    """The thresholds of the studies, on the curves of all runs, between whose evaluations a smooth line is drawn."""
    shares: dict[str, list[np.ndarray]] = {"paper": [], "small": []}
    numbers: dict[str, list[float]] = {"paper": [], "small": []}
    for preset, total, today, curve in committed_curves():
        last = int(today[-1])
        found = evaluated(curve, total, AtLevels(THRESHOLDS, int(today[1])), last=last)
        assert len(found) <= len(today)
        numbers[preset].append(len(found) / len(today))
        for level in THRESHOLDS:
            if float(curve(0)) < level <= max(curve(today)) and level <= max(curve(found)):
                between = np.array([first_above(curve, list(steps), level) for steps in (found, today)])
                shares[preset].append(between[:, 1] <= 1.02 * between[:, 0])
    means = {preset: np.mean(each, axis=0) for preset, each in shares.items()}
    # Bounds, as more runs are committed: what was found of those that there were is 0.96, 0.44, 0.68; 0.59, 0.07, 0.86.
    close, usual = means["paper"]
    assert close > 0.9 > 0.6 > usual
    assert np.mean(numbers["paper"]) < 0.75
    # Of small runs many cross a level before as many evaluations are saved as it takes.
    close, usual = means["small"]
    assert close > 0.5 > 0.15 > usual
    assert np.mean(numbers["small"]) < 0.9


# --- training ---------------------------------------------------------------------------------------------------------

NEAR = AtLevels((3.4, 3.2, 3.0), 4, 0.1)


def following(variant: str = "value", seed: int = 0, **changes: Any) -> RunConfig:
    """A run that is watched by its loss and never stops by it."""
    usual = {"steps": 24, "evaluate_at": (NEAR,), "stop_at": StopAt(0.0, "test", 1, "loss"), "optimizer": Adam(3e-3)}
    return tiny(variant, seed, **(usual | changes))


def steps_of(run: Run) -> list[int]:
    return sorted(set(run.metrics().step))


def test_a_run_follows_its_own_curve_twice_with_the_same_bytes(tmp_path: Path) -> None:
    one, two = (trained(tmp_path / name, following()) for name in ("one", "two"))
    assert files_of(one) == files_of(two)
    losses = one.metrics().query("split == 'test' and measure == 'loss'").set_index("step")["value"]
    assert steps_of(one) == evaluated(losses.__getitem__, 24, NEAR)
    assert steps_of(one) != list(range(0, 25, 4)), "equal distances would be no test"


def test_stopped_after_every_step_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", following())
    run = Run.at(tmp_path / "stopped", following())
    while not run.finished:
        try:
            train([run], stop=partial(next, iter([False]), True))
        except KeyboardInterrupt:
            run = Run.open(run.path)
    assert files_of(run) == files_of(whole)


def test_runs_that_share_batches_or_a_stack_have_schedules_of_their_own(tmp_path: Path) -> None:
    variants = [following("classic"), following("value")]
    alone = [trained(tmp_path / "alone", config) for config in variants]
    runs = [Run.at(tmp_path / "together", config) for config in variants]
    train(runs)
    assert [files_of(run) for run in runs] == [files_of(run) for run in alone]
    seeds = [Run.at(tmp_path / "stacked", following(seed=seed)) for seed in range(3)]
    train_stacked(seeds)
    for run in seeds:
        assert steps_of(run) == steps_of(trained(tmp_path / "alone", run.config))
    assert len({tuple(steps_of(run)) for run in (*runs, *seeds)}) > 2, "curves differ, and so do their steps"


def test_a_language_model_follows_its_loss(tmp_path: Path) -> None:
    config = tiny_lm(steps=8, evaluate_at=(AtLevels((3.0,), 3),))
    run = trained(tmp_path, config)
    losses = run.metrics().query("split == 'validation' and measure == 'loss'").set_index("step")["value"]
    assert steps_of(run) == evaluated(losses.__getitem__, 8, AtLevels((3.0,), 3))


@pytest.mark.parametrize("level", [95.0, -0.5])
def test_levels_that_an_accuracy_cannot_have_are_refused_before_a_run_is_made(level: float) -> None:
    near = (AtLevels((0.25, level), 4),)
    said = rf"watched by its {{}}, which lies between 0 and 1; .* got \[{level}\]"
    with pytest.raises(ValueError, match=said.format("accuracy")):
        tiny(evaluate_at=near)
    with pytest.raises(ValueError, match=said.format("probability")):
        tiny_lm(evaluate_at=near, stop_at=StopAt(0.5, "ioi train", measure="probability"))
    assert tiny_lm(evaluate_at=near).watched == ("validation", "loss")
    assert tiny(evaluate_at=near, stop_at=StopAt(1.5, "ic", measure="loss")).watched == ("ic", "loss")
    assert icl_run("value", "small").watched == ("ic", "accuracy")
    assert lm_run("0.2m", "ioi").watched == ("validation", "loss")


# --- where it is said -------------------------------------------------------------------------------------------------


def test_the_command_line_gathers_evaluations_at_levels() -> None:
    [icl] = TrainICL(evaluate_levels=(0.5, 0.95)).configs()
    assert icl.training.evaluate_at == (AtLevels((0.5, 0.95), 25),)
    [lm] = TrainLM(evaluate_levels=(2.0,), evaluate_every=50).configs()
    assert lm.training.evaluate_at == (AtLevels((2.0,), 50),)
    [every] = TrainICL(evaluate_every=50).configs()
    assert every.training.evaluate_at == (Every(50),)
    assert len({icl.id, every.id, TrainICL().configs()[0].id}) == 3
    assert RunConfig.from_plain(icl.to_plain()) == icl


def test_pages_say_how_often_such_a_run_is_evaluated() -> None:
    [config] = TrainICL(evaluate_levels=(0.5, 0.95)).configs()
    assert _looks(config.essence())[0] == "25 steps or more in the mean, closer where it crosses 0.5, 0.95"
    assert _looks(TrainICL().configs()[0].essence())[0] == "25 steps"
