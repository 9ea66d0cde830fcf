"""Tokenizers of words decode what they encode, are stored whole, and say what to do where one cannot be had."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from circuits.loading.tokenizers import load_tokenizer, opening_tokens
from experiments.tasks.tokenizers import (
    PreTrainedTokenizerBase,
    check_fits,
    fingerprint,
    save_tokenizer,
    tokenizer_named,
    word_level,
)

SENTENCE = "When Mary and John went to the store gave a bottle of milk well known s don t"
WORDS = [*SENTENCE.split(), *".,!?;:()'-"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return word_level(WORDS)


@pytest.mark.parametrize(
    "text",
    [
        "When Mary and John went to the store, John gave a bottle of milk to Mary.",
        "Mary's store; John's milk: don't!",
        "(When Mary and John) went to the store?",
        "the well-known store (the store of John).",
    ],
)
def test_known_words_with_punctuation_come_back_as_they_were(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_come_first_then_words_in_their_order_and_none_is_added(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<unk>", "<story>", *WORDS]) == list(range(len(WORDS) + 3))
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert tokenizer.eos_token_id is None
    assert tokenizer("When Zoe")["input_ids"] == [3, 1]
    assert tokenizer("<story> When")["input_ids"] == [2, 3]
    assert len(tokenizer) == len(WORDS) + 3


def test_words_in_another_order_have_other_numbers() -> None:
    one, other = word_level(["a", "b"]), word_level(["b", "a"])
    assert one("a")["input_ids"] != other("a")["input_ids"]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(word_level(["a", "b"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "a"], r"occur more often: \['a'\]"),
        (["a", "<pad>"], r"occur more often: \['<pad>'\]"),
        (["ice cream"], r"not one word: texts are cut into \['ice', 'cream'\]"),
        (["don't"], r"cut into \['don', \"'\", 't'\]"),
        ([""], "not one word"),
    ],
)
def test_words_that_cannot_be_tokens_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        word_level(words)


def test_a_stored_tokenizer_is_the_same_and_its_hash_that_of_its_file(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    digest = save_tokenizer(tokenizer, tmp_path / "words")
    assert digest == hashlib.sha256((tmp_path / "words" / "tokenizer.json").read_bytes()).hexdigest()
    assert not list((tmp_path / "words").glob(".*")), "no temporary file is left"
    for found in (load_tokenizer(tmp_path / "words"), tokenizer_named(str(tmp_path / "words" / "tokenizer.json"))):
        assert fingerprint(found) == digest == fingerprint(tokenizer)
        assert found.special_tokens_map == tokenizer.special_tokens_map
        text = "Mary, don't!"
        assert found.decode(found(text)["input_ids"]) == text


def test_padding_a_batch_does_not_change_what_a_tokenizer_is() -> None:
    tokenizer = word_level(WORDS)
    before = fingerprint(tokenizer)
    tokenizer(["Mary", "Mary and John"], padding=True, truncation=True, max_length=2)
    assert fingerprint(tokenizer) == before


def test_a_bare_file_says_its_special_tokens_by_their_names(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    for found in (tokenizer_named(str(tmp_path / "tokenizer.json")), tokenizer_named(str(tmp_path))):
        assert (found.pad_token, found.unk_token, found.bos_token) == ("<pad>", "<unk>", "<story>")
        assert found.eos_token is None


def test_a_tokenizer_that_cannot_be_had_says_what_to_pass_instead(tmp_path: Path) -> None:
    hub, here = "no such local path, and the hub cannot be reached", "there is no file or folder"
    for name, why in {"nobody/nothing": hub, "gpt-nothing": hub, str(tmp_path / "nowhere"): here}.items():
        with pytest.raises(ValueError, match=why) as raised:
            tokenizer_named(name)
        assert name in str(raised.value)
        assert "tokenizer.json" in str(raised.value)
        assert "save_pretrained" in str(raised.value)
    with pytest.raises(ValueError, match="holds no tokenizer that can be read"):
        tokenizer_named(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        tokenizer_named(str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize(
    ("template", "before"),
    [
        (None, ()),
        ("<story> $A", ("<story>",)),
        ("<story> store $A <pad>", ("<story>", "store")),
        ("$A <story>", ()),
        ("<pad> <pad> $A", ("<pad>", "<pad>")),
        ("<unk> $A", ("<unk>",)),
    ],
)
def test_what_a_template_puts_before_every_text_is_told(template: str | None, before: tuple[str, ...]) -> None:
    tokenizer: Any = word_level(WORDS)
    if template is not None:
        special = {name: number for name, number in tokenizer.get_vocab().items() if name in template.split()}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=list(special.items())
        )
    assert opening_tokens(tokenizer) == tuple(tokenizer.convert_tokens_to_ids(list(before)))
    text = tokenizer("gave milk", add_special_tokens=False)["input_ids"]
    assert tokenizer("gave milk")["input_ids"][: len(before) + 2] == [*opening_tokens(tokenizer), *text]


def test_of_a_tokenizer_without_words_the_opening_cannot_be_told() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(ValueError, match="cannot be told apart from the text itself; choose a tokenizer"):
        opening_tokens(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE())))


def test_a_model_needs_as_many_tokens_as_its_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    check_fits(tokenizer, len(tokenizer))
    check_fits(tokenizer, len(tokenizer) + 7)
    with pytest.raises(ValueError, match=f"has {len(tokenizer)} tokens, the model's vocabulary d_vocab = 5"):
        check_fits(tokenizer, 5)
