"""Training a language model: the updates are the stated ones, and a run may stop or fail at any step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from circuits import HookedStreamTransformer, lm_config
from circuits.checkpoint import read_tensors
from circuits.loading.tokenizers import load_tokenizer
from experiments.runs.config import RunConfig
from experiments.runs.logs import read_lines
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.table import runs_table
from experiments.runs.training_config import Adam, AdamW, At, Every
from experiments.sweeps.sweep import sweep
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.tokenizers import fingerprint, word_level
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.measures import TokenEvaluationSets, evaluate
from experiments.training import trainer as training
from experiments.training.optimizers import make_optimizer, rate_at
from experiments.training.together import train
from experiments.training.trainer import Trainer
from tests.experiments.test_training import files_of
from tests.helpers import rewrite, tiny_lm, trained_lm, trainer_of

EACH = (Every(1),)


def stopped(root: Path, config: RunConfig, after: int) -> Run:
    """A run that was stopped after some updates."""
    run = Run.at(root, config)
    asked = iter(range(1_000))
    with pytest.raises(KeyboardInterrupt):
        train([run], stop=lambda: next(asked) == after)
    return Run.at(root, config)


def losses(run: Run, split: str = "train") -> np.ndarray:
    metrics = run.metrics()
    found: Any = metrics[(metrics.split == split) & (metrics.measure == "loss")]
    return found.sort_values("step", kind="stable").value.to_numpy()


# --- one update -------------------------------------------------------------------------------------------------------


def plain_loss(logits: Tensor, batch: TokenBatch) -> Tensor:
    """The mean over what counts, without what the trainer computes it with."""
    counted = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.counted is None else batch.counted
    predicted, following = logits[:, :-1][counted[:, :-1]], batch.tokens[:, 1:][counted[:, :-1]]
    return F.cross_entropy(predicted, following)


@pytest.mark.parametrize("clip", [0.05, None])
def test_updates_are_those_by_hand(tmp_path: Path, clip: float | None) -> None:
    config = tiny_lm(steps=3, checkpoint_at=EACH, clip=clip, optimizer=AdamW(1e-2, warmup=2, decay=0.5))
    run = trained_lm(tmp_path, config)
    model = run.load_model(0).train()
    start = HookedStreamTransformer(config.model, seed=0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), start.parameters(), strict=True))
    matrices = [p for n, p in model.named_parameters() if ".W_" in f".{n}"]
    others = [p for n, p in model.named_parameters() if ".W_" not in f".{n}"]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step, rate in enumerate((0.5e-2, 1e-2, 1e-2)):
        batch = run.task().sample(4, "train", seed=step)
        model.zero_grad()
        plain_loss(model(batch.tokens), batch).backward()
        if clip is not None:
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
            assert norm > clip, "it must matter"
            for p in model.parameters():
                assert p.grad is not None
                p.grad *= clip / norm
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        after = run.load_model(step + 1)
        for (name, p), q in zip(model.named_parameters(), after.parameters(), strict=True):
            # Biases of keys change no pattern, so theirs is a gradient of rounding errors, which Adam blows up.
            assert name.endswith("b_K") or torch.allclose(p, q, atol=2e-5), (step, name)


def test_the_rate_rises_to_its_height_and_falls_to_its_end() -> None:
    config = AdamW(rate=2.0, warmup=10, final=0.1)
    rates = [rate_at(config, step, 110) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)]), "linearly"
    assert rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.1), "halfway between its height and its end"
    assert rates[110] == pytest.approx(0.2)
    assert rates[109] == pytest.approx(0.2, rel=1e-2), "the last update's"
    assert np.all(np.diff(rates[10:]) < 0)
    assert [rate_at(AdamW(rate=2.0, warmup=0, final=1.0), step, 5) for step in range(5)] == [2.0] * 5
    assert rate_at(AdamW(rate=2.0, warmup=10), 4, 5) == pytest.approx(1.0), "a run may end while it rises"


def test_the_rate_of_adam_is_constant() -> None:
    assert {rate_at(Adam(3e-3), step, 100) for step in range(100)} == {3e-3}


@pytest.mark.parametrize("variant", ["classic", "value", "resformer-constant", "cumulative", "x-transformers"])
def test_only_weight_matrices_decay(variant: str) -> None:
    parameters: dict[str, Tensor] = dict(HookedStreamTransformer(lm_config("0.2m", variant, 50)).named_parameters())
    optimizer = make_optimizer(AdamW(decay=0.3), parameters)
    names = {parameter: name for name, parameter in parameters.items()}
    decay = {names[p]: g["weight_decay"] for g in optimizer.optimizer.param_groups for p in g["params"]}
    assert set(decay) == set(parameters), "every parameter is in a group, once"
    assert set(decay.values()) == {0.0, 0.3}
    for name, of in decay.items():
        last = name.rsplit(".", 1)[-1]
        matrix = last in {"W_E", "W_U", "W_pos", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"} and ".mix." not in name
        assert of == (0.3 if matrix else 0.0), name
    biases = [name for name in parameters if name.rsplit(".", 1)[-1] in ("b_Q", "b_K", "b_V")]
    assert biases
    assert all(parameters[name].ndim == 2 and decay[name] == 0.0 for name in biases)


def test_adam_decays_nothing() -> None:
    parameters: dict[str, Tensor] = dict(HookedStreamTransformer(lm_config("0.2m", "value", 50)).named_parameters())
    optimizer = make_optimizer(Adam(3e-3, (0.8, 0.9)), parameters).optimizer
    assert isinstance(optimizer, torch.optim.Adam)
    assert not isinstance(optimizer, torch.optim.AdamW)
    assert [(g["weight_decay"], g["betas"], g["lr"]) for g in optimizer.param_groups] == [(0.0, (0.8, 0.9), 3e-3)]


# --- in parts ---------------------------------------------------------------------------------------------------------


def curve(root: Path, accumulate: int, change: Callable[[TokenBatch], TokenBatch] | None = None) -> np.ndarray:
    """The training losses of a few updates, of a batch computed in parts; ``change`` is done to every batch."""
    run = Run.at(root / f"{accumulate}", tiny_lm(steps=6, accumulate=accumulate, evaluate_at=EACH))
    trainer = trainer_of(run)
    if change is not None:
        draw = trainer.task.sample
        trainer.task.sample = lambda *a, **k: change(draw(*a, **k))  # type: ignore[method-assign] # of this trainer alone
    found = []
    for _ in range(6):
        trainer.update(trainer.draw())
        found.append(float(trainer.sum[0]))
    return np.diff(found, prepend=0.0)


def test_gradients_of_parts_add_up_to_that_of_the_whole(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny_lm())
    n = [
        [int((run.task().sample(4, "train", seed=s)[rows].targets >= 0).sum()) for rows in (slice(2), slice(2, 4))]
        for s in range(6)
    ]
    assert any(a != b for a, b in n), "parts must differ in how much counts"
    whole = curve(tmp_path, 1)
    assert whole[-1] < whole[0]
    for parts in (2, 4):
        assert curve(tmp_path, parts) == pytest.approx(whole, abs=1e-5)


def test_a_part_in_which_nothing_counts_adds_nothing(tmp_path: Path) -> None:
    def first_half(batch: TokenBatch) -> TokenBatch:
        assert batch.counted is not None
        counted = batch.counted.clone()
        counted[len(batch) // 2 :] = False
        return TokenBatch(batch.tokens, counted)

    whole = curve(tmp_path, 1, first_half)
    assert np.isfinite(whole).all()
    assert curve(tmp_path, 2, first_half) == pytest.approx(whole, abs=1e-5)
    assert whole != pytest.approx(curve(tmp_path / "other", 1), abs=1e-5)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_is_plain_files_with_its_tokenizer(tmp_path: Path) -> None:
    run = trained_lm(tmp_path, tiny_lm())
    names = {name for name in files_of(run) if not name.startswith("tokenizer/")}
    assert names == {"run.json", "metrics.parquet", *(f"checkpoints/step_{s:08d}.safetensors" for s in (0, 6, 12))}
    kept, own = load_tokenizer(run.tokenizer_path), run.task().tokenizer
    assert own is not None
    assert fingerprint(kept) == run.record["tokenizer"] == fingerprint(own)
    assert len(kept) == run.task().d_vocab
    model = run.load_model()
    assert not model.training
    assert fingerprint(model.tokenizer) == run.record["tokenizer"]
    assert run.record["kind"] == "lm"
    numbers = trained_lm(tmp_path, tiny_lm(task="repeats", steps=1))
    assert not numbers.tokenizer_path.exists()
    assert numbers.load_model().tokenizer is None


def test_runs_are_looked_at_when_the_schedule_says(tmp_path: Path) -> None:
    run = trained_lm(tmp_path, tiny_lm(evaluate_at=(At((5,)),), checkpoint_at=()))
    metrics = run.metrics()
    assert sorted(metrics.step.unique()) == [5, 12]
    assert run.checkpoints() == [12], "the last step has one"
    assert not metrics.duplicated(["step", "split", "measure"]).any()
    assert set(metrics.split) == {"validation", "train", *run.task().questions(1)}
    assert set(metrics[metrics.split == "ioi train"].measure) == {
        "probability",
        "wrong_probability",
        "logit_difference",
        "accuracy",
        "preference",
    }


def test_the_training_loss_is_the_mean_since_the_last_look(tmp_path: Path) -> None:
    each = losses(trained_lm(tmp_path, tiny_lm(steps=6, evaluate_at=EACH)))
    few = losses(trained_lm(tmp_path, tiny_lm(steps=6, evaluate_at=(Every(3),))))
    assert len(each) == 6
    assert few == pytest.approx(each.reshape(2, 3).mean(1), rel=1e-6)


def test_evaluation_is_in_evaluation_mode_and_leaves_the_model_in_training_mode(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny_lm(dropout=0.1))
    trainer = trainer_of(run)
    assert trainer.model.cfg is not None
    trainer.observe()
    assert all(module.training for module in trainer.model.modules())
    measured = run.metrics()
    sets = TokenEvaluationSets(run.task(), trainer.config.n_eval, trainer.config.n_questions)
    model = run.load_model(0)
    assert evaluate(model, sets) == evaluate(model, sets), "dropout would differ each time"
    assert [(row[0], row[1], row[2]) for row in evaluate(model, sets)] == [
        (r.split, r.measure, r.value) for r in measured.itertuples()
    ]
    batch = trainer.task.sample(4)
    assert not trainer.model(batch.tokens).equal(trainer.model(batch.tokens)), "while it trains it does drop out"
    with pytest.raises(ValueError, match="evaluation mode; found training mode"):
        evaluate(trainer.model, sets)


@pytest.mark.parametrize("task", ["ioi", "repeats"])
def test_training_learns(tmp_path: Path, task: str) -> None:
    run = Run.at(tmp_path, tiny_lm(task=task, steps=45, batch_size=16, evaluate_at=(Every(15),), checkpoint_at=()))
    train([run])
    found = losses(Run.at(tmp_path, run.config), "validation")
    assert np.all(np.diff(found) < 0)
    assert found[-1] < found[0] - (2 if task == "ioi" else 0.05)


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    exact, coarse = (trained_lm(tmp_path, tiny_lm(precision=p, steps=8)) for p in ("float32", "bfloat16"))
    assert losses(coarse) == pytest.approx(losses(exact), abs=2e-2)
    assert not np.array_equal(losses(coarse), losses(exact)), "it is another precision"
    assert {p.dtype for p in coarse.load_model().parameters()} == {torch.float32}, "weights are not"


# --- stopping and going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path, after: int) -> None:
    config = tiny_lm(dropout=0.1, accumulate=2)
    whole = trained_lm(tmp_path / "whole", config)
    run = stopped(tmp_path / "stopped", config, after)
    assert run.status == "interrupted"
    assert run.metrics().step.max() == 4 * ((after - 1) // 4)
    train([run])
    assert files_of(run) == files_of(whole)
    sessions = read_lines(run.path / "sessions.jsonl")
    assert [(s["from"], s["to"]) for s in sessions] == [(0, after), (after, 12)]


def test_training_in_this_process_leaves_its_random_numbers_and_threads_as_they_were(tmp_path: Path) -> None:
    """With dropout, with an interrupt, and with a run that fails."""
    wild = tiny_lm(seed=1, dropout=0.1, optimizer=AdamW(rate=1e30, warmup=0), clip=None)
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        stopped(tmp_path, tiny_lm(dropout=0.1), 5)
        with pytest.raises(RunError, match="diverged"):
            sweep([tiny_lm(dropout=0.1), wild], tmp_path, workers=1, progress=False)
        assert Run.at(tmp_path, tiny_lm(dropout=0.1)).finished
        assert torch.get_rng_state().equal(state)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_same_run_twice_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = (trained_lm(tmp_path / name, tiny_lm(steps=4)) for name in ("a", "b"))
    assert files_of(first) == files_of(second)
    other = trained_lm(tmp_path / "c", tiny_lm(seed=1, steps=4))
    assert other.path.name != first.path.name
    assert files_of(other)["metrics.parquet"] != files_of(first)["metrics.parquet"]


def test_variants_of_a_seed_see_the_same_windows_and_questions(tmp_path: Path) -> None:
    one, other = (Run.at(tmp_path, tiny_lm(variant)).task() for variant in ("classic", "value"))
    assert one.sample(4, "train", 7).tokens.equal(other.sample(4, "train", 7).tokens)
    assert one.questions(4)["ioi names"].clean.equal(other.questions(4)["ioi names"].clean)


def test_what_was_measured_after_the_saved_state_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_lm(steps=8, evaluate_at=EACH)
    whole = trained_lm(tmp_path / "whole", config)
    run = Run.at(tmp_path / "killed", config)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    trainer = trainer_of(run)
    for _ in range(4):
        trainer.observe()
        trainer.update(trainer.draw())
    monkeypatch.setattr(trainer, "save", lambda: None)
    for _ in range(2):
        trainer.observe()
        trainer.update(trainer.draw())
    assert run.metrics().step.max() == 5
    assert read_tensors(run.path / "state.safetensors")[1]["step"] == 3
    assert files_of(trained_lm(tmp_path / "killed", config)) == files_of(whole)


def test_a_finished_run_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained_lm(tmp_path, tiny_lm(steps=2))
    before = {name: (run.path / name).stat().st_mtime_ns for name in files_of(run)}

    def refuse(*_: Any) -> None:
        raise AssertionError("no trainer may be made")

    monkeypatch.setattr(Trainer, "__init__", refuse)
    train([run])
    assert {name: (run.path / name).stat().st_mtime_ns for name in files_of(run)} == before


def test_a_run_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny_lm())
    with run.locked(), pytest.raises(RunError, match="another process is training .*; wait for it, or stop it first"):
        train([run])
    assert run.metrics().empty


# --- failing ----------------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_says_so_and_keeps_what_was_measured(tmp_path: Path) -> None:
    wild = tiny_lm(steps=40, evaluate_at=(At((0,)),), optimizer=AdamW(rate=1e6, warmup=0), clip=None)
    run = Run.at(tmp_path, wild)
    with pytest.raises(RunError, match=r"diverged: its loss at step \d+ is (nan|inf); .* is kept. Use a smaller rate"):
        train([run])
    failed = Run.at(tmp_path, wild)
    assert failed.status == "failed"
    assert set(failed.metrics().step) == {0}
    assert np.isfinite(failed.metrics().value).all()
    assert failed.checkpoints() == [0]
    calm = trained_lm(tmp_path, tiny_lm())
    assert calm.finished
    assert np.isfinite(calm.metrics().value).all()


def test_a_run_whose_last_update_diverges_is_not_finished(tmp_path: Path) -> None:
    wild = tiny_lm(
        steps=1, evaluate_at=EACH, checkpoint_at=EACH, optimizer=AdamW(rate=1e30, warmup=0, final=1.0), clip=None
    )
    with pytest.raises(RunError, match="diverged: its validation loss at step 1 is nan; what was measured before"):
        train([Run.at(tmp_path, wild)])
    assert Run.at(tmp_path, wild).status == "failed"
    assert np.isfinite(Run.at(tmp_path, wild).metrics().value).all()
    assert Run.at(tmp_path, wild).checkpoints() == [0]


def test_a_full_disk_is_explained_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_lm(steps=2, evaluate_at=EACH, checkpoint_at=())
    real, calls, room = os.fsync, 0, 10**9

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > room:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    whole = Run.at(tmp_path / "whole", config)
    calls = 0
    train([whole])
    for fails_at in range(0, calls, 4):
        run = Run.at(tmp_path / f"{fails_at}", config)
        calls, room = 0, fails_at
        with pytest.raises(RunError, match="no space left on the disk while writing into .*free some space"):
            train([run])
        room = 10**9
        assert not list(run.path.rglob("*.tmp"))
        for file in run.path.rglob("*.safetensors"):
            read_tensors(file)
        assert files_of(trained_lm(tmp_path / f"{fails_at}", config)) == files_of(whole)


def test_another_tokenizer_than_a_run_began_with_is_refused_and_not_stored(tmp_path: Path) -> None:
    run = stopped(tmp_path, tiny_lm(), 2)
    record = json.loads((run.path / "run.json").read_text())
    began_with = record["tokenizer"]
    with pytest.raises(RunError, match=rf"began with another tokenizer \(SHA-256 {began_with[:12]}\) than its task"):
        run.keep_tokenizer(word_level(["other", "words"]))
    assert fingerprint(load_tokenizer(run.tokenizer_path)) == began_with
    rewrite(run, tokenizer="0" * 64)
    with pytest.raises(RunError, match=r"began with another tokenizer \(SHA-256 000000000000\)"):
        train([Run.at(tmp_path, run.config)])
    assert json.loads((run.path / "run.json").read_text())["tokenizer"] == "0" * 64
    rewrite(run, tokenizer=began_with)
    train([Run.at(tmp_path, run.config)])
    assert Run.at(tmp_path, run.config).finished


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.at(tmp_path, tiny_lm())
    task = run.task()
    assert isinstance(task, IOITask)
    task.tokenizer = word_level([f"word{i}" for i in range(900)])
    monkeypatch.setattr(Run, "task", lambda *_: task)
    with pytest.raises(ValueError, match="the tokenizer has 903 tokens, the model's vocabulary d_vocab"):
        train([run])
    assert not (run.path / "metrics.jsonl").exists()


# --- directories ------------------------------------------------------------------------------------------------------


def test_a_run_is_opened_as_what_it_is(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny_lm())
    assert Run.open(run.path).config == Run.at(tmp_path, run.config).config == run.config
    assert isinstance(Run.open(run.path).task(), IOITask)
    with pytest.raises(RunError, match="unknown run 'lm-ioi-valeu-0.2m-s0': did you mean"):
        Run.find("lm-ioi-valeu-0.2m-s0", tmp_path)
    with pytest.raises(RunError, match="there are no runs in .*; train one with 'valuestream train"):
        Run.find("lm", tmp_path / "nowhere")


def test_the_table_of_runs(tmp_path: Path) -> None:
    run = trained_lm(tmp_path, tiny_lm(steps=4))
    Run.at(tmp_path, tiny_lm("classic"))
    table: Any = runs_table(tmp_path).set_index("run")
    row = table.loc[run.path.name].to_dict()
    assert 0 < row.pop("size") < 100_000_000
    assert 0 <= row.pop("age") < 3600
    assert row == {
        "task": "ioi",
        "variant": "value",
        "preset": "0.2m",
        "seed": 0,
        "status": "finished",
        "step": 4,
        "measure": "validation loss",
        "value": pytest.approx(losses(run, "validation")[-1], abs=1e-4),
    }
    (other,) = set(table.index) - {run.path.name}
    assert table.loc[other, "status"] == "interrupted"
    assert math.isnan(table.loc[other, "value"])
    assert runs_table(tmp_path / "nowhere").empty


def test_a_changed_configuration_is_refused(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny_lm())
    rewrite(run, config=run.record["config"] | {"seed": 77})
    with pytest.raises(RunError, match="does not have the hash .*: the file was changed"):
        Run.open(run.path)
