"""Many runs on a Ray cluster: a node is lost, and every run ends with the bytes that it has on one machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.plugins import Additions, load_plugins
from experiments.runs.config import RunConfig
from experiments.runs.logs import read_lines
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import Every
from experiments.sweeps import ray_cluster as ray_engine
from experiments.sweeps.ray_cluster import last_seen, room
from experiments.sweeps.sweep import sweep
from experiments.sweeps.waiting_groups import Work
from tests.experiments.test_sweep import wait_for
from tests.experiments.test_training import files_of, tiny, trained

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
STORE = 200 * 1024**2


def short(variant: str, seed: int = 0, **changes: Any) -> RunConfig:
    return tiny(variant, seed, **({"steps": 60, "evaluate_at": (Every(5),), "n_eval": 50} | changes))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    yield started
    started.shutdown()


@pytest.mark.slow
def test_a_node_lost_in_the_middle_changes_no_byte(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [short(variant, seed, steps=400) for variant in ("classic", "value") for seed in (0, 1)]
    whole = [trained(tmp_path / "whole", config) for config in configs]
    root, node = tmp_path / "runs", cluster.add_node(num_cpus=1, object_store_memory=STORE)
    removing = threading.Thread(target=remove_once_two_train, args=(cluster, node, root))
    died: list[str] = []
    real = Work.died

    def watched(self: Work, group: list[Run], how: str) -> None:
        died.extend(run.path.name for run in group)
        real(self, group, how)

    monkeypatch.setattr(Work, "died", watched)
    removing.start()
    runs = sweep(configs, root, engine="ray", address=cluster.address, progress=False)
    removing.join()
    assert died, "a run must have been lost with its node"
    for one, other in zip(whole, runs, strict=True):
        assert files_of(one) == files_of(other)


def remove_once_two_train(cluster: Any, node: Any, root: Path) -> None:
    wait_for(root, "*/metrics.jsonl", 2)
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.slow
def test_an_interrupt_lets_every_run_save_itself(tmp_path: Path, cluster: Any) -> None:
    def interrupt() -> None:
        wait_for(tmp_path, "*/metrics.jsonl", 1)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        sweep([short("value", steps=50_000)], tmp_path, engine="ray", address=cluster.address, progress=False)
    interrupting.join()
    (session,) = (session for file in tmp_path.glob("*/sessions.jsonl") for session in read_lines(file))
    assert 0 < session["to"] < 50_000
    assert Run.at(tmp_path, short("value", steps=50_000)).status == "interrupted"


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
def test_a_plugins_kinds_are_known_in_every_task(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirrored_rules.py").write_text(
        "from dataclasses import dataclass\n"
        "from circuits import ComputedGain, Gain, Stream, register_gain, register_variant\n\n"
        "@dataclass(frozen=True)\nclass Mirrored(Gain):\n    pass\n\n"
        "class Mirror(ComputedGain[Mirrored]):\n"
        "    def __call__(self, mix, x):\n        return 1.0, [-1.0 for _ in mix.sources]\n\n"
        "register_gain(Mirrored, Mirror)\n"
        "register_variant('mirrored', lambda n: [Stream(gain=Mirrored())], 'V2 - V1')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["mirrored_rules"])
    configs = [short(variant, seed) for variant in ("mirrored", "mirrored-stop") for seed in (0, 1)]
    whole = [trained(tmp_path / "whole", config) for config in configs]
    runs = sweep(configs, tmp_path / "runs", engine="ray", address=cluster.address, progress=False)
    for one, other in zip(whole, runs, strict=True):
        assert files_of(one) == files_of(other)
    assert not Run.at(tmp_path, short("value")).finished, "what is compared was trained"


# --- what needs no cluster ----------------------------------------------------------------------------------------


def test_no_cluster_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(RunError, match=f"there is no Ray cluster at 127.0.0.1:{port} .timed out.*ray start --head"):
            sweep([short("value")], tmp_path, engine="ray", address=f"127.0.0.1:{port}", progress=False)
    with pytest.raises(RunError, match=f"there is no Ray cluster at 127.0.0.1:{port} .*Connection refused"):
        sweep([short("value")], tmp_path, engine="ray", address=f"127.0.0.1:{port}", progress=False)
    with pytest.raises(RunError, match="ray://here:1 is for programs outside a cluster; sweep from one of its nodes"):
        sweep([short("value")], tmp_path, engine="ray", address="ray://here:1", progress=False)


def test_a_root_that_a_node_does_not_have_is_explained(tmp_path: Path) -> None:
    error = ray_engine._train_group([str(tmp_path / "nowhere")], "cpu", False, Additions())
    assert isinstance(error, RunError)
    assert "the runs' root must be on a filesystem that all nodes share" in str(error)


def test_a_run_tried_again_waits_for_the_lock_of_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.at(tmp_path, short("value"))
    held = run.locked()
    held.__enter__()
    monkeypatch.setattr(ray_engine.time, "sleep", lambda _: held.__exit__(None, None, None))
    assert ray_engine._train_group([str(run.path)], "cpu", True, Additions()) is None
    assert Run.open(run.path).finished


def test_progress_is_read_from_the_run(tmp_path: Path) -> None:
    run = Run.at(tmp_path, short("value"))
    assert last_seen(run) is None
    run.append_rows("metrics", [(0, "ic", "accuracy", 0.1)])
    run.append_rows("metrics", [(5, "test", "loss", 3.0), (5, "ic", "accuracy", 0.25)])
    with (run.path / "metrics.jsonl").open("a") as file:
        assert last_seen(run) == (5, 0.25)
        file.write('[[10, "ic", "accu')  # half written
        file.flush()
        assert last_seen(run) == (5, 0.25)


class Resources:
    def __init__(self, **there: float):
        self.there = there

    def cluster_resources(self) -> dict[str, float]:
        return self.there


def test_as_many_groups_as_the_cluster_has_room_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert room(Resources(CPU=6.0), "cpu", 0.25) == 6
    assert room(Resources(CPU=16.0, GPU=2.0), "cuda", 0.25) == 8
    assert room(Resources(CPU=4.0, GPU=2.0), "cuda", 0.25) == 4
    assert room(Resources(CPU=4.0), "cuda", 0.25) == 4
    assert "has no GPU at present" in capsys.readouterr().err
