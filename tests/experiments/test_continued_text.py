"""Tokenizers that begin every text as if there were a space before it: what goes on a text is not what begins one."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from analysis import Pair
from circuits import HookedStreamTransformer, lm_config
from circuits.common.text_coverage import Coverage
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.sentences.tokenizer import plain_english

MARKS = pre_tokenizers.Split(Regex("[.,:]"), "isolated")
BLANK = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
AT_BLANKS = pre_tokenizers.Split("▁", "merged_with_next")
WAYS = {
    "bytes": (None, [pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "bytes after a space": (None, [pre_tokenizers.ByteLevel(add_prefix_space=True)]),
    "a blank always": (None, [pre_tokenizers.Metaspace(prepend_scheme="always"), MARKS]),
    "a blank first": (None, [pre_tokenizers.Metaspace(prepend_scheme="first"), MARKS]),
    "a blank besides": (BLANK, [AT_BLANKS, MARKS]),
    "marks on words": (None, [pre_tokenizers.Metaspace(prepend_scheme="always")]),
}
SEPARATE = [way for way in WAYS if way != "marks on words"]


@cache
def sentences() -> list[str]:
    task = IOITask(IOIConfig(), plain_english())
    rows = [*task.sample(2000).tokens, *task.prompts(300, "held-out").pair.clean, *task.prompts(8, "paper").pair.clean]
    names = [f"{name}, {name} saw {name}: {name}." for name in (*task.config.names, *task.config.held_out_names)]
    return [task.tokenizer.decode(row, skip_special_tokens=True) for row in rows] + 20 * names


@cache
def tokenizer(way: str) -> PreTrainedTokenizerFast:
    """A tokenizer of byte pairs, trained on the task's own sentences."""
    normal, cuts = WAYS[way]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    if normal is not None:
        backend.normalizer = normalizers.Sequence(normal)
    backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    letters = pre_tokenizers.ByteLevel.alphabet() if way.startswith("bytes") else []
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=["<unk>", "<s>"], initial_alphabet=letters)
    backend.train_from_iterator(sentences(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<s>", unk_token="<unk>")


def in_words(way: str, tokens: torch.Tensor) -> str:
    """The text of some tokens, by what stands for a space in them."""
    text = "".join(tokenizer(way).convert_ids_to_tokens(tokens.tolist()))
    text = text.replace("Ġ", " ").replace("▁", " ")
    return text if way == "bytes" else text.strip()


@pytest.mark.parametrize("way", SEPARATE)
@pytest.mark.parametrize("opening", [None, 1])
def test_prompts_and_windows_are_the_tokens_of_their_text(way: str, opening: int | None) -> None:
    task = IOITask(IOIConfig(n_ctx=40), tokenizer(way), opening=opening)
    begin = 0 if opening is None else 1
    for split in ("train", "held-out", "paper"):
        for corruption in ("flip", "abc"):
            pair = task.prompts(25, split, corruption).pair
            for side in (pair.clean, pair.corrupt):
                for row, end, answer in zip(side, pair.reads.tolist(), pair.answers, strict=True):
                    text = in_words(way, row[begin : end + 1])
                    assert tokenizer(way).encode(text, add_special_tokens=False) == row[begin : end + 1].tolist(), text
                    named = in_words(way, answer[None])
                    assert tokenizer(way).encode(f"{text} {named.strip()}", add_special_tokens=False)[-1] == int(answer)
    windows = task.sample(60)
    assert windows.counted is not None
    for row, counts in zip(windows.tokens, windows.counted.tolist(), strict=True):
        kept = row[begin : sum(counts) + 1]
        assert tokenizer(way).encode(in_words(way, kept), add_special_tokens=False) == kept.tolist()


def test_a_tokenizer_that_joins_marks_to_words_is_refused_with_what_it_makes_of_a_text() -> None:
    with pytest.raises(ValueError, match=r".*▁park, .*, and word by word .* ▁p ar k (▁ )?,.*take other templates"):
        IOITask(IOIConfig(n_ctx=40), tokenizer("marks on words"))
    plain = IOIConfig(
        templates=("{A} and {B} saw {object} and {S} gave {object} to {IO}",),
        held_out_templates=("{A} saw {B} and {S} took {object} to {IO}",),
        n_ctx=40,
    )
    task = IOITask(plain, tokenizer("marks on words"))
    assert [task.has(split) for split in ("train", "held-out", "paper")] == [True, True, False], "those have marks"
    with pytest.raises(ValueError, match="no templates for the split 'paper' whose names are tokens"):
        task.prompts(8, "paper")


def test_what_goes_on_a_text_is_told_from_what_begins_one() -> None:
    plain, blank = Coverage(tokenizer("bytes")), Coverage(tokenizer("a blank besides"))
    assert plain.behind("Mary", ", and") == plain.encode(", and")
    assert blank.behind("Mary", ", and") != blank.encode(", and")
    assert blank.behind("Mary", " saw") == blank.encode("saw") != blank.encode(" saw")
    assert plain.behind("Ma", "ry") == plain.encode("ry"), "both run together, so it is as it is by itself"


@pytest.mark.parametrize("way", SEPARATE)
def test_an_answer_is_the_token_that_follows_the_text(way: str) -> None:
    model = HookedStreamTransformer(lm_config("0.2m", "value", d_vocab=len(tokenizer(way))))
    model.set_tokenizer(tokenizer(way))
    clean, corrupt = "When Mary and John went to the store", "When John and Mary went to the store"
    pair = Pair.from_text(model, [clean], [corrupt], answers=[","], wrong=["."])
    for token, mark in ((pair.answers, ","), (pair.wrong, ".")):
        assert tokenizer(way).encode(clean + mark, add_special_tokens=False)[-1] == int(token)
    named = Pair.from_text(model, [clean], [corrupt], answers=[" Mary"], wrong=[" John"])
    assert [in_words(way, token).strip() for token in (named.answers, named.wrong)] == ["Mary", "John"]
    with pytest.raises(ValueError, match="' Mary,' is 2 tokens, not one, after this text"):
        Pair.from_text(model, [clean], [corrupt], answers=[" Mary,"], wrong=[" John"])
