"""The command that repeats rows: refusals before anything is trained, one small run end to end, runs that diverge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.commands.rerun import _trained
from experiments.runs.config import TRAINING, icl_run
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, Adam, Every
from experiments.studies.collection import collect
from experiments.studies.committed_results import Bundle
from experiments.studies.registry import EXPERIMENTS
from experiments.studies.rerun import (
    fresh_times,
)
from experiments.studies.study import Arm, Experiment
from experiments.studies.times import compared, speed
from experiments.sweeps.sweep import sweep
from tests.experiments.test_cli import run

TINY = replace(TRAINING["small"], steps=40, optimizer=Adam(1e-2), evaluate_at=(Every(10),), checkpoint_at=(), n_eval=50)


def tiny_arms(size: str = "full") -> list[Arm]:
    return [Arm(icl_run(v, "small", seed, TINY)) for seed in range(2) for v in ("classic", "value")]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    made = Experiment("tiny", tiny_arms, measure="cla", threshold=0.15)
    monkeypatch.setitem(EXPERIMENTS, "tiny", made)
    return made


def test_what_cannot_be_is_said_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Experiment
) -> None:
    for words, message in (
        (["contrls"], "unknown experiment 'contrls': did you mean 'controls'"),
        (["tiny"], "unknown experiment in the bundle 'tiny'"),
        (["controls", "--rows", "value / clasic"], "did you mean 'value / classic'"),
        (["controls", "--seeds", "3", "40"], "the seeds [3] are not fresh"),
        (["controls", "--seeds", "new", "40"], "seeds are numbers, or new alone; got new"),
        (["controls", "--n", "1"], "two fresh seeds or more, got 1"),
    ):
        status, out, err = run(capsys, "rerun", *words, "--root", tmp_path / "runs")
        assert (status, out, message in err) == (2, "", True), err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_row_is_repeated_and_what_is_finished_is_only_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep([arm.config for arm in tiny_arms()], tmp_path / "old", workers=1, progress=False)
    collect([tmp_path / "old"], tmp_path / "data", ["tiny"])
    words = ["rerun", "tiny", "--root", tmp_path / "runs", "--bundle", tmp_path / "data", "--workers", 1]
    status, out, err = run(capsys, *words, "--json", "--quiet")
    assert (status, err) == (0, "")
    [row] = json.loads(out)["rerun"]
    assert (row["row"], row["pairs"], row["fresh_pairs"]) == ("value / classic", 2, 2)
    assert row["verdict"] in ("inside", "outside")
    made = {run.path.name: run for run in Run.under(tmp_path / "runs")}
    wanted = [replace(arm, config=replace(arm.config, seed=arm.config.seed + 2)) for arm in tiny_arms()]
    assert {*made} == {arm.config.name for arm in wanted}
    own = compared(Bundle.open(tmp_path / "data"), tiny)
    assert row["ratio"] == own.ratio[0]
    runs = fresh_times(tiny, wanted, {run.config.id: run for run in made.values()})
    assert row["fresh_ratio"] == pytest.approx(speed(runs).ratio[0])

    engines = {run.record["engine"] for run in (*made.values(), *Run.under(tmp_path / "old"))}
    assert len(engines) == 1, "they compute as those of the bundle"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(capsys, *words)
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is trained again"
    assert not [line for line in (out + err).split("\n") if len(line) > 80]
    assert "1 row falls inside" in out


def test_a_fresh_run_that_diverges_counts_and_one_that_is_not_there_does_not(tmp_path: Path) -> None:
    wild = Arm(icl_run("value", "small", 7, replace(TINY, optimizer=SGD(rate=1e6), steps=20)))
    found = _trained([wild], tmp_path, 1, "cpu", [])
    assert found[wild.config.id].status == "failed"
    with pytest.raises(RunError, match="another process is training"), Run.at(tmp_path, tiny_arms()[0].config).locked():
        _trained([tiny_arms()[0], wild], tmp_path, 1, "cpu", [])
