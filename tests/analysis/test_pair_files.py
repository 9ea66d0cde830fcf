"""Pairs of a file, a line each: the same pair as from texts, told apart by the file's hash; bad lines are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import Pair, PairsFile
from tests.analysis.test_text_pairs import LONG, SHORT, flipped, made, text_model

LINES: list[dict[str, Any]] = [
    {"clean": text, "corrupt": flipped(text), "answer": "Mary", "wrong": "John", "roles": roles}
    for text, roles in ((LONG, {"IO": "Mary", "S2": ["John", 2]}), (SHORT, {"S2": ["John", -1], "IO": 1}))
]


def written(folder: Path, *lines: Any) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def equal(one: Pair, other: Pair) -> bool:
    same = all(
        getattr(one, name).equal(getattr(other, name)) for name in ("clean", "corrupt", "answers", "wrong", "mask")
    )
    places = one.positions.keys() == other.positions.keys()
    return same and places and all(one.positions[role].equal(other.positions[role]) for role in one.positions)


def test_a_file_is_the_pair_of_its_texts_and_its_hash_that_of_its_bytes(tmp_path: Path) -> None:
    model = text_model()
    file = PairsFile.read(written(tmp_path, LINES[0], "", LINES[1]))
    assert (file.name, len(file.rows)) == ("mine.jsonl", 2)
    pair = file.pair(model)
    assert equal(pair, made(model, roles={"IO": "Mary", "S2": ("John", 2)}))
    assert not equal(pair, made(model, roles={"IO": "Mary", "S2": ("John", 1)}))
    again = PairsFile.read(str(written(tmp_path, LINES[0], "", LINES[1])))
    assert again == file
    assert PairsFile.read(written(tmp_path, *LINES)).sha256 != file.sha256


def test_token_numbers_are_asked_of_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    model = text_model()
    texts = PairsFile.read(written(tmp_path, *LINES)).pair(model)
    numbers = []
    for i, line in enumerate(LINES):
        sides = {side: model.to_tokens(line[side])[0].tolist() for side in ("clean", "corrupt")}
        roles = {role: int(texts.positions[role][i]) for role in ("IO", "S2")}
        numbers.append({**sides, "answer": int(texts.answers[i]), "wrong": int(texts.wrong[i]), "roles": roles})
    model.tokenizer = None
    assert equal(PairsFile.read(written(tmp_path, *numbers)).pair(model), texts)
    with pytest.raises(ValueError, match=r"mine.jsonl, line 1: this model has no tokenizer to read text with"):
        PairsFile.read(written(tmp_path, *LINES)).pair(model)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{'clean'", r"it is no JSON \(.* at character 2\); write \{\"clean\""),
        ('{"clean": "a"', "it is no JSON"),
        ("[1]", "it is no object; write"),
        ({"clean": LONG}, "there is no 'corrupt' and no 'answer' and no 'wrong'; write"),
        (LINES[0] | {"anwser": "Mary"}, "unknown field 'anwser': did you mean 'answer'"),
        ('{"clean": "a", "clean": "b"}', r"a name stands twice in \['clean', 'clean'\]"),
        (LINES[0] | {"answer": None}, "answer, where it is no word, must be a whole number of at least 0, got None"),
        (LINES[0] | {"answer": 1.5}, "answer, where it is no word, must be a whole number"),
        (LINES[0] | {"clean": [1, "a"]}, "a token of clean must be a whole number of at least 0, got 'a'"),
        (LINES[0] | {"clean": [1, 2]}, "clean and corrupt must both be texts, or both be lists of token numbers"),
        (LINES[0] | {"roles": ["S2"]}, r"roles are places by name, .* got \['S2'\]"),
        (LINES[0] | {"roles": {"S2": ["John", "2"]}}, r"role 'S2' is a word, .* got \['John', '2'\]"),
        (LINES[0] | {"roles": {"S2": 1.0}}, "role 'S2' is a word, .* got 1.0"),
    ],
)
def test_a_line_that_is_no_pair_is_named_without_a_model(line: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"mine.jsonl, line 2: {told}"):
        PairsFile.read(written(tmp_path, LINES[0], line))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"answer": "Mary John"}, "'Mary John' is 2 tokens, not one"),
        ({"corrupt": SHORT}, "clean and corrupt are the same tokens"),
        (
            {"roles": {"IO": "Mary"}},
            "its roles are IO, and those of mine.jsonl, line 1 IO, S2; give every row the same",
        ),
        ({"roles": {}}, "its roles are none, and those of"),
        ({"roles": {"IO": "Mary", "S2": ["John", 4]}}, r"role 'S2': 'John' stands 2 time\(s\)"),
    ],
)
def test_a_line_that_a_model_cannot_be_asked_is_named(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = PairsFile.read(written(tmp_path, LINES[0], LINES[1] | changes))
    with pytest.raises(ValueError, match=f"mine.jsonl, line 2: {told}"):
        file.pair(text_model())


def test_what_is_no_file_of_pairs_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"there is no file of pairs at .*nowhere.jsonl; it has a line a pair, as in \{"
    ):
        PairsFile.read(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="there is no file of pairs at"):
        PairsFile.read(tmp_path)
    with pytest.raises(ValueError, match=r"mine.jsonl holds no pairs; it has a line a pair"):
        PairsFile.read(written(tmp_path, "", " "))
    (tmp_path / "other.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"other.jsonl is no text in UTF-8 \(invalid start byte at byte 0\)"):
        PairsFile.read(tmp_path / "other.jsonl")
