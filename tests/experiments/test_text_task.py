"""Text corpora: what windows hold and how often, what is held out, what is kept on the disk, and refusals that help."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from datasets.config import HF_DATASETS_CACHE
from torch.nn import functional

from circuits.common.errors import UnknownNameError
from circuits.common.plain_data import content_hash, from_plain, to_plain
from experiments.tasks.text import corpus as corpora
from experiments.tasks.text.corpus import LocalCorpus
from experiments.tasks.text.task import TextTask, TextTaskConfig
from experiments.tasks.text.windows import held_out
from experiments.tasks.tokenizers import PreTrainedTokenizerBase, save_tokenizer, word_level
from experiments.tasks.tokens.batches import TokenBatch, next_token_loss
from experiments.tasks.tokens.task import TokenTask

WORDS = [f"w{i}" for i in range(60)]
N_CTX = 8
Write = Callable[[Path, list[str]], None]


def document(i: int) -> str:
    """Document i of the corpus: its number, then between 1 and 11 words more."""
    return " ".join([f"w{i}", *(f"w{(i * 7 + j) % 60}" for j in range(1 + i % 11))])


DOCUMENTS = [document(i) for i in range(50)]


def write_text(path: Path, documents: list[str]) -> None:
    path.write_text("\n".join(documents) + "\n\n")


def write_separated(path: Path, documents: list[str]) -> None:
    path.write_text("\n<|endoftext|>\n".join(documents))


def write_lines(path: Path, documents: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": d, "number": i}) + "\n" for i, d in enumerate(documents)))


def write_array(path: Path, documents: list[str]) -> None:
    path.write_text(json.dumps([{"text": d} for d in documents]))


def write_parquet(path: Path, documents: list[str]) -> None:
    pd.DataFrame({"text": pd.Series(documents, dtype=object), "number": range(len(documents))}).to_parquet(path)


FORMATS: dict[str, tuple[str, Write, dict[str, Any]]] = {
    "lines of text": (".txt", write_text, {}),
    "separated text": (".txt", write_separated, {"separator": "<|endoftext|>"}),
    "jsonl": (".jsonl", write_lines, {}),
    "json": (".json", write_array, {}),
    "parquet": (".parquet", write_parquet, {}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VALUESTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """Words only; the beginning of a story is its end as well, so that documents can be joined."""
    tokenizer = word_level(WORDS)
    tokenizer.eos_token = "<story>"
    return tokenizer


@pytest.fixture(scope="module")
def words(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("words")
    save_tokenizer(tokenizer, folder)
    return str(folder)


@pytest.fixture
def config(tmp_path: Path, words: str) -> TextTaskConfig:
    write_lines(tmp_path / "stories.jsonl", DOCUMENTS)
    return TextTaskConfig(str(tmp_path / "stories.jsonl"), words, n_ctx=N_CTX, validation=0.2)


def texts(task: TextTask, batch: TokenBatch) -> list[str]:
    """The windows as text, without padding."""
    return [str(task.tokenizer.decode([t for t in row if t != 0])) for row in batch.tokens.tolist()]


def cut(text: str) -> str:
    return " ".join(text.split()[:N_CTX])


def everything(task: TextTask, split: str) -> list[str]:
    return texts(task, task.sample(task.n_windows(split), split))


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_windows(kind: str, config: TextTaskConfig, tmp_path: Path) -> None:
    suffix, write, reading = FORMATS[kind]
    write(tmp_path / f"other{suffix}", DOCUMENTS)
    other = TextTask(dataclasses.replace(config, corpus=str(tmp_path / f"other{suffix}"), **reading))
    for split in ("train", "validation"):
        assert torch.equal(other.sample(30, split).tokens, TextTask(config).sample(30, split).tokens)


def test_windows_are_cut_or_padded_and_count_what_they_hold(config: TextTaskConfig) -> None:
    task = TextTask(config)
    batch = task.sample(task.n_windows())
    lengths = {cut(text): min(len(text.split()), N_CTX) for text in DOCUMENTS}
    assert batch.tokens.shape == (40, N_CTX)
    assert batch.tokens.dtype == torch.int64
    assert batch.counted is not None
    for row, counted, text in zip(batch.tokens, batch.counted, texts(task, batch), strict=True):
        n = lengths[text]
        assert row[n:].tolist() == [task.tokenizer.pad_token_id] * (N_CTX - n)
        assert counted.tolist() == [place + 1 < n for place in range(N_CTX)]
    assert {len(text.split()) for text in DOCUMENTS} >= {2, N_CTX - 1, N_CTX, N_CTX + 1}, "all cases occur"


def test_the_loss_is_that_of_the_predictions_that_count(config: TextTaskConfig) -> None:
    batch = TextTask(config).sample(16)
    logits = torch.randn(*batch.tokens.shape, 63, generator=torch.Generator().manual_seed(0))
    single = [
        functional.cross_entropy(logits[i, p], batch.tokens[i, p + 1])
        for i in range(16)
        for p in range(N_CTX - 1)
        if batch.tokens[i, p + 1] != 0
    ]
    torch.testing.assert_close(next_token_loss(logits, batch), torch.stack(single).mean())
    everywhere = next_token_loss(logits, TokenBatch(batch.tokens))
    assert not torch.isclose(everywhere, next_token_loss(logits, batch)), "padding would change it"
    with pytest.raises(ValueError, match=r"logits are of windows \(16, 5\)"):
        next_token_loss(logits[:, :5], batch)


def test_batches_are_cut_and_moved_with_what_counts(config: TextTaskConfig) -> None:
    batch = TextTask(config).sample(6)
    part = batch[2:4].to("cpu")
    assert len(part) == 2
    assert part.counted is not None
    assert batch.counted is not None
    assert torch.equal(part.tokens, batch.tokens[2:4])
    assert torch.equal(part.counted, batch.counted[2:4])


def test_it_is_a_task_of_tokens(config: TextTaskConfig) -> None:
    task = TextTask(config)
    assert isinstance(task, TokenTask)
    assert (task.d_vocab, task.n_ctx, task.questions(5)) == (63, N_CTX, {})


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_equal_arguments_give_equal_windows_and_other_steps_or_seeds_others(config: TextTaskConfig) -> None:
    one, again, other = TextTask(config), TextTask(config), TextTask(config, seed=1)
    assert torch.equal(one.sample(8, seed=3).tokens, again.sample(8, seed=3).tokens)
    assert not torch.equal(one.sample(8, seed=3).tokens, one.sample(8, seed=4).tokens)
    assert not torch.equal(one.sample(8, seed=3).tokens, other.sample(8, seed=3).tokens)


@pytest.mark.parametrize("n", [8, 7, 40, 64])
def test_every_document_comes_exactly_once_an_epoch(config: TextTaskConfig, n: int) -> None:
    task = TextTask(config)
    size = task.n_windows()
    walk = [text for step in range(-(-3 * size // n)) for text in texts(task, task.sample(n, seed=step))]
    epochs = [walk[size * e : size * (e + 1)] for e in range(3)]
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(epochs[2])
    assert epochs[0] != epochs[1], "each in another order"
    assert set(epochs[0]) | set(everything(task, "validation")) == {cut(text) for text in DOCUMENTS}


def test_held_out_documents_are_never_trained_on_whatever_the_seed_and_order(
    config: TextTaskConfig, tmp_path: Path
) -> None:
    task = TextTask(config)
    held = set(everything(task, "validation"))
    assert len(held) == 10
    assert not held & set(everything(task, "train"))
    write_lines(tmp_path / "turned.jsonl", DOCUMENTS[::-1])
    turned = TextTask(dataclasses.replace(config, corpus=str(tmp_path / "turned.jsonl")), seed=7)
    assert set(everything(turned, "validation")) == held


@pytest.mark.parametrize("n", [3, 4, 7, 10])
def test_no_held_out_window_comes_twice_in_a_batch(config: TextTaskConfig, n: int) -> None:
    task, seeds = TextTask(config), [0, 1, 2, 3, 4, 2**40]
    size = task.n_windows("validation")
    assert size == 10
    for seed in seeds:
        batch = texts(task, task.sample(n, "validation", seed))
        assert len(set(batch)) == len(batch) == n
        first = seed * n % size
        walked = texts(task, task.walk("validation", seed * n, (seed + 1) * n))
        assert (batch == walked) is (first + n <= size), "a step within an epoch is as it always was"
    crossing = [texts(task, task.walk("validation", seed * 7, (seed + 1) * 7)) for seed in range(1, 9)]
    assert any(len(set(rows)) < 7 for rows in crossing), "and one across its end would have some twice"


def test_of_a_corpus_only_validation_is_not_trained_on(config: TextTaskConfig) -> None:
    task = TextTask(config)
    trained = set(everything(task, "train"))
    assert set(texts(task, task.held_out(8))) <= trained
    assert not set(texts(task, task.held_out(8, "validation"))) & trained
    assert texts(task, task.held_out(8)) != texts(task, task.sample(8))


def test_what_is_held_out_is_no_window_that_is_trained_on(config: TextTaskConfig, tmp_path: Path) -> None:
    """Documents may be told apart by what no window has of them."""
    held = everything(TextTask(config), "validation")
    alike = next(text for text in held if len(text.split()) == N_CTX)
    rest = [f"w5 w{i}" for i in range(10)] + [f"w6 {alike}", alike]
    longer = [f"{alike} w{i} w59" for i in range(40)]
    write_lines(tmp_path / "stories.jsonl", [*DOCUMENTS, *longer, *rest])
    changed = dataclasses.replace(config, content=None)
    with pytest.warns(UserWarning, match=r"\d+ of \d+ documents of corpus .* begin with the first 8 tokens"):
        task = TextTask(changed)
    train, validation = (set(everything(task, split)) for split in ("train", "validation"))
    assert not train & validation
    assert alike in validation
    assert f"w6 {cut(alike)}".split()[:N_CTX] in [text.split() for text in train | validation], "begins otherwise"
    packed = TextTask(dataclasses.replace(changed, packed=True))
    assert packed.n_windows() > 0, "joined, documents have all of their tokens"
    write_lines(tmp_path / "stories.jsonl", longer)
    refused(changed, "all documents of corpus .* so nothing is left; choose a larger n_ctx, or packed=True")


def test_equal_documents_are_on_the_same_side(config: TextTaskConfig, tmp_path: Path) -> None:
    write_lines(tmp_path / "twice.jsonl", DOCUMENTS + DOCUMENTS)
    twice = TextTask(dataclasses.replace(config, corpus=str(tmp_path / "twice.jsonl")))
    assert twice.n_windows("train") + twice.n_windows("validation") == 100
    assert not set(everything(twice, "validation")) & set(everything(twice, "train"))


def test_the_share_held_out_is_exact_and_leaves_something_to_both() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 1_000).astype(np.uint64)
    assert [held_out(hashes, share).sum() for share in (0.0001, 0.01, 0.25, 0.9999)] == [1, 10, 250, 999]


def test_of_validation_there_are_at_most_as_many_windows_as_there_are(config: TextTaskConfig) -> None:
    task = TextTask(config)
    assert len(task.sample(1_000, "validation")) == 10
    assert len(task.sample(4, "validation")) == 4
    assert len(task.sample(1_000)) == 1_000
    with pytest.raises(UnknownNameError, match="did you mean 'validation'"):
        task.sample(4, "validate")
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, got 0"):
        task.sample(0)


def test_other_files_can_be_held_out(config: TextTaskConfig, tmp_path: Path) -> None:
    write_lines(tmp_path / "held.jsonl", ["w1 w2 w3", "w4 w5"])
    task = TextTask(dataclasses.replace(config, validation=str(tmp_path / "held.jsonl")))
    assert sorted(everything(task, "validation")) == ["w1 w2 w3", "w4 w5"]
    assert task.n_windows() == 50


def test_a_folder_and_a_pattern_are_all_their_files(config: TextTaskConfig, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    write_lines(folder / "b.jsonl", DOCUMENTS[30:])
    write_lines(folder / "a.jsonl", DOCUMENTS[:30])
    (folder / "README.md").write_text("not a corpus")
    for name in (folder, folder / "*.jsonl"):
        other = TextTask(dataclasses.replace(config, corpus=str(name)))
        assert torch.equal(other.sample(50).tokens, TextTask(config).sample(50).tokens)


# --- packed -----------------------------------------------------------------------------------------------------------


def test_packed_windows_are_the_documents_joined_by_end_tokens(config: TextTaskConfig) -> None:
    task = TextTask(dataclasses.replace(config, packed=True))
    separate = TextTask(config)
    assert task.tokenizer.eos_token_id is not None
    for split in ("train", "validation"):
        mine = set(everything(separate, split))
        joined = [n for text in DOCUMENTS if cut(text) in mine for n in [*task.tokenizer(text)["input_ids"], 2]]
        batch = task.sample(task.n_windows(split), split)
        expected = [joined[i : i + N_CTX] for i in range(0, len(joined) - N_CTX + 1, N_CTX)]
        assert batch.counted is None
        assert sorted(batch.tokens.tolist()) == sorted(expected)


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_corpus_is_read_once(config: TextTaskConfig, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TextTask(config).sample(20)
    monkeypatch.setattr(LocalCorpus, "batches", lambda self: pytest.fail("the corpus was read again"))
    assert torch.equal(TextTask(config).sample(20).tokens, first.tokens)
    TextTask(dataclasses.replace(config, n_ctx=4, validation=0.5, packed=True))
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert not [path for path in kept if path.suffix == ".tmp"]
    assert {path.name for path in kept if path.suffix == ".npy"} == {"tokens.npy", "ends.npy", "hashes.npy"}


def test_another_content_is_read_anew_under_the_same_name(config: TextTaskConfig) -> None:
    before = TextTask(config).n_windows()
    write_lines(Path(config.corpus), DOCUMENTS[:40])
    assert TextTask(config).n_windows() == before - 8


def test_an_unchanged_file_is_not_hashed_again(config: TextTaskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    old = time.time() - 60
    os.utime(config.corpus, (old, old))
    TextTask(config)
    monkeypatch.setattr(corpora, "_read_whole", lambda *_: pytest.fail("the file was hashed again"))
    TextTask(config)
    os.utime(config.corpus, (old - 1, old - 1))
    with pytest.raises(pytest.fail.Exception, match="hashed again"):
        TextTask(config)


def test_an_interrupted_beginning_leaves_nothing_that_is_taken_for_tokens(
    config: TextTaskConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(_: LocalCorpus) -> Any:
        yield DOCUMENTS[:10]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalCorpus, "batches", batches)
        with pytest.raises(KeyboardInterrupt):
            TextTask(config)
    assert not list(cache.rglob("*.npy"))
    assert TextTask(config).n_windows() == 40


def test_nothing_is_written_outside_the_cache(config: TextTaskConfig, tmp_path: Path) -> None:
    def usual() -> set[Path]:
        return set(Path(HF_DATASETS_CACHE).rglob("*"))

    before = usual()
    TextTask(config, cache=tmp_path / "elsewhere")
    assert usual() == before
    assert not (tmp_path / "cache").exists()
    assert list((tmp_path / "elsewhere").rglob("*.npy"))


def test_many_batches_are_one_corpus(config: TextTaskConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "BATCH", 7)
    monkeypatch.setattr(corpora, "CHUNK", 11)
    write_separated(tmp_path / "pieces.txt", DOCUMENTS)
    pieces = dataclasses.replace(config, corpus=str(tmp_path / "pieces.txt"), separator="<|endoftext|>")
    assert Counter(everything(TextTask(pieces), "train")) == Counter(everything(TextTask(config), "train"))


def test_a_cache_that_cannot_be_written_is_refused(config: TextTaskConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written; name another folder in the environment variable VALUES"):
        TextTask(config, cache=tmp_path / "file")


# --- what a configuration says ----------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_plain_data(config: TextTaskConfig) -> None:
    for validation in (0.25, "validation"):
        stored = dataclasses.replace(config, validation=validation)
        assert from_plain(TextTaskConfig, to_plain(stored)) == stored


def test_content_is_the_hash_of_the_file_and_another_content_is_refused(config: TextTaskConfig) -> None:
    held = TextTaskConfig.of(config.corpus, config.tokenizer, n_ctx=N_CTX, validation=0.2)
    assert torch.equal(TextTask(held).sample(9).tokens, TextTask(config).sample(9).tokens)
    write_lines(Path(config.corpus), DOCUMENTS[::-1])
    assert TextTaskConfig.of(config.corpus, config.tokenizer).content != held.content
    with pytest.raises(
        ValueError, match=r"corpus .*stories\.jsonl is not the one that this configuration was made for"
    ):
        TextTask(held)
    with pytest.raises(UnknownNameError, match="did you mean 'packed'"):
        TextTaskConfig.of(config.corpus, config.tokenizer, pack=True)


def test_another_tokenizer_under_the_same_name_is_refused(config: TextTaskConfig, tmp_path: Path) -> None:
    save_tokenizer(word_level(WORDS), tmp_path / "words")
    held = TextTaskConfig.of(config.corpus, str(tmp_path / "words"))
    TextTask(held)
    save_tokenizer(word_level(WORDS[::-1]), tmp_path / "words")
    with pytest.raises(ValueError, match="tokenizer .* is not the one that this configuration was made for"):
        TextTask(held)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_ctx": 1}, "n_ctx must be at least 2"),
        ({"separator": ""}, "separator must not be empty"),
        ({"validation": 0.0}, "must lie between 0 and 1, got 0.0"),
        ({"validation": 1.0}, "must lie between 0 and 1"),
        ({"validation": ""}, "got an empty string"),
        ({"corpus": ""}, "need names"),
    ],
)
def test_contradictions_are_refused(config: TextTaskConfig, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(config, **wrong)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_data_set_on_the_hub_is_read_by_split_and_kept(
    config: TextTaskConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str, subset: str | None, **options: Any) -> datasets.Dataset:
        asked.append((name, subset, options["split"], options["revision"]))
        return datasets.Dataset.from_dict({"story": DOCUMENTS[:5] if options["split"] == "held" else DOCUMENTS[5:]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub = dataclasses.replace(config, corpus="somebody/stories", column="story", validation="held", revision="a" * 40)
    task = TextTask(hub)
    assert (task.n_windows("train"), task.n_windows("validation")) == (45, 5)
    assert asked == [("somebody/stories", None, split, "a" * 40) for split in ("train", "held")]
    TextTask(hub)
    assert len(asked) == 2, "a commit stays what it is: nothing is asked again"
    TextTask(dataclasses.replace(hub, revision=None))
    assert len(asked) == 4
    with pytest.raises(UnknownNameError, match="did you mean 'story'"):
        TextTask(dataclasses.replace(hub, column="stories"))


def test_a_corpus_that_cannot_be_had_says_what_to_pass_instead(config: TextTaskConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the hub cannot be reached or has no such data set") as raised:
        TextTask(dataclasses.replace(config, corpus="somebody/stories"), cache=tmp_path / "cache")
    assert "pass a local .txt, .jsonl, .json or .parquet file" in str(raised.value)
    for missing in (str(tmp_path / "nowhere"), "./nowhere", "nowhere.txt"):
        with pytest.raises(ValueError, match=f"there is no file or folder {missing}; pass a local .txt"):
            TextTask(dataclasses.replace(config, corpus=missing))


# --- bad corpora ------------------------------------------------------------------------------------------------------


def refused(config: TextTaskConfig, said: str, **fields: Any) -> str:
    """The message with which a task refuses."""
    with pytest.raises(ValueError, match=said) as raised:
        TextTask(dataclasses.replace(config, **fields))
    return str(raised.value)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("documents", [[], ["", "  "]], ids=["none", "blank"])
def test_empty_corpora_are_refused(kind: str, documents: list[str], config: TextTaskConfig, tmp_path: Path) -> None:
    suffix, write, reading = FORMATS[kind]
    write(tmp_path / f"empty{suffix}", documents)
    refused(config, "is empty: it holds no document", corpus=str(tmp_path / f"empty{suffix}"), **reading)


def test_files_of_no_bytes_are_refused_as_empty(config: TextTaskConfig, tmp_path: Path) -> None:
    for suffix in (".txt", ".jsonl", ".json"):
        (tmp_path / f"none{suffix}").touch()
        refused(config, "is empty: it holds no document", corpus=str(tmp_path / f"none{suffix}"))


def test_corpora_too_small_for_what_is_asked_are_refused(config: TextTaskConfig, tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    write_text(path, ["w1", "w2", "w3"])
    refused(config, "has no document of 2 tokens or more", corpus=str(path))
    refused(
        config, "documents of corpus .* are . tokens, less than one window of n_ctx = 8", corpus=str(path), packed=True
    )
    write_text(path, ["w1 w2", "w1 w2", "w1 w2"])
    refused(config, "no two different documents: one must be held out", corpus=str(path))


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 1, (1 << 20) + 3])
def test_a_file_that_is_not_utf8_is_refused_with_the_place(config: TextTaskConfig, tmp_path: Path, before: int) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * before + "naïve".encode("latin-1"))
    said = refused(config, "is not UTF-8", corpus=str(path))
    assert f"{path} is not UTF-8: byte {before + 2} " in said
    path.write_bytes(b"a" * before + "naï".encode()[:-1])
    assert f"byte {before + 2} " in refused(config, "is not UTF-8", corpus=str(path)), "cut within a character"
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xff"}')
    assert "byte 10 " in refused(config, "is not UTF-8", corpus=str(tmp_path / "latin.jsonl"))


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "lines of text"])
def test_a_corpus_without_the_column_is_refused(kind: str, config: TextTaskConfig, tmp_path: Path) -> None:
    suffix, write, _ = FORMATS[kind]
    write(tmp_path / f"other{suffix}", DOCUMENTS)
    corpus = str(tmp_path / f"other{suffix}")
    with pytest.raises(UnknownNameError, match="unknown column .*'texts': did you mean 'text'"):
        TextTask(dataclasses.replace(config, corpus=corpus, column="texts"))
    with pytest.raises(UnknownNameError, match="there are 'text'"):
        TextTask(dataclasses.replace(config, corpus=corpus, column="zzz"))


def test_a_column_that_is_not_text_is_refused(config: TextTaskConfig) -> None:
    refused(config, "column 'number' of .* holds int, not text", column="number")


def test_files_that_are_not_what_their_suffix_says_are_refused(config: TextTaskConfig, tmp_path: Path) -> None:
    for suffix in (".jsonl", ".json", ".parquet"):
        (tmp_path / f"odd{suffix}").write_text('{"text": "w1 w2"}\nthis is not JSON, and never was Parquet\n')
        said = refused(config, "cannot be read as (json|parquet)", corpus=str(tmp_path / f"odd{suffix}"))
        assert f"odd{suffix}" in said


def test_suffixes_that_are_not_read_are_refused(config: TextTaskConfig, tmp_path: Path) -> None:
    (tmp_path / "book.pdf").write_text("w1 w2 w3")
    refused(
        config, r"suffix \['.pdf'\] cannot be read as a corpus; pass a local .txt", corpus=str(tmp_path / "book.pdf")
    )
    (tmp_path / "folder").mkdir()
    refused(config, "holds no files of a corpus", corpus=str(tmp_path / "folder"))
    refused(config, "holds no files of a corpus", corpus=str(tmp_path / "*.doc"))
    write_text(tmp_path / "folder" / "a.txt", DOCUMENTS)
    write_lines(tmp_path / "folder" / "a.jsonl", DOCUMENTS)
    refused(config, r"several kinds, \['json', 'text'\]", corpus=str(tmp_path / "folder"))


def test_local_files_have_no_splits(config: TextTaskConfig) -> None:
    refused(config, "local files have no split 'validation'", validation="validation")


def test_packing_needs_an_end_token(config: TextTaskConfig, tmp_path: Path) -> None:
    save_tokenizer(word_level(WORDS), tmp_path / "words")
    refused(config, r"has no end token \(eos\)", packed=True, tokenizer=str(tmp_path / "words"))


def test_a_tokenizer_that_knows_less_than_half_is_refused(config: TextTaskConfig, tmp_path: Path) -> None:
    save_tokenizer(word_level(WORDS[:10]), tmp_path / "words")
    said = refused(config, "does not know most of corpus", tokenizer=str(tmp_path / "words"))
    assert "tokens are '<unk>'" in said
    save_tokenizer(word_level(WORDS[:45]), tmp_path / "words")
    some = dataclasses.replace(config, tokenizer=str(tmp_path / "words"))
    with pytest.warns(UserWarning, match=r"does not know all of corpus .*stories\.jsonl") as warned:
        TextTask(some)
    unknown = sum(int(word[1:]) >= 45 for text in DOCUMENTS for word in text.split())
    total = sum(len(text.split()) for text in DOCUMENTS)
    assert f"{unknown} of {total} tokens ({unknown / total:.2%}) are '<unk>', as for 'w45'" in str(warned[0].message)
    assert len(warned) == 1, "once a corpus"
    TextTask(some)  # what is made already is not warned of again


def test_an_unknown_token_that_is_written_out_is_meant(config: TextTaskConfig, tmp_path: Path) -> None:
    write_text(tmp_path / "written.txt", ["w1 <unk> w2", "<unk> <unk> <unk>", "w3 w4 <unk>"])
    TextTask(dataclasses.replace(config, corpus=str(tmp_path / "written.txt")))
    write_text(tmp_path / "other.txt", ["w1 <unk> w2", "w3 w4 zebra"])
    with pytest.warns(UserWarning, match=r"1 of 6 tokens \(16\.67%\) are '<unk>', as for 'zebra'"):
        TextTask(dataclasses.replace(config, corpus=str(tmp_path / "other.txt")))


# --- separators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", ["\n\n", "\r\n\r\n", "\r\r", "\r\n\n"])
def test_line_ends_of_any_system_separate_alike(
    end: str, separator: str, config: TextTaskConfig, tmp_path: Path
) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes((end * 2).join(DOCUMENTS).encode())
    task = TextTask(dataclasses.replace(config, corpus=str(path), separator=separator))
    assert Counter(everything(task, "train")) == Counter(everything(TextTask(config), "train"))


def test_a_separator_is_what_it_was_in_the_name_of_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join(DOCUMENTS))

    def identity(separator: str | None) -> str:
        return LocalCorpus(str(path), (path,), "text", separator, tmp_path / "cache").identity

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert identity("\n\n") == content_hash([digest, ["text"], "text", "\n\n"]) == identity("\r\n\r\n")
    assert identity(None) == content_hash([digest, ["text"], "text", None])
    assert identity("w1") != identity("\n\n")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("separator", ["\n\n", "<|endoftext|>", "aba"])
def test_a_separator_across_the_border_of_two_chunks_is_found(
    chunk: int, separator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = separator.join(["w1 w2", "w3", "", "x" * 9, "\n", "ab", "w5"])
    path = tmp_path / "pieces.txt"
    path.write_text(text)
    monkeypatch.setattr(corpora, "CHUNK", chunk)
    corpus = LocalCorpus(str(path), (path,), "text", separator, tmp_path / "cache")
    assert corpus.identity
    found = [document for batch in corpus.batches() for document in batch]
    assert found == [stripped for part in text.split(separator) if (stripped := part.strip())]


@pytest.mark.parametrize(
    ("separator", "said"),
    [
        ("\n---\n", r"the separator '\\n---\\n' is nowhere in .*lines\.txt.*; give what stands between two documents"),
        ("\\n\\n", r"the separator '\\\\n\\\\n' is nowhere .* typed in a shell are no line break"),
    ],
)
def test_a_separator_that_is_nowhere_is_refused(
    separator: str, said: str, config: TextTaskConfig, tmp_path: Path
) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join(DOCUMENTS))
    message = refused(config, said, corpus=str(path), separator=separator)
    assert ("shell" in message) is ("\\" in separator)
    with pytest.raises(ValueError, match=said):
        TextTaskConfig.of(str(path), config.tokenizer, separator=separator)
    two = tmp_path / "two"
    two.mkdir()
    (two / "a.txt").write_text("w1 w2")
    (two / "b.txt").write_text(f"w3 w4{separator}w5 w6")
    task = TextTask(dataclasses.replace(config, corpus=str(two), separator=separator))
    assert task.n_windows("train") + task.n_windows("validation") == 3, "one of several files may have none"


def test_a_separator_of_what_has_rows_is_refused(config: TextTaskConfig) -> None:
    refused(config, r"a \.txt file, and .*stories\.jsonl holds none; leave it out", separator="\n\n")
    refused(config, "somebody/stories holds none; leave it out", corpus="somebody/stories", separator="\n\n")
