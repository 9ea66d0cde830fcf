"""Run directories between processes: what one wrote the other sees, what is gone stays gone, what was changed is told.

What happens at every moment and to every byte is in test_chaos.py, which is slow.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from filelock import lock_descriptor
from safetensors import safe_open
from safetensors.torch import save_file

from circuits import HookedStreamTransformer, icl_config, load_checkpoint, save_checkpoint
from circuits.checkpoint import HEADER, CheckpointError
from experiments.runs import locks
from experiments.runs.files import STATE
from experiments.runs.frames import DamagedFrameError, parquet_bytes, read_sealed, sealed_bytes
from experiments.runs.logs import DamagedLogError, append_line, line_of, read_lines
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.studies.changing import READY, changed_at_once, changing
from experiments.training import trainer as training
from experiments.training.stopping import told_to_stop
from experiments.training.together import train
from tests.experiments.test_training import files_of, tiny, trained

LONG = tiny(steps=18)


def stopped(root: Path, at: int) -> Run:
    run, asked = Run.at(root, LONG), iter(range(99))
    with pytest.raises(KeyboardInterrupt):
        train([run], stop=lambda: next(asked) == at)
    return run


def test_what_another_process_wrote_in_between_is_kept(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", LONG)
    first = Run.at(tmp_path / "runs", LONG)
    stopped(tmp_path / "runs", 14)
    assert first.checkpoints() == [], "it was opened before"
    train([first])
    assert first.checkpoints() == whole.checkpoints() == [0, 6, 12, 18]
    assert files_of(Run.at(tmp_path / "runs", LONG)) == files_of(whole)


def test_a_run_that_another_process_finished_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Run.at(tmp_path, LONG)
    trained(tmp_path, LONG)
    assert not first.finished

    def refuse(*_: object) -> None:
        raise AssertionError("no model may be made")

    monkeypatch.setattr(training.Trainer, "__init__", refuse)
    train([first])
    assert first.finished


@pytest.mark.parametrize("replaced", [False, True])
def test_a_directory_that_is_deleted_while_its_run_trains_is_not_made_again(tmp_path: Path, replaced: bool) -> None:
    run, other = Run.at(tmp_path, LONG), Run.at(tmp_path, tiny("classic", steps=18))
    asked = iter(range(99))

    def delete_at_nine() -> bool:
        if next(asked) == 9:
            shutil.rmtree(run.path)
            if replaced:
                Run.at(tmp_path, LONG)
        return False

    with pytest.raises(RunError, match=r"was deleted, moved or replaced while its run was trained.*same command again"):
        train([run, other], stop=delete_at_nine)
    assert Run.at(tmp_path, other.config).finished, "the other one is not to suffer"
    assert run.path.exists() == replaced
    if replaced:
        assert Run.at(tmp_path, LONG).metrics().empty, "the new one is left alone"
    train([Run.at(tmp_path, LONG)])
    assert Run.at(tmp_path, LONG).metrics().step.unique().tolist() == [0, 4, 8, 12, 16, 18]


def test_two_who_ask_at_once_whether_a_run_trains_do_not_take_each_other_for_its_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(tmp_path, 9)
    asking = os.open(run.path / ".lock", os.O_RDWR)
    assert lock_descriptor(asking, blocking=False)
    assert run.status == "running"
    monkeypatch.setattr(locks, "ASK_SECONDS", (0.0, 0.05, 2.0))
    threading.Timer(0.01, os.close, [asking]).start()
    assert run.status == "interrupted"


def test_without_fcntl_which_windows_lacks_everything_can_be_imported() -> None:
    names = "runs.directory, experiments.tasks.text.task, experiments.studies.changing, experiments.sweeps.sweep"
    code = f"import sys; sys.modules['fcntl'] = None; import experiments.{names}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_what_a_kill_at_the_very_end_left_behind_is_dropped_by_the_same_command(tmp_path: Path) -> None:
    run = trained(tmp_path, LONG)
    (run.path / STATE).write_bytes(b"left")
    (run.path / "metrics.jsonl").write_bytes(line_of([[0, "ic", "accuracy", 0.0]]))
    (run.path / f".{STATE}.123.tmp").write_bytes(b"half")
    expected = run.metrics()
    train([Run.at(tmp_path, LONG)])
    assert {file.name for file in run.path.iterdir()} == {
        "run.json", "metrics.parquet", "sessions.jsonl", ".lock", "checkpoints"
    }  # fmt: skip
    assert Run.at(tmp_path, LONG).metrics().equals(expected)


def test_files_do_not_leave_the_directory(tmp_path: Path) -> None:
    run, elsewhere = Run.at(tmp_path / "runs", LONG), tmp_path / "elsewhere"
    elsewhere.mkdir()
    frame = pd.DataFrame({"value": [1.0]})
    for name in ("../other", "a/b", "/tmp/x", ".hidden", "", "a b", "x\0"):
        with pytest.raises(ValueError, match="names no result: use letters, digits"):
            run.write_result(name, frame)
    assert run.write_result("patch.v2_last-1", frame).name == "patch.v2_last-1.parquet"
    shutil.rmtree(run.path / "results")
    (run.path / "results").symlink_to(elsewhere)
    with pytest.raises(RunError, match="results is a symbolic link"):
        run.write_result("patch", frame)
    (run.path / ".lock").symlink_to(elsewhere / "lock")
    with pytest.raises(RunError, match=r"\.lock is a symbolic link"):
        train([run])
    assert not list(elsewhere.iterdir())


def test_a_header_that_was_changed_is_told(tmp_path: Path) -> None:
    """The tensors are as they were; the step, or a gain of the model, is not."""
    run = stopped(tmp_path / "runs", 14)
    model = tmp_path / "model.safetensors"
    save_checkpoint(model, HookedStreamTransformer(icl_config("resformer-constant", "small")))
    for file, before, after in ((run.path / STATE, '"step":14', '"step":15'), (model, '"stream":0.5', '"stream":0.25')):
        with safe_open(file, "pt") as opened:
            header, tensors = opened.metadata()[HEADER], {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 # not a mapping
        assert before in header
        save_file(tensors, file, {HEADER: header})
        read = run.read_state if file.name == STATE else (lambda file=file: load_checkpoint(file))
        read()
        save_file(tensors, file, {HEADER: header.replace(before, after)})
        with pytest.raises((CheckpointError, RunError), match="does not have the hash that it states"):
            read()


def test_a_record_that_was_changed_is_told(tmp_path: Path) -> None:
    run = trained(tmp_path, LONG)
    file = run.path / "run.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"engine": "compiled"}))
    with pytest.raises(RunError, match=r"run\.json does not have the hash that it states: it was changed or damaged"):
        Run.open(run.path)
    first = {key: value for key, value in record.items() if key != "sha256"} | {"format": "valuestream-run-1"}
    file.write_text(json.dumps(first))
    assert Run.open(run.path).metrics().equals(run.metrics()), "records of the first version have no hash"


@pytest.mark.parametrize("value", [0.5 + 2**-40, float("nan"), -0.5])
def test_results_are_as_they_were_written_to_the_last_bit(tmp_path: Path, value: float) -> None:
    frame = pd.DataFrame(
        {"a": [0.5, 1e-300], "b": ["x", None], "c": pd.Categorical(["u", "v"]), "d": [1, 2], "e": [True, False]}
    )
    file = tmp_path / "frame.parquet"
    file.write_bytes(sealed_bytes(frame))
    assert read_sealed(file).equals(pd.read_parquet(file))
    seal = sealed_bytes(frame.assign(a=[value, 1e-300]))
    assert seal != file.read_bytes()
    file.write_bytes(parquet_bytes(frame))
    assert read_sealed(file).equals(pd.read_parquet(file)), "the first version's results have no seal"
    file.write_bytes(sealed_bytes(frame)[:-30])
    with pytest.raises(DamagedFrameError, match="cannot be read: it was changed or damaged"):
        read_sealed(file)


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    for value in ([1, "a"], {"b": 0.1}):
        append_line(file, value)
    whole = file.read_bytes()
    file.write_bytes(whole + line_of([2])[:5])
    assert read_lines(file) == [[1, "a"], {"b": 0.1}], "what was being written is no line yet"
    append_line(file, [3])
    assert read_lines(file) == [[1, "a"], {"b": 0.1}, [3]], "and is cut off before the next"
    file.write_bytes(whole.replace(b"0.1", b"0.2"))
    with pytest.raises(DamagedLogError, match="line 2 of .* was changed or damaged"):
        read_lines(file)
    file.write_bytes(b'[1, 2]\n{"first": "version"}\n')
    assert read_lines(file) == [[1, 2], {"first": "version"}]


# --- several files at once --------------------------------------------------------------------------------------------


def test_files_change_together_or_not_at_all(tmp_path: Path) -> None:
    with changing(tmp_path) as write:
        write({"a": b"1", "b": b"1"})
    (tmp_path / READY).mkdir()
    (tmp_path / READY / "b").write_bytes(b"2")  # "a" was moved already when the process died
    (tmp_path / "a").write_bytes(b"2")
    assert changed_at_once(tmp_path)
    assert not changed_at_once(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"2", "b": b"2"}


def test_only_one_process_changes_files_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with changing(tmp_path) as write:
            order.append("second")
            write({"a": b"2"})

    with changing(tmp_path) as write:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
        write({"a": b"1"})
    thread.join()
    assert order == ["first", "second"]
    assert (tmp_path / "a").read_bytes() == b"2"


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_that_end_a_process_stop_it_between_steps(tmp_path: Path, number: signal.Signals) -> None:
    run, asked = Run.at(tmp_path, LONG), iter(range(99))
    # Whoever runs the tests may ignore some, as nohup does.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with told_to_stop() as told:

            def stop() -> bool:
                if next(asked) == 7:
                    os.kill(os.getpid(), number)
                return told.is_set()

            with pytest.raises(KeyboardInterrupt):
                train([run], stop=stop)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert (run.status, run.step) == ("interrupted", 7)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with told_to_stop() as told:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not told.is_set(), "as under nohup"
    finally:
        signal.signal(signal.SIGHUP, before)
