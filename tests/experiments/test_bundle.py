"""The committed results: what goes in comes out, what was changed is named, and runs in it are not trained again."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from circuits.common.errors import UnknownNameError
from experiments.commands.sweep import sweep as sweep_command
from experiments.runs.config import TRAINING, RunConfig, icl_run
from experiments.runs.frames import frame_hash, parquet_bytes
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, Every
from experiments.studies import registry as paper
from experiments.studies.collection import add_frames, collect
from experiments.studies.committed_results import COMMITTED, Bundle, BundleError
from experiments.studies.study import SIZES, Arm, Experiment, Size
from experiments.sweeps import shared_engine
from experiments.sweeps.sweep import sweep
from experiments.training import engines
from tests.helpers import rewrite

TINY = replace(TRAINING["small"], steps=30, evaluate_at=(Every(10),), checkpoint_at=(), n_eval=50)


def tiny_arms(size: str = "full") -> list[Arm]:
    training = replace(TINY, gradients_at=(Every(10),))
    arms = [Arm(icl_run(v, "small", s, training)) for s in range(2) for v in ("classic", "value")]
    # One logs no gradients, so that frames with and without them stand beside each other.
    return [*arms[:3], Arm(icl_run("value", "small", 1, TINY))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    sweep([arm.config for arm in tiny_arms()], folder, workers=1, progress=False)
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(paper.EXPERIMENTS, "tiny", Experiment("tiny", tiny_arms))


@pytest.fixture
def bundle(root: Path, tiny: None, tmp_path: Path) -> Path:
    assert collect([root], tmp_path / "data", ["tiny"]) == {"tiny": (4, 4)}
    return tmp_path / "data"


def test_what_goes_in_comes_out(bundle: Path, root: Path) -> None:
    held = Bundle.open(bundle)
    for arm in tiny_arms():
        run = Run.find(arm.config.name, root)
        mine = held.metrics("tiny").query("run == @run.path.name")
        assert mine[["step", "split", "measure", "value"]].equals(run.metrics().round(5).set_index(mine.index))
        shares = held.gradients("tiny").query("run == @run.path.name")
        logged = run.gradients().stream_share.round(5).tolist() if run.config.training.gradients_at else []
        assert shares.stream_share.tolist() == logged
        row = held.runs.set_index("run").loc[arm.config.id]
        assert RunConfig.from_plain(json.loads(str(row.config))) == arm.config
        assert (row.status, row.steps, row.seed) == ("finished", 30, arm.config.seed)
    held.check_runs()


def test_collecting_again_keeps_what_is_only_in_the_bundle(bundle: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    assert collect([tmp_path / "nothing"], bundle, ["tiny"]) == {"tiny": (4, 4)}
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    with pytest.raises(BundleError, match=r"no finished run of tiny in .*nothing"):
        collect([tmp_path / "nothing"], tmp_path / "new", ["tiny"])


def test_unfinished_runs_stay_out_and_diverged_ones_count(tiny: None, root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(root, copy)
    wild = replace(TINY, optimizer=SGD(rate=1e6))
    arms = [*tiny_arms(), Arm(icl_run("value", "small", 7, wild))]
    paper.EXPERIMENTS["tiny"] = Experiment("tiny", lambda size: arms)
    with pytest.raises(RunError, match="diverged"):
        sweep([arms[-1].config], copy, workers=1, progress=False)
    rewrite(Run.at(copy, arms[0].config), status="running")
    assert collect([copy], tmp_path / "data", ["tiny"]) == {"tiny": (4, 5)}
    assert sorted(Bundle.open(tmp_path / "data").runs.status) == ["failed", "finished", "finished", "finished"]


def change(file: Path, edit: Any) -> None:
    frame = pd.read_parquet(file)
    edit(frame)
    file.write_bytes(parquet_bytes(frame))


def test_changed_results_name_their_run(bundle: Path) -> None:
    name = pd.read_parquet(bundle / "metrics.parquet").run.iloc[0]
    change(
        bundle / "metrics.parquet", lambda frame: frame.__setitem__("value", frame.value.where(frame.index > 0, 0.7))
    )
    with pytest.raises(BundleError, match=f"metrics of {name} do not have the hash"):
        Bundle.open(bundle)


def test_a_changed_configuration_names_its_run(bundle: Path) -> None:
    change(bundle / "runs.parquet", lambda frame: frame.__setitem__("config", frame.config.str.replace("0.1", "0.2")))
    change(bundle / "runs.parquet", lambda frame: frame.__setitem__("config", frame.config.str.replace("30", "31")))
    with pytest.raises(BundleError, match=r"configurations of .* do not have their hashes"):
        Bundle.open(bundle)


def test_other_changes_name_the_file(bundle: Path) -> None:
    change(bundle / "arms.parquet", lambda frame: frame.__setitem__("seed", frame.seed + 1))
    with pytest.raises(BundleError, match=r"arms\.parquet in .* does not have the hash"):
        Bundle.open(bundle)


def test_another_schema_and_missing_files_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no bundle of results"):
        Bundle.open(tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "gradients.parquet").unlink()
    with pytest.raises(BundleError, match=r"lacks gradients\.parquet"):
        Bundle.open(bundle)
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema": "valuestream-bundle-9"}))
    with pytest.raises(BundleError, match="has the schema 'valuestream-bundle-9', this version reads"):
        Bundle.open(bundle)
    with pytest.raises(BundleError, match="has the schema 'valuestream-bundle-9', this version reads"):
        add_frames({"more": pd.DataFrame({"x": [1.0]})}, bundle)
    assert not (bundle / "more.parquet").exists()


def test_names_that_it_does_not_hold(bundle: Path) -> None:
    held = Bundle.open(bundle)
    with pytest.raises(UnknownNameError, match="did you mean 'tiny'"):
        held.metrics("tny")
    with pytest.raises(UnknownNameError, match="did you mean 'metrics'"):
        held.frame("metric")


def test_frames_of_analyses_stand_beside_the_runs(bundle: Path) -> None:
    add_frames({"more": pd.DataFrame({"x": [1.0 / 3.0]})}, bundle)
    held = Bundle.open(bundle)
    assert held.frame("more").x.tolist() == [0.33333]
    assert held.has("more")
    assert not held.has("less")
    collect([], bundle, ["tiny"])
    assert Bundle.open(bundle).has("more")


def test_what_made_a_frame_stays_as_long_as_the_frame_does(bundle: Path, root: Path) -> None:
    add_frames({"more": pd.DataFrame({"x": [1.0]}), "less": pd.DataFrame({"x": [2.0]})}, bundle, {"mine.py": "0123"})
    made: dict[str, Any] = {"sources": {"mine.py": "0123"}, "runs": []}
    collect([root], bundle, ["tiny"])
    assert Bundle.open(bundle).made == {"less": made, "more": made}
    (bundle / "less.parquet").write_bytes(b"")
    collect([root], bundle, ["tiny"], afresh=True)
    assert Bundle.open(bundle).made == {"more": made}, "what is damaged goes, with what made it"


def test_hashes_are_of_what_is_held_not_of_how() -> None:
    frame = pd.DataFrame({"b": [0.123456789, 1.0], "a": ["x", "y"]})
    assert frame_hash(frame) == frame_hash(frame[["a", "b"]].astype({"a": "category"}))
    assert frame_hash(frame) == frame_hash(frame.round(5))
    assert frame_hash(frame) != frame_hash(frame.iloc[::-1])
    assert frame_hash(frame) != frame_hash(frame.assign(b=[0.12345, 1.0]))


# --- the command --------------------------------------------------------------------------------------------------


def run_sweep(bundle: Path, root: Path, again: bool = False) -> None:
    sweep_command(("tiny",), "processes", "full", 1, None, "cpu", 0, again, bundle, root)


def test_a_sweep_trains_nothing_that_the_bundle_holds(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sweep(bundle, tmp_path / "elsewhere")
    assert "4 of 4 runs are in the committed results" in capsys.readouterr().out
    assert not list((tmp_path / "elsewhere").glob("*"))
    arms = [*tiny_arms(), Arm(icl_run("classic", "small", 5, TINY))]
    paper.EXPERIMENTS["tiny"] = Experiment("tiny", lambda size: arms)
    run_sweep(bundle, tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "elsewhere").glob("icl*")] == [arms[-1].config.name]


@pytest.mark.slow
def test_what_is_missing_in_the_bundle_multiplies_as_what_it_holds(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "LEAST", 2**14)
    monkeypatch.setattr(engines, "CALIBRATE_FROM", 0)
    monkeypatch.setattr(shared_engine, "calibrated", lambda products, how: frozenset(products))
    missing = icl_run("classic", "small", 5, TINY)
    monkeypatch.setitem(paper.EXPERIMENTS, "tiny", Experiment("tiny", lambda size: [*tiny_arms(), Arm(missing)]))
    run_sweep(bundle, tmp_path)
    assert Run.at(tmp_path, missing).record["engine"] == "eager"
    run_sweep(tmp_path / "empty", tmp_path / "another")
    assert "oneDNN" in Run.at(tmp_path / "another", missing).record["engine"], "where nothing is held"


def test_unknown_experiments_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'connections'"):
        paper.configs(["conections"])


# --- what this repository holds -----------------------------------------------------------------------------------


@cache
def arms_of(name: str, size: Size) -> list[Arm]:
    """The arms of an experiment; to make those of all experiments takes seconds."""
    return paper.experiment(name).arms(size)


def test_the_committed_bundle_is_whole_and_small() -> None:
    held = Bundle.open(COMMITTED)
    held.check_runs()
    assert sum(file.stat().st_size for file in COMMITTED.iterdir()) < 20e6
    planned = {arm.config.id for name in paper.EXPERIMENTS for arm in arms_of(name, "full")}
    assert set(held.arms.run) <= planned, "every run of it is one that the named experiments describe"


def test_arms_of_a_condition_are_paired() -> None:
    for name in paper.EXPERIMENTS:
        for size in SIZES:
            arms = arms_of(name, size)
            keys = [(arm.condition, arm.label, arm.config.seed) for arm in arms]
            assert len(keys) == len(set(keys)), name
            tasks: dict[Any, set[Any]] = {}
            for arm in arms:
                tasks.setdefault((arm.condition, arm.config.seed), set()).add(arm.config.task)
            assert all(len(those) == 1 for those in tasks.values()), "within a condition, a seed has one task"


def test_runs_that_are_collected_at_once_are_all_kept(root: Path, tiny: None, tmp_path: Path) -> None:
    """Each keeps what the bundle holds, so neither may read it before the other has written."""
    arms = tiny_arms()
    roots = [tmp_path / "first", tmp_path / "second"]
    for part, some in zip(roots, (arms[:2], arms[2:]), strict=True):
        for arm in some:
            shutil.copytree(root / arm.config.name, part / arm.config.name)
    collect([roots[0]], tmp_path / "data", ["tiny"])
    shutil.rmtree(tmp_path / "data")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: collect([part], tmp_path / "data", ["tiny"]), roots))
    assert set(Bundle.open(tmp_path / "data").runs.run) == {arm.config.id for arm in arms}
