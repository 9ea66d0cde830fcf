"""Many runs: whoever dies, diverges or interrupts, all others end as they would have; and one table tells of them."""

from __future__ import annotations

import io
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.runs.config import RunConfig
from experiments.runs.logs import read_lines
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, Every
from experiments.sweeps import processes as process_engine
from experiments.sweeps import ray_cluster as ray_engine
from experiments.sweeps import sweep as sweeps
from experiments.sweeps.progress import Progress, Tally, duration, table
from experiments.sweeps.sweep import sweep
from experiments.sweeps.waiting_groups import Work, grouped, outcome
from experiments.training.trainer import Trainer
from tests.experiments.test_training import files_of, tiny, trained

VARIANTS = ("classic", "value", "value-stop", "value-gradient-only")


def short(variant: str, seed: int = 0, **changes: Any) -> RunConfig:
    return tiny(variant, seed, **({"steps": 30, "evaluate_at": (Every(5),), "n_eval": 50} | changes))


EIGHT = [short(variant, seed) for variant in VARIANTS for seed in (0, 1)]
UNLUCKY, POISON = short("value", 1), short("value-stop", 0, steps=31)
WILD = short("value", 1, optimizer=SGD(rate=1e30))


@pytest.mark.parametrize("workers", [0, -2])
def test_no_workers_are_refused_before_anything_is_made(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be a whole number of at least 1, got {workers}"):
        sweep(EIGHT, tmp_path / "runs", workers)
    assert not (tmp_path / "runs").exists()


# --- workers that die -------------------------------------------------------------------------------------------------


def serve_dying(parent: Any, device: str) -> None:
    """A worker that is killed in the middle of the unlucky run once, and in the middle of the poison always."""
    real = Trainer.update

    def update(self: Trainer, batch: Any) -> None:
        died = self.run.path.parent / "died"
        unlucky = self.run.config == UNLUCKY and not died.exists()
        if self.step == 17 and (unlucky or self.run.config == POISON):
            if unlucky:
                died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, batch)

    Trainer.update = update  # type: ignore[method-assign] # in this process alone
    process_engine._serve(parent, device)


@pytest.mark.slow
def test_whoever_dies_or_diverges_the_others_end_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [trained(tmp_path / "whole", config) for config in EIGHT]
    monkeypatch.setattr(process_engine, "_serve", serve_dying)
    configs, root = [*EIGHT, POISON, WILD], tmp_path / "disturbed"
    (dying,) = [group for group in grouped(all_at(root, configs), 2) if POISON in [run.config for run in group]]
    assert len(dying) > 1, "others must die with it at first"
    with pytest.raises(RunError, match=r"^2 runs are not finished, the others are:") as told:
        sweep(configs, root, workers=2, progress=False, retries=1)
    given_up = f"{POISON.name} was given up: the process that trained it died 2 times, the last time by SIGKILL"
    assert given_up in str(told.value)
    assert "use fewer workers or a smaller n_eval" in str(told.value)
    assert f"{WILD.name} diverged" in str(told.value)
    assert (root / "died").exists(), "the unlucky one must have died"
    for one, other in zip(whole, all_at(root, EIGHT), strict=True):
        assert files_of(one) == files_of(other)


def test_workers_that_cannot_begin_are_not_started_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_engine, "_serve", sorted)  # which takes no pipe
    with pytest.raises(RunError, match="1 worker processes ended before they could begin, the last with exit code 1"):
        sweep(EIGHT, tmp_path, workers=2, progress=False, retries=0)


# --- runs that fail ---------------------------------------------------------------------------------------------------


def test_runs_that_diverge_stop_no_other(tmp_path: Path) -> None:
    wild = [WILD, short("value-stop", 0, optimizer=SGD(rate=1e30))]
    with pytest.raises(RunError) as told:
        sweep([*wild, *EIGHT], tmp_path, workers=1, progress=False)
    assert str(told.value).startswith("2 runs are not finished, the others are:")
    for config in wild:
        assert f"- {config.name} diverged: its test loss at step" in str(told.value)
    assert all(run.finished for run in all_at(tmp_path, EIGHT))


def test_what_went_wrong_with_several_runs_is_told_once(tmp_path: Path) -> None:
    work = work_of(tmp_path, EIGHT[:3])
    runs = [run for group in work.waiting for run in group]
    for run, why in zip(runs, ("no tokenizer", "no tokenizer", "another"), strict=True):
        work.ended([run], RuntimeError(why))
    with pytest.raises(RunError, match=r"3 runs are not finished, .*:\n- no tokenizer \(2 runs\)\n- another$"):
        work.conclude()


def test_a_run_in_use_does_not_keep_its_group_from_training(tmp_path: Path) -> None:
    two = [short("classic"), short("value")]
    with Run.at(tmp_path, two[0]).locked(), pytest.raises(RunError, match=f"another process is training .*{two[0].id}"):
        sweep(two, tmp_path, workers=1, progress=False)
    assert [run.finished for run in all_at(tmp_path, two)] == [False, True]


