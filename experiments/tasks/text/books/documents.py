"""What the documents of books are: chapters, scenes and sonnets; and which of them are held out."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Bool

from experiments.tasks.text.books.r_objects import r_database
from experiments.tasks.text.windows import held_out

HELD_OUT = 0.1
"""The share of every source's documents."""
RUN = 8
"""So many words in a row are hardly written twice by chance."""
ALIKE = 0.1
"""Documents of which one shares so much of its runs of words with the other are on one side."""

_CHAPTER = re.compile(r"(?:CHAPTER|VOLUME) +(?:[IVXLC]+|\d+)", re.IGNORECASE)
_END = re.compile(r"FINIS|THE END|A NOTE ON THE TEXT", re.IGNORECASE)
_ACT = re.compile(r"\s*(ACT\s+\w+)", re.IGNORECASE)
_SCENE = re.compile(r"\s*(?:ACT\s+\w+\.?\s*)?(SCENE\s+(?:[IVXLC]+|\d+)\b.*)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*([IVXLC]+)\.?\s*")


@dataclass(frozen=True)
class Document:
    """A chapter, a scene or a poem, and where it is from."""

    book: str
    chapter: str
    text: str

    @property
    def number(self) -> int:
        """64 bits hashed from the text."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "big")


def king_james(texts: Mapping[str, bytes]) -> list[Document]:
    """Return the chapters of the King James Bible, a verse a line."""
    (lines,) = texts.values()
    verses = [json.loads(line) for line in lines.decode("utf-8").splitlines() if line.strip()]
    chapters = groupby(verses, lambda verse: (verse["book"], verse["chapter"]))
    return [
        Document(book, str(chapter), "\n".join(" ".join(verse["text"].split()) for verse in held))
        for (book, chapter), held in chapters
    ]


def austen(texts: Mapping[str, bytes]) -> list[Document]:
    """Return the chapters of Jane Austen's novels, a paragraph a line, without what stands before the first and behind
    the end."""
    index, pieces = (next(data for name, data in texts.items() if name.endswith(end)) for end in (".rdx", ".rdb"))
    return [document for book, lines in r_database(index, pieces).items() for document in _chapters(book, lines)]


def _chapters(book: str, lines: Sequence[str]) -> Iterator[Document]:
    end = next((i for i, line in enumerate(lines) if _END.fullmatch(line.strip())), len(lines))
    starts = [i for i, line in enumerate(lines[:end]) if _CHAPTER.fullmatch(line.strip())]
    volume = ""
    for start, stop in pairwise([*starts, end]):
        heading = lines[start].strip()
        if heading.lower().startswith("volume"):
            volume = f"{heading}, "
        paragraphs = "\n".join(line.strip() for line in lines[start + 1 : stop]).split("\n\n")
        text = "\n".join(filter(None, (" ".join(paragraph.split()) for paragraph in paragraphs)))
        if text:
            yield Document(book, f"{volume}{heading}", text)


def shakespeare(texts: Mapping[str, bytes]) -> list[Document]:
    """Return the scenes of Shakespeare's plays, without what stands before the first, and his poems: by number where
    they are numbered."""
    found = list[Document]()
    for path, data in sorted(texts.items()):
        book = PurePosixPath(path).name.removesuffix(".txt").removesuffix("_gut").replace("_", " ")
        lines = [line.rstrip() for line in data.decode("utf-8").splitlines()]
        found += _pieces(book, lines, _SCENE) or _pieces(book, lines, _NUMBER) or [Document(book, "", _whole(lines))]
    return found


def _pieces(book: str, lines: Sequence[str], heading: re.Pattern[str]) -> list[Document]:
    starts = [i for i, line in enumerate(lines) if heading.fullmatch(line)]
    found = list[Document]()
    for start, stop in pairwise([*starts, len(lines)]):
        above = [match[1] for line in lines[: start + 1] if (match := _ACT.match(line))]
        act = f"{above[-1]}, " if above else ""
        titles = heading.fullmatch(lines[start])
        assert titles is not None
        # The line that opens the next act is no part of this one's last scene.
        held = [line for line in lines[start + 1 : stop] if not _ACT.fullmatch(line.rstrip(" ."))]
        if text := _whole(held):
            found.append(Document(book, f"{act}{titles[1]}", text))
    return found


def _whole(lines: Sequence[str]) -> str:
    """Lines with at most one empty one in a row, and none around them."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def held_out_documents(documents: Sequence[Document], share: float = HELD_OUT) -> Bool[np.ndarray, " document"]:
    """Return which documents are held out: told by their texts alone, whatever their order.

    Documents of which one repeats the other, in whole or a tenth of it (:func:`alike`), are on one side.
    """
    numbers = np.array([document.number for document in documents], dtype=np.uint64)
    lowest = np.array([numbers[group].min() for group in alike([d.text for d in documents])], dtype=np.uint64)
    return held_out(lowest, share)


def alike(texts: Sequence[str], run: int = RUN, least: float = ALIKE) -> list[list[int]]:
    """Return for every text which ones it is alike, itself and those that are alike one of them included.

    Two are alike if they share ``least`` of the runs of ``run`` words of the shorter one, in small letters.
    """
    runs = [_runs(text, run) for text in texts]
    where = defaultdict[int, list[int]](list)
    for i, held in enumerate(runs):
        for each in held:
            where[each].append(i)
    shared = defaultdict[tuple[int, int], int](int)
    for places in where.values():
        for i, first in enumerate(places):
            for second in places[i + 1 :]:
                shared[first, second] += 1
    group = [[i] for i in range(len(texts))]
    for (i, j), n in shared.items():
        if n >= least * min(len(runs[i]), len(runs[j])) and group[i] is not group[j]:
            joined = sorted([*group[i], *group[j]])
            for k in joined:
                group[k] = joined
    return group


def _runs(text: str, n: int) -> set[int]:
    """The runs of n words, each as a number: hashed the same in every process, as ``hash`` is not."""
    words = re.findall(r"\w+", text.lower())
    return {hash_of(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def hash_of(words: Sequence[str]) -> int:
    """Return 64 bits hashed from some words."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "big")
