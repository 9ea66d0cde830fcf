"""Indirect objects that nobody wrote as a test: "And David said unto" - "Jonathan", and not "David", in King James.

A sentence counts if a person is its subject and another its indirect object, and both were named before: that is what
the prompts of Wang et al. (arXiv 2211.00593) are made to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from analysis.pairs import Pair
from experiments.tasks.text.books.documents import Document
from experiments.tasks.text.books.folder import HELD_OUT, TRAIN, read_documents
from experiments.tasks.tokenizers import PreTrainedTokenizerBase

SOURCE = "king-james"
MOST_VERSES = 5
"""A passage begins at most so many verses before the one that it ends in."""
VERBS = ("said", "spake", "gave", "told", "sent", "brought", "delivered", "shewed")
_NAME = r"[A-Z][a-z]+"
_ACTS = r"said|spake|answered|gave|begat|told|sent|took|commanded|called|went|came|arose|died|slew|reigned|dwelt"
_KIN = r"son|daughter|wife|brother|father|mother|servant"
NO_PERSONS = frozenset(
    (
        *("God", "Lord", "Israel", "Jerusalem", "Zion", "Babylon", "Gilead", "Ammon", "Egypt"),
        *("Moab", "Edom", "Satan", "Belial", "Heth", "Hinnom", "Bethlehem", "Hebron"),
    )
)
"""Names that stand where those of persons do, and are of peoples and places or of more than a person."""


@dataclass(frozen=True)
class Passage:
    """A passage up to where an indirect object is to follow."""

    text: str
    """It ends before the space before ``io``; verses stand in lines of their own."""
    io: str
    """Who follows: named in the text before, as ``s`` is."""
    s: str
    """The subject of the last sentence, which the text names twice at least."""
    book: str
    chapter: str
    verse: int


def persons(documents: Iterable[Document]) -> frozenset[str]:
    """Return the names of persons: capital words that somewhere act (``said``, ``went``) or are somebody's kin, without
    those that also are words in small letters (Lot, Mark) and :data:`NO_PERSONS`."""
    text = "\n".join(document.text for document in documents)
    named = re.findall(rf"\b({_NAME}) (?:{_ACTS})\b", text) + re.findall(rf"\b(?:{_KIN}) of ({_NAME})\b", text)
    words = set(re.findall(r"\b[a-z]+\b", text))
    return frozenset(name for name in named if name.lower() not in words) - NO_PERSONS


def passages(documents: Sequence[Document], names: Iterable[str]) -> list[Passage]:
    """Return the passages of some chapters, a verse a line, that end before an indirect object among ``names``.

    The last verse says who (a name, and at most five words) did what (:data:`VERBS`, and at most eight words) to or
    unto whom (a name). Before the subject both names have stood, in this verse or at most :data:`MOST_VERSES` before;
    the passage is the shortest such one.
    """
    one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    if not one:
        return []
    clause = re.compile(
        rf"\b(?P<s>{one}) (?:[a-z]+ ){{0,5}}(?:{'|'.join(VERBS)})(?: [a-z]+){{0,8}} (?:un)?to (?P<io>{one})\b(?!')"
    )
    return [found for document in documents for found in _of_chapter(document, clause)]


def natural_passages(folder: Path) -> dict[str, list[Passage]]:
    """Return the passages of a folder of books: those of documents "held out" and of those "trained on".

    Whose names are persons' is told by all documents; without King James there are none.

    Raises:
        ValueError: for a file whose lines are no documents.
    """
    files = {"held out": folder / HELD_OUT / f"{SOURCE}.jsonl", "trained on": folder / TRAIN / f"{SOURCE}.jsonl"}
    return passages_of_files(files)


def passages_of_files(files: Mapping[str, Path]) -> dict[str, list[Passage]]:
    """Return the passages of files of chapters, each of which may be missing, by the names that they are given by.

    Raises:
        ValueError: for a file whose lines are no documents.
    """
    documents = {name: read_documents(file) if file.is_file() else [] for name, file in files.items()}
    names = persons(document for held in documents.values() for document in held)
    return {name: passages(held, names) for name, held in documents.items()}


def _of_chapter(document: Document, clause: re.Pattern[str]) -> Iterator[Passage]:
    verses = document.text.split("\n")
    for i, verse in enumerate(verses):
        for match in clause.finditer(verse):
            s, io = match["s"], match["io"]
            for first in range(i, max(-1, i - MOST_VERSES - 1), -1):
                before = "\n".join([*verses[first:i], verse[: match.start()]])
                if s != io and all(re.search(rf"\b{name}\b", before) for name in (s, io)):
                    text = "\n".join([*verses[first:i], verse[: match.start("io") - 1]])
                    yield Passage(text, io, s, document.book, document.chapter, i + 1)
                    break


def natural_pair(
    held: Sequence[Passage],
    tokenizer: PreTrainedTokenizerBase,
    opening: Sequence[int],
    n_ctx: int,
    device: str | torch.device = "cpu",
) -> Pair | None:
    """Return passages as prompts, opened by ``opening``, whose answer is the indirect object and whose wrong answer is
    the subject; ``None`` if none fits into ``n_ctx`` tokens.

    Names may be several tokens. Of two names the first token in which they differ is read, behind the tokens that both
    begin with: a model that puts the right name there before the other one puts it before it as a whole as far as the
    rest of a name follows from its beginning. A pair of which one name is the beginning of the other is left out. The
    corrupt side is the clean one: with other names a passage has other lengths.
    """
    rows = [row for passage in held if (row := _row(passage, tokenizer, opening)) and len(row[0]) <= n_ctx]
    if not rows:
        return None
    width = max(len(tokens) for tokens, _, _ in rows)
    clean = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens, _, _ in rows], device=device)
    ends = torch.tensor([len(tokens) - 1 for tokens, _, _ in rows], device=device)
    mask = torch.arange(width, device=device) <= ends[:, None]
    answers, wrong = (torch.tensor([row[i] for row in rows], device=device) for i in (1, 2))
    return Pair(clean, clean, answers, wrong, {"END": ends[:, None]}, ends, mask, tokenizer)


def _row(
    passage: Passage, tokenizer: PreTrainedTokenizerBase, opening: Sequence[int]
) -> tuple[list[int], int, int] | None:
    """Tokens, the right and the wrong one that may follow."""
    parts = (passage.text, f" {passage.io}", f" {passage.s}")
    text, io, s = (tokenizer.encode(part, add_special_tokens=False) for part in parts)
    same = next((i for i, (a, b) in enumerate(zip(io, s, strict=False)) if a != b), None)
    return None if same is None else ([*opening, *text, *io[:same]], io[same], s[same])
