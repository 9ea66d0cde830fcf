"""Engines: what a record says of how a run computes, how that is decided, and that runs that are compared share it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from circuits.products import Shape, has_onednn
from experiments.runs.config import LM_TRAINING, RunConfig, icl_run, lm_run
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import Every
from experiments.sweeps import shared_engine
from experiments.sweeps.sweep import sweep
from experiments.training import engines
from experiments.training.engines import Engine, calibrated, step_products, worth_calibrating
from experiments.training.together import train
from tests.circuits.test_products import Called, alike
from tests.experiments.test_training import files_of, tiny
from tests.helpers import tiny_lm, trainer_of

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch was built without oneDNN")


def short(variant: str = "value", seed: int = 0, **changes: Any) -> RunConfig:
    """A run so small that only with :func:`small_count` its products count."""
    return tiny(variant, seed, **({"steps": 6, "evaluate_at": (Every(3),)} | changes))


@pytest.fixture
def small_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products and trainings of tests are as large as any."""
    monkeypatch.setattr(engines, "LEAST", 2**14)
    monkeypatch.setattr(engines, "CALIBRATE_FROM", 0)


CONFIGS = {
    "icl": tiny(),
    "icl by queries": tiny("query"),
    "lm": tiny_lm(),
    "lm in parts": tiny_lm("classic", accumulate=2),
}


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_read_as_it_was() -> None:
    one = Engine("compiled", frozenset({(2048, 64, 256), (128, 150, 150)}))
    assert str(one) == "compiled, oneDNN for 128x150x150 2048x64x256"
    for engine in (one, Engine(), Engine("stacked")):
        assert Engine.read(str(engine)) == engine
    assert Engine.read("compiled") == Engine("compiled", frozenset()), "as all of 0.1 have it"


# --- which products there are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_products_of_a_step_are_all_larger_ones_that_it_makes(
    config: RunConfig, tmp_path: Path, small_count: None
) -> None:
    trainer = trainer_of(Run.at(tmp_path, config, str(Engine("eager", frozenset(step_products(config))))))
    with Called() as called:
        trainer.update(trainer.draw())
    assert set(alike(called.onednn)) == set(alike(step_products(config)))
    assert all(math.prod(shape) < engines.LEAST for shape in called.usual)


def test_there_are_none_where_no_path_takes_them() -> None:
    assert step_products(icl_run("value", "paper"))
    assert step_products(lm_run("3m"))
    assert step_products(icl_run("x-transformers", "paper")) == {}, "it has no fast path"
    of_bfloat16 = dataclasses.replace(LM_TRAINING["3m"], precision="bfloat16")
    assert step_products(lm_run("3m", training=of_bfloat16)) == {}


def test_long_trainings_are_worth_a_calibration() -> None:
    assert all(map(worth_calibrating, (icl_run("value", "paper"), lm_run("3m"))))
    assert not any(map(worth_calibrating, (icl_run("value", "small"), tiny_lm())))


# --- calibration ------------------------------------------------------------------------------------------------------

PRODUCTS: dict[Shape, bool] = {(256, 64, 128): False, (64, 256, 128): True}


