"""Several processes train the model that one would, and a run goes on in any number of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from circuits import HookedStreamTransformer, variants
from circuits.checkpoint import CheckpointError
from circuits.config.streams import Weights
from circuits.presets import lm_config
from experiments.runs.config import RunConfig, lm_run
from experiments.runs.logs import read_lines
from experiments.runs.run import Run
from experiments.runs.saved_shards import ABOUT, drop_shards, newest_state, read_shards
from experiments.runs.training_config import AdamW, Every, GateChange, StopAt, TokenTraining
from experiments.tasks.tokens.batches import TokenBatch
from experiments.training.one_process import Alone
from experiments.training.several_processes import Sharded, train_sharded
from experiments.training.together import train
from tests.helpers import trainer_of

ROOT = Path(__file__).parents[2]
CURVES = 1e-4
"""How far apart losses may be that differ in nothing but the order in which numbers are added."""
TRAINING = TokenTraining(
    steps=30,
    optimizer=AdamW(rate=3e-3, warmup=5),
    batch_size=12,
    evaluate_at=(Every(5),),
    n_eval=16,
    n_questions=5,
)
TINY: dict[str, Any] = {"n_layers": 2, "d_model": 16, "n_heads": 2}


def small(variant: str = "value", steps: int = 30, **training: Any) -> RunConfig:
    """A run of the smallest size, without dropout."""
    return lm_run("0.2m", "stories", variant, 0, replace(TRAINING, steps=steps, **training))


def tiny(steps: int = 4) -> RunConfig:
    """A run of a still smaller model, with a learned gain that is a single number."""
    training = replace(TRAINING, steps=steps, evaluate_at=(Every(2),), batch_size=4, n_eval=4, n_questions=2)
    return lm_run("0.2m", "stories", "resformer-learned", 0, training, **TINY)


def after(steps: int) -> Callable[[], bool]:
    """What says stop when asked for the time after so many."""
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def stopped(run: Run, at: int, group: Sharded | None = None) -> Run:
    """The run, stopped and saved at a step."""
    with pytest.raises(KeyboardInterrupt):
        train([run], stop=after(at), group=group)
    return run


def losses(run: Run) -> pd.DataFrame:
    """All losses of a run."""
    metrics = Run.open(run.path).metrics()
    return metrics[metrics.measure == "loss"].reset_index(drop=True)


def same_curves(one: Run, other: Run) -> None:
    """Assert that validation and training losses of two runs are the same up to rounding, at the same steps."""
    left, right = losses(one), losses(other)
    assert left[["step", "split"]].equals(right[["step", "split"]])
    assert float((left.value - right.value).abs().max()) < CURVES


def sittings(run: Run) -> list[int]:
    """The steps at which the sittings that came to an end began."""
    return [session["from"] for session in read_lines(run.path / "sessions.jsonl")]


def steps_saved(run: Run, group: Sharded) -> list[int]:
    """The step of the saved state as one process finds it, and as several do."""
    found = [each.load(run, {}) for each in (Alone(), group)]
    return [state[1]["step"] for state in found if state is not None]


def shards(run: Run) -> list[Path]:
    """The files of the saved state, which are all of known and open formats."""
    files = sorted(file for file in (run.path / "state").rglob("*") if file.is_file())
    assert {file.suffix for file in files} == {".safetensors", ".json"}
    for file in files:
        # Both are JSON from here on, where a pickle begins with 0x80 and torch's own files, which hold one, with PK.
        assert file.read_bytes()[8 if file.suffix == ".safetensors" else 0 :].startswith(b"{")
    return files


# --- in this process --------------------------------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Sharded]:
    """A group of this process alone, which shards all the same."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/processes", rank=0, world_size=1)
    yield Sharded("cpu")
    distributed.destroy_process_group()


def member(rank: int, world: int) -> Sharded:
    """A process of several that are not there."""
    made = Sharded.__new__(Sharded)
    made.rank, made.world = rank, world
    return made


