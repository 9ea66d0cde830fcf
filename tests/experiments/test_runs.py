"""Run directories: found by any of their names, refused where they are not what they say."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from experiments.runs.frames import parquet_bytes
from experiments.runs.pooling import all_metrics, require_seeds
from experiments.runs.record import DamagedRunWarning, RunError
from experiments.runs.run import Run
from experiments.runs.table import runs_table
from experiments.tasks.kinds import task_name
from experiments.tasks.registry import MADE_BY, USUAL
from tests.experiments.test_training import tiny, trained
from tests.helpers import rewrite


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return trained(tmp_path, tiny())


def test_a_run_is_plain_files(run: Run) -> None:
    names = {str(f.relative_to(run.path)) for f in run.path.rglob("*") if f.is_file()}
    steps = {f"checkpoints/step_{step:08d}.safetensors" for step in (0, 6, 12)}
    assert names == {"run.json", "metrics.parquet", "sessions.jsonl", ".lock", *steps}
    record = json.loads((run.path / "run.json").read_text())
    assert record["id"] == run.config.id
    assert record["status"] == "finished"
    assert {"python", "torch", "transformer-lens", "numpy", "valuestream", "git"} == set(record["environment"])
    assert set(record["checkpoints"]) == {"0", "6", "12"}


def test_metrics_are_tidy(run: Run) -> None:
    metrics = run.metrics()
    assert list(metrics.columns) == ["step", "split", "measure", "value"]
    assert not metrics.duplicated(["step", "split", "measure"]).any()
    assert len(metrics) == 4 * 4 * 6


def test_found_by_path_name_id_or_beginning(run: Run, tmp_path: Path) -> None:
    for name in (run.path, run.path.name, run.config.id, "icl-value", run.path.name[:-4], run.config.id[:5]):
        assert Run.find(name, tmp_path).path.name == run.path.name
    trained(tmp_path, tiny(seed=1))
    with pytest.raises(RunError, match=r"'icl-value' fits 2 runs: icl-value-small-s0-.*, icl-value-small-s1-"):
        Run.find("icl-value", tmp_path)
    with pytest.raises(RunError, match=r"unknown run 'icl-valeu-small-s0': did you mean .*'icl-value-small-s0"):
        Run.find("icl-valeu-small-s0", tmp_path)
    with pytest.raises(RunError, match="there are no runs in .*; train one with 'valuestream train icl'"):
        Run.find("x", tmp_path / "nowhere")


def test_tables_of_runs(run: Run, tmp_path: Path) -> None:
    table = runs_table(tmp_path)
    columns = ["variant", "preset", "seed", "status", "step"]
    assert list(table.loc[0, columns]) == ["value", "small", 0, "finished", 12]
    assert [r.path for r in Run.under(tmp_path)] == [run.path]
    assert runs_table(tmp_path / "nowhere").empty


def test_tasks_are_called_after_their_kinds() -> None:
    names = {task_name(kind.__name__): kind for kind in MADE_BY}
    assert {*names} == {"icl", "stories", "ioi", "repeats", "nested", "text", "books"}
    assert all(type(config) is names[name] for name, config in USUAL.items())


def test_results_are_written_and_read(run: Run) -> None:
    frame = pd.DataFrame({"layer": [0, 1], "value": [0.5, 0.25]})
    run.write_result("thing", frame)
    back = run.results("thing")
    assert back.drop(columns="run").equals(frame)
    assert (back.run == run.path.name).all()
    with pytest.raises(RunError, match=r"has no result 'thnig'; there are \['thing'\]"):
        run.results("thnig")


def test_metrics_of_no_runs_are_none(run: Run) -> None:
    with pytest.raises(ValueError, match="all_metrics is of one run or more, and got none; Run.under"):
        all_metrics(iter([]))
    require_seeds([])
    assert len(all_metrics([run])) == len(run.metrics())


def test_equal_frames_have_equal_bytes() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert parquet_bytes(frame) == parquet_bytes(frame.copy())


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory: it has no run.json"):
        Run.open(tmp_path)


def test_another_version_is_refused(run: Run) -> None:
    file = run.path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": "valuestream-run-9"}))
    with pytest.raises(RunError, match="has the format 'valuestream-run-9', this version reads 'valuestream-run-2'"):
        Run.open(run.path)


def test_a_half_written_record_is_refused(run: Run) -> None:
    file = run.path / "run.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(RunError, match="is half written or damaged .*; remove the run .* train it again"):
        Run.open(run.path)


@pytest.mark.parametrize("damage", ['{"half": ', "[]", '{"format": "valuestream-run-1"}', "\udcff"])
def test_one_damaged_run_hides_no_other(run: Run, tmp_path: Path, damage: str) -> None:
    bad = tmp_path / "aa-damaged"
    bad.mkdir()
    (bad / "run.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    with pytest.warns(DamagedRunWarning, match="aa-damaged is left out: .*damaged"):
        assert [found.path.name for found in Run.under(tmp_path)] == [run.path.name]
    assert Run.find(run.config.id, tmp_path).path == run.path, "what does not fit is not read"
    with pytest.raises(RunError, match="damaged"):
        Run.find("aa-damaged", tmp_path)


def test_one_run_with_a_damaged_log_hides_no_other(run: Run, tmp_path: Path) -> None:
    other = trained(tmp_path, tiny(seed=1))
    (other.path / "metrics.parquet").write_bytes(b"")
    with pytest.warns(DamagedRunWarning, match=r"s1-.* is left out: .*metrics\.parquet is missing or does not have"):
        assert list(runs_table(tmp_path).run) == [run.path.name]


def test_a_changed_configuration_is_refused(run: Run) -> None:
    rewrite(run, config=run.record["config"] | {"seed": 77})
    with pytest.raises(RunError, match="does not have the hash .*: the file was changed"):
        Run.open(run.path)


def test_changed_metrics_are_refused(run: Run) -> None:
    file = run.path / "metrics.parquet"
    file.write_bytes(parquet_bytes(run.metrics().assign(value=1.0)))
    with pytest.raises(RunError, match=r"metrics.parquet is missing or does not have the hash"):
        Run.open(run.path).metrics()


def test_changed_or_missing_checkpoints_are_refused(run: Run) -> None:
    with pytest.raises(RunError, match="has no checkpoint at step 7; the nearest is at 6"):
        run.load_model(7)
    first, last = run.checkpoint_path(0), run.checkpoint_path(12)
    last.write_bytes(first.read_bytes())
    with pytest.raises(RunError, match="does not have the hash that run.json states"):
        run.load_model()
    first.unlink()
    with pytest.raises(RunError, match="is missing"):
        run.load_model(0)


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    path.unlink()
    if how != "deleted":
        path.write_bytes(data[:-9] if how == "cut" else flipped)


def read(path: Path) -> None:
    run = Run.open(path)
    run.metrics()
    run.load_model()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("checkpoints/step_00000012.safetensors", how) for how in ("cut", "flipped", "deleted")),
        *(("metrics.parquet", how) for how in ("cut", "flipped", "deleted")),
        *(("run.json", how) for how in ("cut", "flipped")),
    ],
)
def test_what_is_said_of_a_damaged_run_brings_it_back(
    name: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained(tmp_path / "my runs", tiny())
    before = (whole.path / name).read_bytes()
    damaged(whole.path / name, how)
    with pytest.raises(RunError) as refused:
        read(whole.path)
    said = re.search(r"remove the run \('valuestream (.*)'\), then train it again", str(refused.value))
    assert said, refused.value
    assert main(shlex.split(said[1])) == 0
    capsys.readouterr()
    again = trained(tmp_path / "my runs", tiny())
    read(again.path)
    assert name == "run.json" or (again.path / name).read_bytes() == before


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no checkpoint yet; let it train on"):
        Run.at(tmp_path, tiny()).load_model()


@pytest.mark.slow
def test_a_script_sweeps_without_a_main_guard(tmp_path: Path) -> None:
    """Workers must not run the script again, which the standard library's spawned processes otherwise do."""
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import replace\n"
        "from experiments.runs.config import TRAINING, icl_run\n"
        "from experiments.sweeps.sweep import sweep\n"
        "print('once')\n"
        "training = replace(TRAINING['small'], steps=2, n_eval=32)\n"
        "runs = sweep([icl_run(v, 'small', 0, training) for v in ('classic', 'value')], 'runs', workers=2)\n"
        "print(*(run.status for run in runs))\n"
    )
    ran = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["once", "finished", "finished"]