@pytest.mark.parametrize(
    ("calls", "error", "taken"),
    [(0, 0.0, set(PRODUCTS)), (0, 5e-7, set(PRODUCTS)), (0, 2e-6, set()), (1, 0.0, set()), (3, 0.0, set())],
    ids=["free", "free and near", "free and wrong", "as fast", "slower"],
)
def test_a_product_is_taken_if_it_is_faster_and_equal(
    calls: int, error: float, taken: set[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def computed(a: torch.Tensor, b: torch.Tensor, multiply: object) -> torch.Tensor:
        for _ in range(calls):
            _ = a @ b
        if a.shape not in known:
            known[a.shape] = a @ b + error * (a @ b).abs().max()
        return known[a.shape]

    monkeypatch.setattr(engines, "by_onednn", computed)
    assert calibrated(PRODUCTS, "eager") == taken


def test_the_calibration_leaves_the_threads_as_they_were_and_needs_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert calibrated(PRODUCTS, "compiled") <= set(PRODUCTS)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    monkeypatch.setattr(engines, "has_onednn", lambda: False)
    monkeypatch.setattr(engines, "FASTER", 0.0)
    assert calibrated(PRODUCTS, "eager") == set()


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [short(), tiny_lm(steps=4)], ids=["icl", "lm"])
def test_equal_engines_equal_bytes_also_after_an_interruption(
    config: RunConfig, tmp_path: Path, small_count: None
) -> None:
    engine = Engine("eager", frozenset(step_products(config)))
    whole, cut = (Run.at(tmp_path / name, config, str(engine)) for name in ("whole", "cut"))
    with Called() as called:
        train([whole])
    assert set(alike(called.onednn)) == set(alike(engine.onednn))
    asked = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        train([cut], stop=lambda: next(asked))
    with Called() as called:
        train([Run.open(cut.path)])
    assert set(alike(called.onednn)) == set(alike(engine.onednn)), "it goes on as it began"
    assert files_of(Run.open(whole.path)) == files_of(Run.open(cut.path))


def test_a_run_whose_engine_is_not_here_is_refused_and_stays_as_it_is(
    tmp_path: Path, small_count: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.at(tmp_path, short(), str(Engine("eager", frozenset(step_products(short())))))
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(RunError, match=r"began with products by oneDNN, and that multiplies on the CPU, not on meta"):
        engines.engine_of(run.path.name, run.record, torch.device("meta"), 1)
    with pytest.raises(RunError, match="it is to go on in 2 processes, which do not use that; go on in one, or remove"):
        engines.engine_of(run.path.name, run.record, torch.device("cpu"), 2)
    monkeypatch.setattr(engines, "has_onednn", lambda: False)
    with pytest.raises(RunError, match="this torch was built without it; go on where it began, or remove it to train"):
        train([run])
    assert (run.path / "run.json").read_bytes() == before
    train([Run.at(tmp_path, short("classic"))])


# --- a sweep ----------------------------------------------------------------------------------------------------------


def engines_of(runs: list[Run]) -> set[str]:
    return {run.record["engine"] for run in runs}


def test_a_sweep_decides_once_and_later_ones_of_the_same_products_do_likewise(
    tmp_path: Path, small_count: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter(sorted(step_products(short())))
    monkeypatch.setattr(shared_engine, "calibrated", lambda *_: frozenset({next(found)}))
    four = [short(variant, seed) for variant in ("classic", "value") for seed in (0, 1)]
    first = sweep(four[:2], tmp_path / "a", workers=2, progress=False)
    (decided,) = engines_of(first)
    assert Engine.read(decided).onednn
    later = sweep(four, tmp_path / "a", workers=1, progress=False)
    assert engines_of(later) == {decided}
    again = sweep(four, tmp_path / "b", workers=1, progress=False)
    (other,) = engines_of(again)
    assert other != decided, "another root, another decision"
    capsys.readouterr()
    like = sweep(four[:2], tmp_path / "c", workers=1, progress=False, like=["eager", "compiled"])
    assert engines_of(like) == {"eager"}
    assert not capsys.readouterr().err, "all multiply alike"
    wider = sweep([short(batch_size=64)], tmp_path / "a", workers=1, progress=False)
    assert engines_of(wider) != {decided}, "other products, another decision"


@pytest.mark.slow
def test_in_workers_or_here_equal_engines_give_equal_bytes(tmp_path: Path, small_count: None) -> None:
    two = [short(), short("classic")]
    here, there = (sweep(two, tmp_path / str(n), workers=n, progress=False, compute="eager-onednn") for n in (1, 2))
    assert engines_of(here) == engines_of(there) == {str(Engine("eager", frozenset(step_products(two[0]))))}
    assert [files_of(run) for run in here] == [files_of(run) for run in there]


def test_runs_that_do_not_multiply_alike_are_told(
    tmp_path: Path, small_count: None, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep([short()], tmp_path, workers=1, progress=False, compute="eager")
    assert "do not multiply alike" not in capsys.readouterr().err
    sweep([short(), short("classic")], tmp_path, workers=1, progress=False, compute="eager-onednn")
    assert (
        "do not multiply alike (1 by the default library alone; 1 by oneDNN for 32x32x64 32x47x64"
        in capsys.readouterr().err
    )


def test_onednn_by_name_is_refused_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="oneDNN multiplies on the CPU, not on 'meta'; compute with 'eager'"):
        shared_engine.check_compute("eager-onednn", "meta")
    monkeypatch.setattr(shared_engine, "has_onednn", lambda: False)
    with pytest.raises(ValueError, match="this torch was built without oneDNN; compute with 'compiled'"):
        sweep([short()], tmp_path, progress=False, compute="compiled-onednn")
    assert not list(tmp_path.iterdir())
