"""Gradients by route, logged while training: what is logged is what is there, and logging leaves training alone."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.cli import main
from experiments.questions.gradients import Gradients
from experiments.runs.config import RunConfig
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, At, Every, StopAt
from experiments.tasks.in_context.measures import EvaluationSets
from experiments.tasks.in_context.task import ICLTask
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokenizers import save_tokenizer, word_level
from experiments.training.trainer import Trainer
from tests.experiments.test_resume import child
from tests.experiments.test_training import files_of, tiny, trained
from tests.helpers import tiny_lm

LOGGED = tiny(gradients_at=(Every(6), At((1,))))


def test_rows_are_the_split_of_the_model_at_their_step(tmp_path: Path) -> None:
    run = trained(tmp_path, LOGGED)
    frame = run.gradients()
    assert sorted(frame.step.unique()) == [0, 1, 6, 12]
    by_checkpoint = Gradients().ask(run).to_frame()
    assert sorted(by_checkpoint.step.unique()) == [0, 6, 12]
    there = frame[frame.step.isin(by_checkpoint.step)].reset_index(drop=True)
    pd.testing.assert_frame_equal(there, by_checkpoint, check_exact=True)
    values = frame[frame.tensor == "blocks.0.attn.W_V"]
    assert ((values.stream_share > 0) & (values.stream_share < 1)).all()
    assert values.whole.nunique() == 4, "the model changes"
    elsewhere = run.task().split_gradient(run.load_model(6), run.task().held_out(split="ic")).to_frame()
    assert not elsewhere.whole.equals(frame[frame.step == 6].reset_index(drop=True).whole), "so does another batch"


def test_no_step_trains_on_the_batch_that_is_held_out(tmp_path: Path) -> None:
    task = Run.at(tmp_path, LOGGED).task()
    kept = task.held_out(32).inputs
    assert kept.equal(task.held_out(32).inputs)
    assert not any(kept.equal(task.sample(32, "train", seed=step).inputs) for step in range(12))


def test_of_a_corpus_it_is_said_that_windows_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VALUESTREAM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("".join(f"w{i} w{i % 7} w{i % 5}\n" for i in range(40)))
    save_tokenizer(word_level([f"w{i}" for i in range(40)]), tmp_path / "words")
    task = TextTaskConfig.of(str(tmp_path / "corpus.txt"), str(tmp_path / "words"), n_ctx=8, validation=0.2)
    texts, drawn = trained(tmp_path, tiny_lm(task=task, steps=1)), trained(tmp_path, tiny_lm(steps=1))
    for run, split, said in ((texts, "train", True), (texts, "validation", False), (drawn, "train", False)):
        question = Gradients(n=4, split=split, checkpoints=(-1,))
        question.tell(run, question.ask(run))
        assert ("train (windows that it is trained on)" in capsys.readouterr().out) is said


@pytest.mark.parametrize("variant", ["value", "x-transformers"])
def test_logging_leaves_training_alone(tmp_path: Path, variant: str) -> None:
    plain, logged = (trained(tmp_path, tiny(variant, gradients_at=when)) for when in ((), (Every(1),)))
    assert plain.path != logged.path, "another configuration, another run"
    assert (plain.path / "metrics.parquet").read_bytes() == (logged.path / "metrics.parquet").read_bytes()
    for step in plain.checkpoints():
        weights = (run.load_model(step).state_dict() for run in (plain, logged))
        assert all(a.equal(b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert not (plain.path / "gradients.parquet").exists()
    assert [file.name for file in logged.path.glob("*.jsonl")] == ["sessions.jsonl"]


def test_nothing_is_split_in_training_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []

    split = ICLTask.split_gradient

    def noting(self: ICLTask, model: Any, *args: Any) -> Any:
        modes.append(model.training)
        return split(self, model, *args)

    monkeypatch.setattr(ICLTask, "split_gradient", noting)
    run = Run.at(tmp_path, LOGGED)
    trainer = Trainer(run, task := run.task(), EvaluationSets(task, 8))
    assert trainer.model.training
    trainer.observe()
    assert modes == [False]
    assert trainer.model.training
    with pytest.raises(ValueError, match="evaluation mode"):
        run.task().split_gradient(trainer.model, run.task().held_out(4))


def kill(root: Path, config: RunConfig, moment: int) -> None:
    """Train in a process of its own that dies at some moment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking is safe here: no other thread holds a lock
        process = multiprocessing.get_context("fork").Process(target=child, args=(root, moment, config))
        process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = tiny(gradients_at=(Every(2),), evaluate_at=(Every(3),), checkpoint_at=(Every(5),))
    whole = trained(tmp_path / "whole", config)
    file = tmp_path / "killed" / config.name / "gradients.jsonl"
    logged: list[int] = []
    for moment in (2, 9, 14, 11, 17, 8):
        kill(tmp_path / "killed", config, moment)
        logged.append(len(file.read_text().splitlines()) if file.exists() else 0)
    assert logged[0] < logged[-1] < 7, f"it gets on between its deaths: {logged}"
    resumed = trained(tmp_path / "killed", config)
    assert files_of(resumed) == files_of(whole)
    assert "gradients.parquet" in files_of(whole)