def test_parts_of_a_batch_are_the_batch() -> None:
    batch = TokenBatch(torch.arange(24).reshape(6, 4), torch.arange(24).reshape(6, 4) % 2 == 0)
    parts = [member(rank, 3).part(batch) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.tokens for part in parts]), batch.tokens)
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


@pytest.mark.parametrize("world", [4, 7])
def test_rows_that_do_not_divide_among_the_processes_are_refused(world: int) -> None:
    with pytest.raises(ValueError, match=f"6 windows do not divide among {world} processes; start a number"):
        member(0, world).part(TokenBatch(torch.zeros(6, 4, dtype=torch.int64)))


def test_outside_torchrun_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2 -m experiments.training.several_processes"):
        train_sharded(Run.at(tmp_path, tiny()).path)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_a_run_moves_between_one_plain_process_and_shards_and_ends_as_if_it_had_not(
    tmp_path: Path, group: Sharded
) -> None:
    plain, moving = Run.at(tmp_path / "plain", tiny(6)), Run.at(tmp_path / "moving", tiny(6))
    train([plain])
    stopped(moving, 1, group)
    assert newest_state(moving.path) == moving.path / "state" / "step_00000001"
    assert len(shards(moving)) == 2
    stopped(moving, 2)
    assert newest_state(moving.path) == moving.path / "state.safetensors"
    assert not (moving.path / "state").exists()
    stopped(moving, 2, group)
    assert not (moving.path / "state.safetensors").exists()
    train([moving])
    assert sittings(moving) == [0, 1, 3, 5]
    assert sorted(p.name for p in moving.path.iterdir()) == sorted(p.name for p in plain.path.iterdir())
    same_curves(plain, moving)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_only_whole_and_undamaged_shards_are_read(tmp_path: Path, group: Sharded) -> None:
    run = stopped(Run.at(tmp_path, tiny()), 2, group)
    folder = newest_state(run.path)
    assert folder is not None
    tensors, about = read_shards(folder, {})
    assert about["step"] == 2
    assert tensors["optimizer|embed.W_E|exp_avg"].shape == tensors["model|embed.W_E"].shape
    # Cut off while it was written, a newer one does not count; nor does one half removed.
    shutil.copytree(folder, folder.with_name("step_00000003.tmp"))
    shutil.copytree(folder, folder.with_name("step_00000003"), ignore=shutil.ignore_patterns(ABOUT))
    assert newest_state(run.path) == folder
    (file,) = folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="were changed or damaged"):
        train([run])
    file.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        train([run], group=group)
    drop_shards(run.path)
    assert newest_state(run.path) is None


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_of_two_states_the_one_with_more_steps_counts(tmp_path: Path, group: Sharded) -> None:
    few, many = stopped(Run.at(tmp_path / "few", tiny()), 1), stopped(Run.at(tmp_path / "many", tiny()), 2, group)
    shutil.copy(few.path / "state.safetensors", many.path)
    assert newest_state(many.path) == many.path / "state" / "step_00000002"
    assert steps_saved(many, group) == [2, 2]
    stopped(few, 2)
    shutil.copy(few.path / "state.safetensors", many.path)
    assert newest_state(many.path) == many.path / "state.safetensors"
    assert steps_saved(many, group) == [3, 3]


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
@pytest.mark.parametrize("weights", ["own", "initial"])
def test_the_whole_model_is_the_one_of_the_parts_and_hooks_fire_in_both(group: Sharded, weights: Weights) -> None:
    streams = tuple(replace(stream, weights=weights) for stream in variants.streams("value", 2))
    config = lm_config("0.2m", streams=streams, **TINY)
    parts, before = group.wrap(HookedStreamTransformer(config, seed=1)), HookedStreamTransformer(config, seed=1)
    whole, tokens = group.whole(parts).eval(), torch.arange(12).reshape(2, 6)
    assert all(isinstance(p, DTensor) for p in parts.parameters())
    assert not any(isinstance(p, DTensor) for p in whole.parameters())
    assert set(whole.state_dict()) == set(before.state_dict())
    name = "blocks.1.attn.hook_v_mixed"
    caches = [model.eval().run_with_cache(tokens, names_filter=name) for model in (before, whole, parts)]
    for logits, cache in caches[1:]:
        assert torch.equal(logits, caches[0][0])
        assert torch.equal(cache[name], caches[0][1][name])
    assert not torch.equal(group.whole(group.wrap(HookedStreamTransformer(config, seed=2)))(tokens), caches[0][0])


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_gradients_in_parts_have_the_norm_of_the_whole(tmp_path: Path, group: Sharded) -> None:
    runs = [Run.at(tmp_path / name, tiny()) for name in ("whole", "parts")]
    trainers = [trainer_of(runs[0]), trainer_of(runs[1], group=group)]
    for trainer in trainers:
        trainer._loss(trainer.task.sample(4)).backward()
    before = torch.nn.utils.get_total_norm([p.grad for p in trainers[0].parameters.values() if p.grad is not None])
    for trainer in trainers:
        trainer.group.finish_gradients(trainer.parameters.values(), 1e-2)
    whole, parts = ([p.grad for p in t.parameters.values() if p.grad is not None] for t in trainers)
    parts = [part.full_tensor() if isinstance(part, DTensor) else part for part in parts]
    assert any(part.ndim == 0 and float(part) != 0 for part in parts)
    assert all(torch.allclose(own, part, atol=1e-7) for own, part in zip(whole, parts, strict=True))
    assert float(before) > 2e-2
    assert float(torch.nn.utils.get_total_norm(parts)) == pytest.approx(1e-2, rel=1e-3)


