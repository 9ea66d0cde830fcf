"""The door for models of others: what it reads, checks, attaches and refuses."""

from __future__ import annotations

import base64
import json
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from circuits import load_pretrained
from circuits.loading.tokenizers import given_tokenizer
from tests.circuits.loading.test_huggingface import stored, tokens


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    stored("llama", folder)
    return folder


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "llama"))


def test_weights_of_the_folder_may_be_rounded_or_torch_s(folder: Path) -> None:
    file = folder / "model.safetensors"
    halves = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(halves, file)
    model = load_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.W_E.bfloat16(), halves["model.embed_tokens.weight"])
    assert model.cfg.dtype == torch.float32
    file.unlink()
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in halves.items()}, folder / "pytorch_model.bin")
    again = load_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(again.W_E, halves["model.embed_tokens.weight"])
    assert again(tokens()).dtype == torch.bfloat16
    # Nothing of the model lies in the file any more.
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert torch.equal(again.W_E, halves["model.embed_tokens.weight"])


def test_logits_of_its_own_code_are_checked(folder: Path) -> None:
    wanted = load_pretrained(folder)(tokens()).detach().contiguous()
    save_file({"tokens": tokens(), "logits": wanted}, folder / "reference_logits.safetensors")
    assert torch.equal(load_pretrained(folder)(tokens()), wanted)
    load_pretrained(folder, dtype=torch.bfloat16)
    wanted[0, 3, 5] += 0.1
    save_file({"tokens": tokens(), "logits": wanted}, folder / "reference_logits.safetensors")
    with pytest.raises(ValueError, match=r"does not give the logits of its own code: .* differ by up to 0.1"):
        load_pretrained(folder)
    save_file({"tokens": tokens(), "logits": wanted[:, :-1].contiguous()}, folder / "reference_logits.safetensors")
    with pytest.raises(ValueError, match=r"have the shape \(2, 10, 29\), and the model's \(2, 11, 29\)"):
        load_pretrained(folder)


def test_a_tensor_with_and_without_what_a_wrapper_puts_before_it_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    save_file(wrapped, file)
    load_pretrained(folder)
    save_file(tensors | {"module.model.norm.weight": tensors["model.norm.weight"] + 1}, file)
    with pytest.raises(ValueError, match=r"holds two tensors that are 'model.norm.weight' without what a wrapper"):
        load_pretrained(folder)
    file.rename(folder / "part.safetensors")
    save_file(wrapped, folder / "part.safetensors")
    index = {"weight_map": dict.fromkeys(wrapped, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load_pretrained(folder).W_E, tensors["model.embed_tokens.weight"].float())


# --- tokenizers -------------------------------------------------------------------------------------------------------


def words(folder: Path, n: int, bos: str = "<s>") -> Path:
    """A tokenizer.json of n words that opens every text."""
    vocabulary = {bos: 0} | {f"w{i}": i for i in range(1, n)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=bos))
    backend.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment] # the stubs know the getter's type only
    backend.add_special_tokens([bos])
    backend.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])  # type: ignore[assignment] # as above
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_a_tokenizer_of_the_folder_opens_texts_as_its_template_says(folder: Path) -> None:
    assert load_pretrained(folder).tokenizer is None
    file = words(folder, 29)
    model = load_pretrained(folder)
    assert model.to_tokens("w3 w5").tolist() == [[0, 3, 5]]
    file.rename(folder / "other.json")
    assert load_pretrained(folder).tokenizer is None
    assert load_pretrained(folder, tokenizer=folder / "other.json").to_tokens("w3").tolist() == [[0, 3]]
    for n in (30, 12):
        words(folder, n)
        with pytest.raises(ValueError, match=f"has {n} tokens and the model 29: it is of another vocabulary"):
            load_pretrained(folder)


def ranks(folder: Path) -> Path:
    pieces = [bytes([i]) for i in range(256)] + [b"ab", b"abc", b" a", b" ab", b"12"]
    file = folder / "tokenizer.tiktoken"
    file.write_text("\n".join(f"{base64.b64encode(piece).decode()} {i}" for i, piece in enumerate(pieces)))
    return file