def test_a_run_that_ends_early_logs_where_it_ends(tmp_path: Path) -> None:
    run = trained(tmp_path, tiny(stop_at=StopAt(0.0, evaluations=2), gradients_at=(At((0,)),)))
    assert sorted(run.gradients().step.unique()) == [0, 4]


def test_a_gradient_that_is_not_finite_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    wild = tiny(optimizer=SGD(rate=1e30), evaluate_at=(), checkpoint_at=(), gradients_at=(Every(1),))
    with pytest.raises(RunError, match=r"diverged: at step \d+ the (loss|gradient).*Use a smaller rate"):
        trained(tmp_path, wild)
    run = Run.at(tmp_path, wild)
    assert run.status == "failed"
    assert sorted(run.gradients().step.unique())[0] == 0, "what was measured before is kept"


def test_what_is_not_logged_or_was_changed_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, tiny("classic", gradients_at=(Every(12),)))
    assert (run.gradients().stream == 0).all()
    (run.path / "gradients.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="does not have the hash that run.json states"):
        run.gradients()
    with pytest.raises(RunError, match="logged no gradients; train with --gradients-every N"):
        trained(tmp_path, tiny("classic")).gradients()
    with pytest.raises(RunError, match="has logged no gradients yet; let it train on"):
        Run.at(tmp_path, LOGGED).gradients()


def test_configurations_with_a_schedule_survive_storage() -> None:
    assert RunConfig.from_plain(LOGGED.to_plain()) == LOGGED
    assert LOGGED.id != dataclasses.replace(LOGGED, training=dataclasses.replace(LOGGED.training, gradients_at=())).id


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str]:
        status = main([*words, "--root", str(tmp_path)])
        said = capsys.readouterr()
        return status, said.out + said.err

    assert run("train", "icl", "--steps", "4", "--layers", "3", "--gradients-every", "2", "--workers", "1")[0] == 0
    assert run("train", "icl", "--steps", "4", "--variant", "classic", "--workers", "1")[0] == 0
    status, said = run("gradients", "icl-value", "--logged")
    assert status == 0
    assert "gradient of the loss by route, as logged in training; first, middle and last of 3 steps" in said
    words = ("gradients", "icl-value", "--n", "8", "--activations", "blocks.0.attn.hook_v")
    for by, analysis in (("total", "gradients"), ("pair", "gradient_pairs")):
        status, said = run(*words, "--by", by)
        assert status == 0
        assert "blocks.0.attn.hook_v" in said
        assert f"{analysis}.parquet" in said
    for mistake, message in (
        (("icl-value", "--logged", "--by", "pair"), "--by: what was logged is as the training logged it"),
        (("icl-classic", "--logged"), "logged no gradients; train with --gradients-every N"),
        (("icl-classic", "--by", "pair"), "this split knows no layer pairs"),
        (("icl-value", "--activations", "blocks.0.attn.hok_v"), "did you mean 'blocks.0.attn.hook_v'"),
        (("icl-value", "--split", "trian"), "unknown split 'trian': did you mean 'train'"),
    ):
        status, said = run("gradients", *mistake)
        assert status == 2
        assert message in said