def all_at(root: Path, configs: list[RunConfig]) -> list[Run]:
    return [Run.at(root, config) for config in configs]


def work_of(root: Path, configs: list[RunConfig], retries: int = 1) -> Work:
    runs = all_at(root, configs)
    return Work(grouped(runs, 1), retries, Progress({run.path.name: 30 for run in runs}, show=False))


def test_who_runs_out_of_memory_is_tried_again_alone(tmp_path: Path) -> None:
    work = work_of(tmp_path, EIGHT[::2])
    group = work.next()
    assert len(group) == 2
    work.ended(group, MemoryError("DefaultCPUAllocator: can't allocate memory"))
    assert [len(g) for g in work.waiting] == [2, 1, 1]
    work.conclude()
    work.ended([group[0]], MemoryError("again"))
    with pytest.raises(RunError, match=r"died 2 times, the last time out of memory \(again\)"):
        work.conclude()


def test_errors_on_their_way_between_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Run.at(tmp_path, short("value")).path

    def ends_with(error: BaseException) -> Exception | None:
        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr("experiments.sweeps.waiting_groups.train", fail)
        return outcome([path], "cpu", lambda *_: None, lambda: False)

    assert ends_with(KeyboardInterrupt()) is None
    assert isinstance(ends_with(MemoryError()), MemoryError)
    assert isinstance(ends_with(RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")), MemoryError)
    assert str(ends_with(RunError("diverged"))) == "diverged"
    assert "ZeroDivisionError: a bug" in str(ends_with(ZeroDivisionError("a bug")))


# --- what costs nothing, and what is refused ----------------------------------------------------------------------


def test_what_is_finished_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [Run.open(run.path) for run in sweep(EIGHT[:1], tmp_path, progress=False)]
    before = first[0].path.stat().st_mtime_ns, files_of(first[0])
    seen: list[list[str]] = []
    real = sweeps._train_here

    def watched(work: Work, *rest: Any) -> None:
        seen.extend([run.path.name for run in group] for group in work.waiting)
        real(work, *rest)

    monkeypatch.setattr(sweeps, "_train_here", watched)
    runs = sweep([*EIGHT[:3], EIGHT[2]], tmp_path, workers=1, progress=False)
    assert [run.config for run in runs] == [*EIGHT[:3], EIGHT[2]], "in order, and one asked for twice is there twice"
    assert sorted(name for group in seen for name in group) == sorted(config.name for config in EIGHT[1:3])
    assert (first[0].path.stat().st_mtime_ns, files_of(first[0])) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "eager"}, "unknown engine 'eager': there are 'processes', 'ray'"),
        ({"compute": "compile"}, "unknown way to compute 'compile': did you mean 'compiled'"),
        ({"retries": -1}, "retries must be 0 or more, got -1"),
        ({"gpu_share": 2.0}, "gpu_share must be above 0 and at most 1"),
    ],
)
def test_mistakes_are_refused_before_anything_is_made(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(EIGHT, tmp_path, progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "find_spec", lambda _: None)
    with pytest.raises(RunError, match=r"Ray is not installed; it is an extra: pip install 'valuestream\[ray\]'"):
        sweep(EIGHT, tmp_path, engine="ray")
    assert not list(tmp_path.iterdir())


# --- interrupts -------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from experiments.runs.training_config import Every
from experiments.sweeps.sweep import sweep
assert not {{"rich.live", "rich.table", "ray"}} & set(sys.modules), "they are imported once they are needed"
from tests.experiments.test_sweep import short
try:
    sweep([short(v, 0, steps=20_000) for v in ("classic", "value")], {root!r}, workers=2)
except KeyboardInterrupt:
    print("interrupted")
"""


def start(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT.format(root=str(root))]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes)


def wait_for(root: Path, what: str, number: int) -> None:
    deadline = time.monotonic() + 120
    while sum(file.stat().st_size > 0 for file in root.glob(what)) < number:
        assert time.monotonic() < deadline, f"no {what} in two minutes"
        time.sleep(0.05)


def test_ctrl_c_while_workers_begin(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(tmp_path, "*/run.json", 2)
    time.sleep(0.5)  # for the handler, and the first worker
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all get it
    out, said = process.communicate(timeout=60)
    assert (out, process.returncode) == ("interrupted\n", 0), said
    assert "Traceback" not in said, said
    assert "2 runs: 0 done, 0 running, 0 failed, 2 waiting" in said.splitlines()[-1]


@pytest.mark.slow
def test_workers_whose_parent_is_killed_save_and_end(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(tmp_path, "*/metrics.jsonl", 2)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.communicate(timeout=60)
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert gone
    assert not alive
    assert len(list(tmp_path.glob("*/state.safetensors"))) == len(list(tmp_path.glob("*/sessions.jsonl"))) == 2


def serving(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if process_engine.WORKER in child.cmdline()]


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_saves_and_another_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(tmp_path, "*/metrics.jsonl", 2)
    first, *_ = workers = serving(process)
    first.send_signal(signal.SIGTERM)
    psutil.wait_procs([first], timeout=30)
    wait_for(tmp_path, "*/sessions.jsonl", 1)
    (saved,) = tmp_path.glob("*/sessions.jsonl")
    seen = len(read_lines(saved.with_name("metrics.jsonl")))
    deadline = time.monotonic() + 60
    while len(read_lines(saved.with_name("metrics.jsonl"))) <= seen:
        assert time.monotonic() < deadline, "nobody goes on in its place"
        time.sleep(0.2)
    assert set(serving(process)) - set(workers)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: all get it
    out, said = process.communicate(timeout=60)
    assert (out, process.returncode) == ("interrupted\n", 0), said
    assert len(read_lines(saved)) == 2, "both who trained it saved it"
    assert len(list(tmp_path.glob("*/state.safetensors"))) == 2


# --- the table --------------------------------------------------------------------------------------------------------


def told(monkeypatch: pytest.MonkeyPatch) -> Tally:
    clock = itertools.count(100.0, 10.0)
    monkeypatch.setattr("experiments.sweeps.progress.time.monotonic", lambda: next(clock))
    tally = Tally({"a": 1_000, "b": 1_000, "c": 1_000, "d": 1_000})
    tally.states["a"] = "done"
    tally.states["b"] = "failed"
    tally.report("c", 500, 0.25, 100.0)
    return tally


def test_speed_is_of_this_sitting_and_the_rest_is_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = told(monkeypatch)
    assert tally.sentence() == "4 runs: 1 done, 1 running, 1 failed, 1 waiting; 0 steps/s"
    tally.report("c", 520, 0.5, 102.0)
    assert math.isinf(tally.left), "the first step may be one that is compiled"
    tally.report("c", 600, 0.5, 110.0)
    tally.look(110.0)
    assert tally.sentence() == "4 runs: 1 done, 1 running, 1 failed, 1 waiting; 10 steps/s, 141 s left"
    tally.report("c", 300, 0.5, 110.0)  # its worker died, and it went on from where it was saved
    tally.report("c", 400, 0.5, 120.0)
    tally.look(120.0)
    assert tally.speed == 10.0
    assert tally.left == pytest.approx(160.0, rel=0.02)
    tally.look(185.0)
    assert tally.speed == 0.0, "only the last minute counts"
    tally.states["c"] = "done"
    tally.states["d"] = "done"
    assert tally.sentence() == "4 runs: 3 done, 0 running, 1 failed, 0 waiting; 10 s"


def test_times_in_words() -> None:
    assert [duration(s) for s in (3.2, 89.0, 300.0, 7_500.0)] == ["3 s", "89 s", "5 min", "2 h 05 min"]


def test_the_table_shows_some_running_runs() -> None:
    from rich.console import Console

    tally = Tally({f"icl-value-small-s{i}-0123456789ab": 2_000 for i in range(12)})
    for i, name in enumerate(tally.steps):
        tally.report(name, 1_000 + i, i / 100 if i else float("nan"), 0.0)
    out = io.StringIO()
    Console(file=out, width=80).print(table(tally))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("12 runs: 0 done, 12 running")
    assert lines[1].split() == ["run", "step", "of", "accuracy"]
    assert lines[2].split() == ["icl-value-small-s0-0123456789ab", "1,000", "2,000", "-"]
    assert lines[-1].split() == ["and", "4", "more"]
    assert len(lines) == 11


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_table_and_a_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, str] = {}
    for name, stream in {"terminal": Terminal(), "log": io.StringIO()}.items():
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with Progress({"first": 10, "second": 10}) as progress:
            progress.seconds = 0.0
            progress.report("first", 5, 0.5)
            progress.set("first", "done")
        shown[name] = stream.getvalue()
    assert "\x1b[" in shown["terminal"]
    assert "accuracy" in shown["terminal"]
    assert shown["log"].splitlines() == [
        "2 runs: 0 done, 1 running, 0 failed, 1 waiting; 0 steps/s",
        "2 runs: 1 done, 0 running, 0 failed, 1 waiting; 0 s",
    ]


def test_a_notebook_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("experiments.sweeps.progress.in_notebook", lambda: True)
    with Progress({"first": 10, "second": 10}) as progress:
        progress.seconds = 0.0
        progress.report("first", 5, 0.5)
        assert progress._bar.n == 5
        progress.set("first", "done")
        progress.report("second", 2, 0.5)
        assert (progress._bar.n, progress._bar.total) == (12, 20)
    assert "2 runs: 1 done, 1 running" in stream.getvalue()
    with Progress({"first": 10}, show=False) as silent:
        assert silent._bar is None


def test_a_run_that_ended_counts_while_its_group_still_trains(tmp_path: Path) -> None:
    first, second = all_at(tmp_path, EIGHT[:2])
    sweep([first.config], tmp_path, workers=1, progress=False)
    work = work_of(tmp_path, EIGHT[:2])
    work.progress.set(first.path.name, "running")
    work.look([[first, second]])
    assert work.progress.tally.states[first.path.name] == "done"
    assert work.progress.tally.states[second.path.name] == "waiting"
