"""Curves of runs that were measured at different steps, pooled and compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from analysis import over_seeds
from analysis.statistics.curves import effects_over_runs, with_differences, with_held_ends, with_shared_points
from figures.curves import curve_of


def line(seed: int, steps: Sequence[int], slope: float, variant: str = "value") -> pd.DataFrame:
    """A run whose loss falls along a line."""
    values = 1 - slope * np.array(steps)
    return pd.DataFrame(
        {"variant": variant, "seed": seed, "split": "validation", "step": steps, "value": values}
    ).assign(measure="loss", tokens=lambda rows: 2 * rows.step)


def test_means_over_seeds_that_were_measured_at_different_steps_are_those_of_the_curves() -> None:
    frame = pd.concat([line(0, (0, 10, 40), 0.01), line(1, (0, 25, 30, 40), 0.02)])
    pooled = over_seeds(frame)
    assert list(pooled.value) == list(frame.value), "what was measured is all that there is"
    assert (pooled.n == 2).all()
    assert pooled["mean"].to_numpy() == pytest.approx(1 - 0.015 * pooled.step.to_numpy())
    assert list(curve_of(pooled).step) == [0, 10, 25, 30, 40]


def test_no_curve_is_read_beyond_its_ends_nor_at_the_step_where_another_ended() -> None:
    frame = pd.concat([line(0, (0, 10, 25), 0.01), line(1, (0, 10, 20, 30, 40), 0.02)])
    shared = with_shared_points(frame, ["variant"], "seed", "step")
    more = shared.iloc[len(frame) :]
    assert list(zip(more.seed, more.step, strict=True)) == [(0, 20)]
    assert more["value"].item() == pytest.approx(0.8)
    assert list(curve_of(over_seeds(frame)).step) == [0, 10, 20]


def test_runs_that_ended_because_they_had_learned_count_on_and_no_others() -> None:
    frame = pd.concat([line(0, (0, 10), 0.01), line(1, (0, 10, 20, 30), 0.02)])
    assert list(curve_of(over_seeds(frame)).step) == [0, 10], "why the first ended is not known"
    learned = over_seeds(frame.assign(stopped=lambda rows: rows.seed == 0))
    curve = curve_of(learned)
    assert list(curve.step) == [0, 10, 20, 30]
    assert curve["mean"].to_numpy() == pytest.approx([1, 0.85, (0.9 + 0.6) / 2, (0.9 + 0.4) / 2])
    assert len(learned) == len(frame), "what was measured is all that there is"
    more = with_held_ends(frame.assign(stopped=lambda rows: rows.seed == 0), ["variant"], "seed", "step")
    assert list(more.step[len(frame) :]) == [20, 30]
    both = over_seeds(frame.assign(stopped=False))
    assert list(curve_of(both).step) == [0, 10], "none had learned"


def test_intervals_of_losses_stay_above_0() -> None:
    frame = pd.concat([line(seed, (0, 10), slope) for seed, slope in enumerate((0.0999, 0.0, 0.0999))])
    at = over_seeds(frame).query("step == 10")
    assert (at["low"] > 0).all()
    assert (over_seeds(frame, scale="linear").query("step == 10")["low"] < 0).all()


def test_curves_of_equal_steps_are_left_as_they_are() -> None:
    frame = pd.concat([line(0, (0, 10, 20), 0.01), line(1, (0, 10, 20, 30), 0.02)])
    assert with_shared_points(frame, ["variant"], "seed", "step") is frame


def test_differences_are_to_the_reference_at_the_others_steps() -> None:
    frame = pd.concat([line(0, (0, 30, 40), 0.01, "classic"), line(0, (0, 15, 40), 0.03)])
    found = with_differences(frame, "loss")
    minus = found[found.measure != "loss"]
    assert list(minus.tokens) == [0, 30, 80]
    assert minus["value"].to_numpy() == pytest.approx([0, -0.3, -0.8])


def patched(seed: int, effect: float, run: str = "", **more: object) -> pd.DataFrame:
    """A run of which two sites were patched."""
    where = {"component": "v", "route": "own", "layer": [0, 1], "head": "all", "position": "all"}
    ends = {"effect": [effect, 2 * effect], "low": effect - 1, "high": effect + 1}
    return pd.DataFrame({"variant": "value", "seed": seed, "run": run or f"value-{seed}"} | where | ends | more)


def test_effects_are_means_over_runs_and_one_run_is_not_two() -> None:
    frame = pd.concat([patched(0, 0.2), patched(1, 0.6)])
    pooled = effects_over_runs(frame)
    assert pooled.effect.to_numpy() == pytest.approx([0.4, 0.8, 0.4, 0.8])
    alone = effects_over_runs(patched(0, 0.2))
    assert list(alone.low) == pytest.approx([-0.8, -0.8]), "of one run its own interval, over examples"
    for twice in (
        pd.concat([patched(0, 0.2, step=100), patched(0, 0.6, step=200)]),
        pd.concat([patched(0, 0.2), patched(0, 0.2, "value-of-another-size-0")]),
    ):
        with pytest.raises(ValueError, match="one comes twice"):
            effects_over_runs(twice)
