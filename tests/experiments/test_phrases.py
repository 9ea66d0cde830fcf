"""Sentences as arrays: what is laid out is what plain Python would put together, and templates keep their promises."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from experiments.tasks.sentences.templates import (
    WORD,
    Phrasebook,
    Templates,
    choose,
    distinct,
    parts_of,
    slots_of,
    words_of,
)

PAD = 99
SLOTS = ("A", "B", "thing")


def letters(text: str) -> list[int]:
    """A tokenizer of characters: pieces have as many tokens as letters, spaces among them."""
    return [ord(c) for c in text]


def word_numbers(text: str) -> list[int]:
    """A tokenizer of words: one token each, whatever its length."""
    return [sum(letters(word)) for word in WORD.findall(text)]


@pytest.fixture
def book() -> Phrasebook:
    return Phrasebook(letters)


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_a_piece_keeps_its_number_and_its_tokens_and_the_empty_one_is_0(book: Phrasebook) -> None:
    numbers = [book.piece(text) for text in ("", "ab", " ab", "c", "ab")]
    assert numbers[0] == 0
    assert numbers[1] == numbers[4]
    assert len(set(numbers)) == 4, "the space before a piece belongs to it"
    assert book.tokens(" ab") == tuple(letters(" ab"))
    assert book.tokens("") == ()
    assert book.pieces(["ab", "c"]).tolist() == [book.piece(" ab"), book.piece(" c")]
    assert book.pieces(["ab", "c"], spaced=False).tolist() == [book.piece("ab"), book.piece("c")]
    assert book.first_tokens(book.pieces(["b", "ab"], spaced=False)).tolist() == letters("ba")


def test_a_special_piece_is_one_token_and_none_is_the_empty_piece(book: Phrasebook) -> None:
    assert book.special(None) == 0
    number = book.special(7)
    assert number == book.special(7) != book.special(8)
    assert book.lay(torch.tensor([[number, book.piece("a")]]), PAD).tokens.tolist() == [[7, ord("a")]]


def test_a_special_piece_may_be_several_tokens(book: Phrasebook) -> None:
    assert book.special(()) == book.special([]) == 0
    several = book.special((7, 8))
    assert several == book.special([7, 8])
    assert len({several, book.special((8, 7)), book.special(7), book.special((7,)), book.special((7, 8, 7))}) == 4
    assert book.special((7,)) == book.special(7)
    laid = book.lay(torch.tensor([[several, book.piece("ab")]]), PAD)
    assert laid.tokens.tolist() == [[7, 8, *letters("ab")]]
    assert laid.starts.tolist() == [[0, 2]]


def test_texts_are_laid_out_as_python_would_put_them_together(book: Phrasebook) -> None:
    chance = random.Random(0)
    texts = ["", *("".join(chance.choices("abc ", k=chance.randint(1, 6))) for _ in range(12))]
    rows = [[chance.choice(texts) for _ in range(7)] for _ in range(60)]
    rows += [[""] * 7, ["", "abc", "", "", "c", "", ""]]
    laid = book.lay(torch.tensor([[book.piece(text) for text in row] for row in rows]), PAD)
    whole = ["".join(row) for row in rows]
    width = max(map(len, whole))
    assert laid.tokens.tolist() == [letters(text) + [PAD] * (width - len(text)) for text in whole]
    assert laid.lengths.tolist() == [len(text) for text in whole]
    assert laid.starts.tolist() == [[len("".join(row[:i])) for i in range(7)] for row in rows]


def test_texts_of_nothing_are_nothing(book: Phrasebook) -> None:
    laid = book.lay(torch.zeros(3, 2, dtype=torch.int64), PAD)
    assert laid.tokens.shape == (3, 0)
    assert laid.lengths.tolist() == [0, 0, 0]


def test_pieces_may_come_after_texts_were_laid(book: Phrasebook) -> None:
    one = book.lay(torch.tensor([[book.piece("ab")]]), PAD)
    two = book.lay(torch.tensor([[book.piece("ab"), book.piece("longer")]]), PAD)
    assert two.tokens[:, :2].equal(one.tokens)
    assert two.tokens.tolist() == [letters("ablonger")]


# --- templates --------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_template() -> None:
    template = "{A} gave the {thing}, and {B}'s, to {A}."
    assert slots_of(template) == ["A", "thing", "B", "A"]
    assert parts_of(template) == [
        ("A", True),
        (" gave the", False),
        ("thing", True),
        (", and", False),
        ("B", True),
        ("'s, to", False),
        ("A", True),
        (".", False),
    ]
    assert words_of([template, "the end"]) == sorted(["gave", "the", ",", "and", "'", "s", "to", ".", "end"])
    assert parts_of("no slot") == [("no slot", False)]


@pytest.mark.parametrize("encode", [letters, word_numbers])
def test_filled_templates_are_the_texts_with_their_words_in_place(encode: Any) -> None:
    book = Phrasebook(encode)
    texts = ["{A} met {B}.", "The {thing}: {A}, {A} and {B} saw it.", "Nobody", "In the {thing}"]
    templates = Templates(book, texts, SLOTS)
    fillers = {"A": ["Ann", "Al"], "B": ["Bo", "Bill"], "thing": ["ball", "piece of cake"]}
    chance = random.Random(1)
    which = [chance.randrange(len(texts)) for _ in range(40)]
    chosen = [{slot: chance.choice(of) for slot, of in fillers.items()} for _ in which]
    numbers = torch.stack([book.pieces([c[slot] for c in chosen]) for slot in SLOTS], 1)
    laid = book.lay(templates.fill(torch.tensor(which), numbers), PAD)
    for i, row in enumerate(laid.tokens.tolist()):
        text = texts[which[i]].format_map(chosen[i])
        # A filler brings the space before it along, where a text begins with it too.
        expected = encode(f" {text}" if text.startswith(("Ann", "Al")) else text)
        assert row[: len(expected)] == expected
        assert set(row[len(expected) :]) <= {PAD}
        assert laid.lengths[i] == len(expected)


def test_templates_of_many_sentences_are_filled_like_those_of_one(book: Phrasebook) -> None:
    templates = Templates(book, ["{A} met {B}.", "{B} {thing}"], SLOTS)
    which = torch.tensor([[0, 1, 1], [1, 0, 0]])
    fillers = torch.randint(4, (2, 3, len(SLOTS)), generator=torch.Generator().manual_seed(0))
    filled = templates.fill(which, fillers)
    assert filled.shape[:2] == (2, 3)
    assert filled.flatten(0, 1).equal(templates.fill(which.flatten(), fillers.flatten(0, 1)))


def test_the_place_of_a_slot_is_its_last_one(book: Phrasebook) -> None:
    templates = Templates(book, ["{A} met {B} and {A}.", "The {B}"], SLOTS)
    assert templates.place_of("A").tolist() == [4, -1]
    assert templates.place_of("B").tolist() == [2, 1]
    assert templates.place_of("thing").tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{A} met.", r"the template '\{A\} met\.' lacks the slot\(s\) \['B'\]; it must have each of \{A\}, \{B\}"),
        ("They met.", r"lacks the slot\(s\) \['A', 'B'\]"),
        ("{A} met {B} and {Q}.", r"has the slot\(s\) \['Q'\], which nothing fills; there are \['A', 'B', 'thing'\]"),
        ("{A} met {b}{B}.", r"has the slot\(s\) \['b'\]"),
    ],
)
def test_a_wrong_template_is_refused_by_its_slot(book: Phrasebook, template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Templates(book, ["{A} met {B}.", template], SLOTS, needs=("A", "B"))


# --- draws ------------------------------------------------------------------------------------------------------------


def test_distinct_numbers_are_distinct_uniform_and_of_the_generator() -> None:
    drawn = distinct(3_000, 3, 5, torch.Generator().manual_seed(0))
    assert drawn.shape == (3_000, 3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    counts = drawn.flatten().bincount(minlength=5)
    assert counts.tolist() == pytest.approx([1_800] * 5, rel=0.1)
    assert drawn.equal(distinct(3_000, 3, 5, torch.Generator().manual_seed(0)))
    assert not drawn.equal(distinct(3_000, 3, 5, torch.Generator().manual_seed(1)))
    assert sorted(distinct(1, 5, 5, torch.Generator()).tolist()[0]) == [0, 1, 2, 3, 4], "all there are will do"


def test_more_different_ones_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="4 different ones are needed, and there are only 3"):
        distinct(2, 4, 3, torch.Generator())


def test_choices_have_the_shape_that_is_asked_for_and_may_repeat() -> None:
    generator = torch.Generator().manual_seed(0)
    assert choose(50, 3, generator).unique().tolist() == [0, 1, 2]
    assert choose((2, 7), 3, generator).shape == (2, 7)