# --- several processes ------------------------------------------------------------------------------------------------

MODULE = "tests.sharded_worker"


def launch(n: int, *arguments: str | Path, module: str = MODULE) -> subprocess.Popen[str]:
    """Start torchrun with so many processes on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return subprocess.Popen(
        [*command, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def together(n: int, *arguments: str | Path, fails: bool = False, module: str = MODULE) -> str:
    """What so many processes print; they end well, or with an error where that is wanted."""
    process = launch(n, *arguments, module=module)
    said, _ = process.communicate(timeout=600)
    assert (process.returncode != 0) == fails, said
    return said


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run as one process trains it."""
    run = Run.at(tmp_path_factory.mktemp("alone"), small())
    train([run])
    return run


@pytest.mark.slow
def test_two_processes_reproduce_the_curve_of_one(alone: Run, tmp_path: Path) -> None:
    run = Run.at(tmp_path, small())
    said = together(2, run.path, "--device", "cpu", module="experiments.training.several_processes")
    assert "step 30 of 30" in said
    assert "tokens/s" in said
    same_curves(alone, run)
    finished = Run.open(run.path)
    assert finished.finished
    assert finished.checkpoints() == [30]
    assert not (run.path / "state").exists()
    assert losses(run).value.iloc[-1] < losses(run).value.iloc[0] - 0.5


@pytest.mark.slow
def test_killed_in_two_it_goes_on_in_one_or_in_three(alone: Run, tmp_path: Path) -> None:
    run = Run.at(tmp_path / "run", small())
    together(2, run.path, "--die", "1", "update", "13", fails=True)
    assert [file.name[:11] for file in shards(run)] == ["about.json", "shard-00001", "shard-00002"]
    state = newest_state(run.path)
    assert state is not None
    assert state.name == "step_00000012"
    three = Run.open(shutil.copytree(run.path, tmp_path / "three"))
    train([run])
    assert sittings(run) == [12]
    same_curves(alone, run)
    together(3, three.path)
    assert sittings(three) == [12]
    same_curves(alone, three)


@pytest.mark.slow
def test_stopped_in_one_it_goes_on_in_two_and_stopped_there_in_one(alone: Run, tmp_path: Path) -> None:
    run = stopped(Run.at(tmp_path, small()), 12)
    process = launch(2, run.path, "--device", "cpu", module="experiments.training.several_processes")
    try:
        file = run.path / "metrics.jsonl"
        while process.poll() is None and len(file.read_text().splitlines()) < 4:
            time.sleep(0.01)
        first, *_ = psutil.Process(process.pid).children()
        first.terminate()
        said, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert "stopped and saved" in said
    assert "exitcode  : 130" in said
    (step,) = (json.loads(file.read_text())["about"]["step"] for file in (run.path / "state").glob(f"*/{ABOUT}"))
    assert 12 < step < 30
    train([run])
    assert sittings(run) == [0, 12, step]
    same_curves(alone, run)


