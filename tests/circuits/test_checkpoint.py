"""Checkpoints hold what they say, refuse what they are not, and transplants are explicit."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from circuits import (
    CheckpointError,
    HookedStreamTransformer,
    ModelConfig,
    icl_config,
    load_checkpoint,
    save_checkpoint,
    transplant,
)
from circuits.checkpoint import read_about, read_tensors, tensor_bytes
from circuits.common.files import write_atomically, write_new
from tests.helpers import ALL, build, inputs_for, model_of, token_config


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_a_model_comes_back_as_it_was(tmp_path: Path, variant: str, kind: str) -> None:
    model = build(variant, kind)
    digest = save_checkpoint(tmp_path / "m.safetensors", model, step=7)
    back = load_checkpoint(tmp_path / "m.safetensors", expect=model.config)
    assert back.config == model.config
    assert not back.training
    x = inputs_for(model.config)
    assert torch.equal(back(x), model(x))
    assert read_about(tmp_path / "m.safetensors")["step"] == 7
    assert save_checkpoint(tmp_path / "again.safetensors", back, step=7) == digest
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@pytest.mark.parametrize("variant", ALL)
def test_configurations_survive_storage(variant: str) -> None:
    for config in (icl_config(variant), token_config(variant)):
        assert ModelConfig.from_plain(config.to_plain()) == config


def test_another_architecture_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    file = tmp_path / "classic.safetensors"
    save_checkpoint(file, HookedStreamTransformer(icl_config("classic", "small")))
    wanted = icl_config("value", "small", attention_scale=True)
    with pytest.raises(
        CheckpointError, match=r"another architecture .*attention_scale: false / true; streams: \[\] / \["
    ):
        load_checkpoint(file, expect=wanted)
    with pytest.raises(CheckpointError, match=r"use circuits.transplant\(model, config\)"):
        load_checkpoint(file, expect=wanted)
    same = dataclasses.replace(icl_config("classic", "small"), name="another label")
    assert load_checkpoint(file, expect=same).config.name == "classic"


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, build("value"))
    with safe_open(file, "pt") as held:
        header, tensors = held.metadata(), {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    tensors["unembed.W_U"][0, 0] += 1
    save_file(tensors, file, header)
    with pytest.raises(CheckpointError, match="does not have the hash that it states"):
        load_checkpoint(file)
    save_file(tensors, file, {"valuestream": '{"format": "another-7"}'})
    with pytest.raises(
        CheckpointError, match="has the format 'another-7'; this version reads 'valuestream-checkpoint-2'"
    ):
        load_checkpoint(file)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="has the format None"):
        load_checkpoint(file)


def test_a_cut_or_foreign_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, build("value"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="was cut short"):
        load_checkpoint(file)
    file.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        load_checkpoint(file)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.safetensors"
    model = build("value")
    save_checkpoint(file, model)
    before = file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"], "no temporary file is left"


def test_tensors_without_a_model_are_told_from_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "rows", tensor_bytes({"rows": torch.ones(3)}, {"step": 2}))
    with pytest.raises(CheckpointError, match="holds tensors and no architecture: it was not written by save_chec"):
        load_checkpoint(tmp_path / "rows")
    assert torch.equal(read_tensors(tmp_path / "rows")[0]["rows"], torch.ones(3))
    with pytest.raises(ValueError, match="a checkpoint's config is its model's own; store another under another name"):
        save_checkpoint(tmp_path / "model", build("value"), config={"lr": 0.1})
    assert not (tmp_path / "model").exists()


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: under one name the second would write into what the first is about to move into place."""
    both = threading.Barrier(2, timeout=10)
    monkeypatch.setattr("os.fsync", lambda descriptor: both.wait())
    for name, write in (("a", write_atomically), ("b", write_new)):
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(partial(write, tmp_path / name), (b"one" * 9, b"other")))
        assert (tmp_path / name).read_bytes() in (b"one" * 9, b"other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, build("value"))
    assert b"pickle" not in file.read_bytes()
    assert set(read_tensors(file)[0]) == set(build("value").state_dict())


# --- transplant -----------------------------------------------------------------------------------------------------


def test_transplanted_weights_run_in_another_body() -> None:
    classic = build("classic")
    config = build("value").config
    body = transplant(classic, config)
    assert body.config == config
    assert body.config.name == "classic in value"
    for name, tensor in classic.state_dict().items():
        assert torch.equal(body.state_dict()[name], tensor)
    x = inputs_for(config)
    assert not torch.allclose(body(x), classic(x)), "the stream that they were never trained with changes the answer"
    back = transplant(body, classic.config)
    assert torch.equal(back(x), classic(x))


def test_mixing_parameters_start_where_the_configuration_says() -> None:
    classic = build("classic")
    body = transplant(classic, build("resformer-learned").config)
    assert float(body.state_dict()["blocks.1.attn.mix.v.own_gain"]) == 0.5
    assert torch.equal(
        transplant(body, classic.config)(inputs_for(classic.config)), classic(inputs_for(classic.config))
    )


def test_weights_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"blocks.2.attn.W_Q is missing.*blocks.2.attn.W_V is missing"):
        transplant(build("classic"), build("value", n_layers=3).config)
    with pytest.raises(ValueError, match=r"blocks.1.attn.W_V would be left behind"):
        transplant(build("classic"), build("svformer").config)
    with pytest.raises(ValueError, match=r"unembed.W_U is \(12, 5\), wanted \(64, 32\)"):
        transplant(build("classic"), icl_config("value", "small"))


def test_what_is_read_lies_in_memory_as_what_was_written(tmp_path: Path) -> None:
    """Products of weights that are not aligned may round otherwise."""
    save_checkpoint(tmp_path / "model", model_of(token_config()))
    loaded = load_checkpoint(tmp_path / "model")
    assert {p.data_ptr() % 64 for p in loaded.parameters()} == {0}
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in loaded.parameters()), "none keeps the whole file"