def test_ranks_are_merged_lowest_first_and_special_tokens_follow(tmp_path: Path) -> None:
    file = ranks(tmp_path)
    tokenizer = given_tokenizer(file, r"\p{N}{1,2}| ?\p{L}+|\s+", ("<|bos|>", "<|end|>"))
    assert len(tokenizer) == 263
    assert tokenizer.bos_token_id == 261
    # " abc" is " ab" + "c": of the pairs "ab" and " a", the first has the lower rank, and then " " + "ab" is a token.
    assert tokenizer.encode("abc abc121<|end|>") == [261, 257, 32, 257, 260, ord("1"), 262]
    assert tokenizer.decode(tokenizer.encode("aäb  12")[1:]) == "aäb  12"
    with pytest.raises(ValueError, match="how models of this family cut texts"):
        given_tokenizer(file, None, ())
    file.write_text("\n".join([*file.read_text().splitlines()[:-3], "YQ== 999"]))
    with pytest.raises(ValueError, match="are not 0, 1, 2, ... each once"):
        given_tokenizer(file, ".", ())
    file.write_text("no ranks at all")
    with pytest.raises(ValueError, match="neither a tokenizer.json nor a file of ranks"):
        given_tokenizer(file, ".", ())


def test_a_pickled_tokenizer_is_not_opened(folder: Path) -> None:
    class Touches:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (folder / "touched",)

    file = folder / "tokenizer.pkl"
    file.write_bytes(pickle.dumps(Touches()))
    with pytest.raises(ValueError, match=r"is a pickle and is not opened.*\n\nimport base64(?s:.*)write_text"):
        load_pretrained(folder, tokenizer=file)
    torch.save({"weight": Touches()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is a pickle of more than tensors and is not opened"):
        load_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="is a pickle and no file of tensors"):
        load_pretrained(folder)
    assert not (folder / "touched").exists()
    pickle.loads(file.read_bytes())
    assert (folder / "touched").exists(), "it would have run"


# --- what cannot be loaded --------------------------------------------------------------------------------------------


def test_a_name_on_the_hub_is_refused_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(
        FileNotFoundError, match=r"nothing is downloaded.*hf download Qwen/Qwen3-0.6B --local-dir FOLDER"
    ):
        load_pretrained("Qwen/Qwen3-0.6B")
    with pytest.raises(FileNotFoundError, match="there is no folder gpt2"):
        load_pretrained("gpt2")
    assert time.monotonic() - began < 1


def test_folders_that_are_not_whole_say_what_is_missing(folder: Path) -> None:
    file, config = folder / "model.safetensors", folder / "config.json"
    whole = file.read_bytes()
    for length in (len(whole) // 2, 40, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut short or damaged"):
            load_pretrained(folder)
    file.unlink()
    with pytest.raises(ValueError, match="has no weights: there is no model.safetensors"):
        load_pretrained(folder)
    torch.save({"a": torch.zeros(1000)}, folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:900])
    with pytest.raises(ValueError, match="cut short or damaged"):
        load_pretrained(folder)
    config.write_text(config.read_text()[:50])
    with pytest.raises(ValueError, match="is no json that can be read"):
        load_pretrained(folder)
    config.unlink()
    with pytest.raises(ValueError, match="has no configuration of a known family"):
        load_pretrained(folder)
    with pytest.raises(ValueError, match=r"has no config.json"):
        load_pretrained(folder, family="llama")
    with pytest.raises(ValueError, match="did you mean 'llama'"):
        load_pretrained(folder, family="lama")


def test_parts_of_sharded_weights_are_missed(tmp_path: Path) -> None:
    stored("llama", tmp_path, shards=True)
    index = tmp_path / "model.safetensors.index.json"
    held = json.loads(index.read_text())
    place = tmp_path / held["weight_map"]["model.norm.weight"]
    shutil.copy(place, tmp_path / "kept")
    place.unlink()
    with pytest.raises(ValueError, match=f"{place.name} is missing"):
        load_pretrained(tmp_path)
    (tmp_path / "kept").rename(place)
    held["weight_map"]["model.extra"] = place.name
    index.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="lists tensors that no file holds: model.extra"):
        load_pretrained(tmp_path)
    held["weight_map"]["model.extra"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="names files outside of its folder"):
        load_pretrained(tmp_path)


def test_too_little_memory_is_said_before_it_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Little:
        available = 4_000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    with pytest.raises(ValueError, match="pass a smaller dtype"):
        load_pretrained(folder)