DEATHS = {
    "a shard is not on the disk": ("1", "fsync", "3", 1),
    "shards are written, nothing says so": ("0", "write", "3", 1),
    "it is whole, under another name": ("0", "rename", "3", 1),
    "the one before is half removed": ("0", "rmtree", "2", 2),
}
"""Which process dies when it is about to do what for which time, saving before every step; and the step it is at."""


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_killed_while_it_saves_a_whole_state_is_there(tmp_path: Path, death: Sequence[Any]) -> None:
    *how, step = death
    run, one = Run.at(tmp_path / "killed", small(steps=5)), Run.at(tmp_path / "one", small(steps=5))
    together(2, run.path, "--die", *how, fails=True)
    assert len(list((run.path / "state").iterdir())) == 2
    train([run])
    assert sittings(run) == [step]
    train([one])
    same_curves(one, run)


OTHERS = {
    "value-stop": small("value-stop", 2),
    "cumulative": small("cumulative", 2),
    "resformer-learned": small("resformer-learned", 2),
    "lime": small("lime", 2),
    "accumulate": small(steps=2, accumulate=2),
    "bfloat16": small(steps=2, precision="bfloat16"),
}


@pytest.mark.slow
def test_other_rules_and_ways_of_training_are_the_same_in_three_processes(tmp_path: Path) -> None:
    runs = {name: Run.at(tmp_path / name, config) for name, config in OTHERS.items()}
    together(3, *(run.path for run in runs.values()))
    for name, config in OTHERS.items():
        one = Run.at(tmp_path / "one" / name, config)
        train([one])
        if name == "bfloat16":
            assert float((losses(one).value - losses(runs[name]).value).abs().max()) < 1e-2
        else:
            same_curves(one, runs[name])
            # A gradient of a wrong size would not show in the loss yet, as Adam divides by it.
            own, other = (run.load_model().state_dict() for run in (one, Run.open(runs[name].path)))
            apart = max(float((own[n] - other[n]).abs().max()) for n in own)
            assert apart < config.training.optimizer.rate / 10, name


@pytest.mark.slow
def test_three_processes_stop_early_together_with_gates_in_windows_and_a_gradient_log(tmp_path: Path) -> None:
    config = small(
        stop_at=StopAt(1e-6, "ioi train", 2, "probability"),
        evaluate_at=(Every(2),),
        gates=(GateChange(1, "stop"),),
        gradients_at=(Every(3),),
    )
    run, one = Run.at(tmp_path / "three", config), Run.at(tmp_path / "one", config)
    together(3, run.path)
    train([one])
    same_curves(one, run)
    assert run.open(run.path).finished
    assert losses(run).step.max() == 2, "at the second evaluation, and not at step 30"
    shares = [r.open(r.path).gradients() for r in (one, run)]
    assert shares[0][["step", "tensor"]].equals(shares[1][["step", "tensor"]])
    assert shares[0].whole.to_numpy() == pytest.approx(shares[1].whole.to_numpy(), rel=1e-3, abs=1e-8)


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_a_sentence(tmp_path: Path) -> None:
    run = Run.at(tmp_path, small(batch_size=9))
    said = together(2, run.path, "--device", "cpu", module="experiments.training.several_processes", fails=True)
    assert "9 windows do not divide among 2 processes" in said
    diverging = Run.at(tmp_path, small(optimizer=AdamW(rate=1e30, warmup=0)))
    said = together(2, diverging.path, "--device", "cpu", module="experiments.training.several_processes", fails=True)
    assert "diverged: its loss at step" in said
    assert Run.open(diverging.path).status == "failed"
