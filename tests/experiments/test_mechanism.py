"""Heads and routes of trained runs, phase by phase."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from circuits.common.palette import BLUE
from experiments.runs.config import icl_run
from experiments.runs.training_config import At
from experiments.studies.collection import add_frames
from experiments.studies.committed_results import Bundle
from experiments.studies.heads_and_routes.asking import phases, study
from experiments.studies.heads_and_routes.study import by_phase, by_run, circuits, routes_by_phase
from figures.trainings.phases import phases as drawn_phases
from tests.experiments.test_bundle import TINY
from tests.experiments.test_training import trained
from tests.helpers import run_named


@pytest.fixture(scope="module")
def frames(trained_runs: Path) -> dict[str, pd.DataFrame]:
    return study([run_named(trained_runs, v) for v in ("classic", "value")], n=64, progress=False)


def test_phases_are_checkpoints_in_the_order_of_learning(trained_runs: Path) -> None:
    run = run_named(trained_runs, "value")
    at = phases(run)
    assert list(at) == ["before", "within", "after", "end"]
    assert set(at.values()) <= set(run.checkpoints())
    assert at["before"] < at["after"] <= at["end"] == 1_000
    curve = run.metrics().query("split == 'ic' and measure == 'accuracy'").set_index("step")["value"]
    assert curve[at["before"]] < 0.3
    assert curve[at["after"]] >= 0.95


def test_a_run_without_checkpoints_on_the_way_is_refused(tmp_path: Path) -> None:
    from experiments.sweeps.sweep import sweep

    [run] = sweep([icl_run("value", "small", 0, TINY)], tmp_path, workers=1, progress=False)
    with pytest.raises(ValueError, match=r"has 1 evaluated checkpoint\(s\); phases want several"):
        phases(run)


def test_checkpoints_between_evaluations_have_phases_too(tmp_path: Path) -> None:
    run = trained(tmp_path, icl_run("value", "small", 0, replace(TINY, checkpoint_at=(At((7,)),))))
    assert 7 not in set(run.metrics().step)
    assert phases(run)["within"] in (7, 30)


def test_every_row_says_what_it_is_of(frames: dict[str, pd.DataFrame]) -> None:
    for name, frame in frames.items():
        assert set(frame.variant) == {"classic", "value"}, name
        assert {"run", "seed", "preset"} <= set(frame.columns)
    assert set(frames["mechanism_patches"].phase) == {"before", "within", "after", "end"}


def test_the_previous_token_head_is_needed_with_the_stream_too(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    add_frames(frames, tmp_path)
    table: Any = by_phase(Bundle.open(tmp_path)).set_index(["variant", "phase"])
    for variant in ("classic", "value"):
        end = table.loc[(variant, "end")]
        assert end.accuracy > 0.95
        assert end["its keys' path cut"] < 0.5, "without what the first head tells the second's keys, nothing works"
    # The residual stream alone restores the run of a classic model, and not that of a value model.
    assert table.loc[("classic", "end"), "residual stream restored"] == pytest.approx(1.0, abs=0.1)
    assert table.loc[("value", "end"), "residual stream restored"] < 0.8
    assert table.loc[("value", "end"), "both restored"] == pytest.approx(1.0, abs=0.1)
    assert pd.isna(table.loc[("classic", "end"), "stream cut forward"])
    found = circuits(Bundle.open(tmp_path))
    assert "L0H0.v > L1H0.v (stream)" in set(found[found.variant == "value"].edge)
    assert not found[found.variant == "classic"].edge.str.contains("stream").any()


def test_phases_are_drawn_in_the_colours_of_their_routes(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    add_frames(frames, tmp_path)
    bundle = Bundle.open(tmp_path)
    frame = routes_by_phase(bundle)
    figure: Any = drawn_phases(frame, ["a", "b"], "a task", {"small": "small preset"})
    curves = {(trace.name, trace.xaxis): trace for trace in figure.data}
    assert ("stream cut forward", "x2") in curves, "of value"
    assert ("stream cut forward", "x") not in curves, "classic has none"
    assert curves["stream cut forward", "x2"].line.color == curves["stream restored", "x4"].line.color == BLUE
    assert {a.text for a in figure.layout.annotations} >= {"small preset: classic", "small preset: value"}
    end = by_run(bundle).set_index(["variant", "phase"])["stream restored"]["value", "end"]
    assert figure.layout.meta["title"].startswith("value's stream alone restores ")
    assert f"{end:.2f} at the end (small preset)" in figure.layout.meta["title"]
    assert figure.layout.meta["of"] == "a task; 1 run a variant (small preset)"
    without: Any = drawn_phases(frame[frame.variant == "classic"], ["a"])
    assert "stream" not in without.layout.meta["title"]
    assert without.layout.meta["title"].startswith("Accuracy at the end falls most with this:")
