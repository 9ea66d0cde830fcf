"""A run may die at any moment: what it ends with is what it would have been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from circuits.checkpoint import read_tensors
from experiments.runs.config import RunConfig
from experiments.runs.logs import read_lines
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import Every, GateChange
from experiments.sweeps.sweep import sweep
from experiments.training import trainer as training
from experiments.training.together import train
from tests.experiments.test_training import files_of, tiny, trained

CONFIG = tiny(
    steps=40, evaluate_at=(Every(5),), checkpoint_at=(Every(8),), gates=(GateChange(10, "stop"), GateChange(25, "full"))
)


def child(root: Path, die_at: int, config: RunConfig = CONFIG) -> None:
    """Train, and die by SIGKILL at the n-th of all moments when something is about to reach the disk or the weights."""
    moments = 0

    def dying(function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal moments
            moments += 1
            if moments == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    training.SAVE_SECONDS = 0.0
    os.fsync = dying(os.fsync)
    training.Trainer.update = dying(training.Trainer.update)  # type: ignore[method-assign] # in this process alone
    train([Run.at(root, config)])


def test_killed_ten_times_it_ends_with_the_bytes_of_an_uninterrupted_run(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", CONFIG)
    chance = random.Random(0)
    context = multiprocessing.get_context("fork")
    killed, steps = 0, []
    while killed < 10:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking is safe here: no other thread holds a lock
            process = context.Process(target=child, args=(tmp_path / "killed", chance.randrange(1, 24)))
            process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it must die before it ends, ten times"
        killed += 1
        state = tmp_path / "killed" / CONFIG.name / "state.safetensors"
        steps.append(read_tensors(state)[1]["step"] if state.exists() else 0)
    assert len(set(steps)) > 3, f"the run must get on between its deaths, it was at {steps}"
    assert steps[-1] < CONFIG.training.steps
    resumed = trained(tmp_path / "killed", CONFIG)
    assert files_of(resumed) == files_of(whole)


def test_a_finished_run_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, CONFIG)
    before = {name: (run.path / name).stat().st_mtime_ns for name in files_of(run)}

    def refuse(*_: Any) -> None:
        raise AssertionError("no model may be made")

    monkeypatch.setattr(training.Trainer, "__init__", refuse)
    train([Run.at(tmp_path, CONFIG)])
    assert sweep([CONFIG], tmp_path, progress=False)[0].finished
    assert {name: (run.path / name).stat().st_mtime_ns for name in files_of(run)} == before


def test_stopping_saves_and_the_same_call_goes_on(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", CONFIG)
    run = Run.at(tmp_path / "stopped", CONFIG)
    asked = iter(range(1_000))
    with pytest.raises(KeyboardInterrupt):
        train([run], stop=lambda: next(asked) == 17)
    sessions = read_lines(run.path / "sessions.jsonl")
    assert [(s["from"], s["to"]) for s in sessions] == [(0, 17)]
    assert Run.open(run.path).status == "interrupted"
    assert Run.open(run.path).metrics().step.max() == 15
    assert files_of(trained(tmp_path / "stopped", CONFIG)) == files_of(whole)


def test_runs_at_different_steps_catch_up_with_each_other(tmp_path: Path) -> None:
    configs = [CONFIG, tiny("classic", steps=40)]
    whole = [trained(tmp_path / "whole", config) for config in configs]
    first = Run.at(tmp_path / "late", configs[0])
    asked = iter(range(1_000))
    with pytest.raises(KeyboardInterrupt):
        train([first], stop=lambda: next(asked) == 9)
    train([Run.at(tmp_path / "late", config) for config in configs])
    for one, other in zip(whole, configs, strict=True):
        assert files_of(one) == files_of(Run.at(tmp_path / "late", other))


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    run = Run.at(tmp_path, CONFIG)
    script = (
        "import sys; from experiments.runs.run import Run\n"
        "with Run.open(sys.argv[1]).locked():\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process is training .*; wait for it, or stop it first"):
            train([run])
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
    train([run])
    assert Run.open(run.path).finished, "the lock went with the process"


def test_a_full_disk_is_explained_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", CONFIG)
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match="no space left on the disk while writing into .*free some space and give the same"
    ):
        train([Run.at(tmp_path / "full", CONFIG)])
    monkeypatch.setattr(os, "fsync", real)
    assert not list((tmp_path / "full").rglob("*.tmp"))
    assert files_of(trained(tmp_path / "full", CONFIG)) == files_of(whole)


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (1, signal.SIGTERM),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_closes_cleanly_and_says_how_to_go_on(
    tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "experiments.cli", "train", "icl", "--variants", "classic", "value", "--preset"]
    command += ["small", "--steps", "1500", "--root", str(tmp_path), "--workers", str(workers)]
    # Tests that run under nohup ignore SIGHUP, and what they start would too.
    heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not any(f.stat().st_size for f in tmp_path.glob("*/metrics.jsonl")):
        time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted; every run is saved: give the same command again to go on" in said
    runs = [Run.open(path.parent) for path in tmp_path.glob("*/run.json")]
    assert len(runs) == 2
    started = [run for run in runs if (run.path / "state.safetensors").exists()]
    assert started, "what had begun is saved"
    assert all(run.status == "interrupted" for run in runs)
