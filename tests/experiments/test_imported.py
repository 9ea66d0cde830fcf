"""Runs of models that others trained: stored, listed, asked and refused as they should be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuits import load_pretrained
from experiments.cli import main
from experiments.runs.config import RunConfig, lm_run
from experiments.runs.imported import import_model
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.table import runs_table
from experiments.runs.training_config import NoTraining, TokenTraining
from experiments.tasks.imported import ImportedConfig
from tests.circuits.loading.test_huggingface import CASES, SIZES, stored, tokens
from tests.circuits.loading.test_pretrained import words


def test_a_model_becomes_a_run_that_is_told_by_its_weights(tmp_path: Path) -> None:
    folder, root = tmp_path / "theirs", tmp_path / "runs"
    stored("llama", folder)
    words(folder, 29)
    run = import_model(folder, root)
    assert run.finished
    assert run.checkpoints() == [0]
    assert run.path.name.startswith("lm-imported-classic-llama-s0-")
    model, wanted = run.load_model(), load_pretrained(folder)
    assert torch.equal(model(tokens()), wanted(tokens()))
    assert model.to_tokens("w3 w5").tolist() == [[0, 3, 5]]
    assert Run.open(run.path).config == run.config
    before = (run.path / "run.json").read_bytes()
    folder.rename(tmp_path / "elsewhere")
    again = import_model(tmp_path / "elsewhere", root)
    assert (again.path, (again.path / "run.json").read_bytes()) == (run.path, before)
    file = tmp_path / "elsewhere" / "model.safetensors"
    held = load_file(file)
    held["model.norm.weight"] += 1
    save_file(held, file)
    assert import_model(tmp_path / "elsewhere", root).config.id != run.config.id
    assert list(runs_table(root)[["task", "variant", "preset", "status", "step"]].iloc[0]) == [
        *("imported", "classic", "llama", "finished", 0)
    ]


@pytest.mark.parametrize("name", ["llama, one layer", "qwen3, one layer"])
def test_a_model_of_one_layer_is_imported_as_one_without_a_stream(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        CASES,
        name,
        CASES[name.partition(",")[0]].__class__(**{**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 2}),
    )
    stored(name, tmp_path / "theirs")
    words(tmp_path / "theirs", 29)
    run = import_model(tmp_path / "theirs", tmp_path / "runs")
    assert (run.config.variant, run.load_model().config.n_layers) == ("classic", 1)
    assert torch.equal(run.load_model()(tokens()), load_pretrained(tmp_path / "theirs")(tokens()))
    with pytest.raises(ValueError, match="'gemma-sharing' is the name of a rule, .*; call the variant 'classic'"):
        dataclasses.replace(run.config, variant="gemma-sharing")


def test_the_command_says_what_was_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored("mistral", tmp_path / "theirs")
    root = tmp_path / "runs"
    assert main(["import", str(tmp_path / "theirs"), "--root", str(root)]) == 0
    said = capsys.readouterr().out
    [run] = Run.under(root)
    assert str(run.path) in said
    assert "3 layers, 4 heads of 4" in said
    assert "It has no tokenizer and takes token numbers" in said
    assert main(["runs", "--root", str(root)]) == 0
    assert "imported" in capsys.readouterr().out
    assert main(["patch", run.path.name, "--root", str(root)]) == 2
    assert "is a model that others trained and has no task" in capsys.readouterr().err
    assert main(["import", "Qwen/Qwen3-0.6B", "--root", str(root)]) == 2
    assert "nothing is downloaded here" in capsys.readouterr().err


def test_no_task_and_no_training_go_together(tmp_path: Path) -> None:
    stored("llama", tmp_path)
    run = import_model(tmp_path, tmp_path / "runs")
    with pytest.raises(RunError, match="has no task"):
        run.asker()
    given, trained = run.config, lm_run("0.2m", "stories", "classic", 0)
    for task, model, training in (
        (given.task, given.model, TokenTraining(3)),
        (trained.task, trained.model, NoTraining()),
    ):
        with pytest.raises(ValueError, match="ImportedConfig and NoTraining go together"):
            RunConfig(task, model, training, 0, "classic", "llama")
    with pytest.raises(ValueError, match="there are no steps, got 3"):
        NoTraining(3)
    with pytest.raises(ValueError, match="n_ctx must be"):
        ImportedConfig(0)
