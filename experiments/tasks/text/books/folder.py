"""The folder of a corpus of books: documents to train on and held-out ones, their terms, and a tokenizer of the first.

``train`` and ``held-out`` hold a file a source, a document a line (text, book, chapter); ``licences`` what the packages
say of their terms; ``tokenizer.json`` is a byte-level BPE; ``books.json`` the hashes of all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from circuits.common.errors import require
from circuits.common.files import holds_something, whole_folder
from circuits.loading.tokenizers import TOKENIZER_JSON
from experiments.tasks.text.books.archives import SOURCES, Members, Source, read_source
from experiments.tasks.text.books.documents import Document, held_out_documents
from experiments.tasks.text.books.names import HELD_OUT_NAMES, NAMES

if TYPE_CHECKING:
    from tokenizers import Tokenizer
else:
    # Annotations must resolve at run time, and the package is imported only where it is used.
    Tokenizer = Any

TRAIN, HELD_OUT, LICENCES, HASHES = "train", "held-out", "licences", "books.json"
LAYOUT = 1
"""A folder of another layout is not read."""
N_TOKENS = 4_000
END = "<|endoftext|>"
"""The token between documents; its number is 0."""
NAME_COUNT = 1_000
"""Every name of generated sentences counts as if it stood so often in the training documents, where most are rare or
missing: a name must be one token to be asked for. Words that stand so often are of one token in any case."""


def make_books(folder: Path, archives: Mapping[str, Path], sources: Sequence[Source] = SOURCES) -> list[dict[str, Any]]:
    """Return what a corpus of books holds, a row a source: source, documents, characters, tokens, and of these the
    held-out ones (held_out, held_out_tokens). It is made if it is not there, of the ``archives`` by source.

    Equal archives give equal bytes. A folder is there whole or not at all, whoever else makes it.

    Raises:
        ValueError: if the folder holds something else, or something was changed in it; for an archive that is missing
            or not the one that is expected (:func:`read_source`).
    """
    if holds_something(folder):
        return read_books(folder)
    lacking = [source for source in sources if source.name not in archives]
    gets = "; ".join(f"{source.option} is the file that this gets: {source.get}" for source in lacking)
    require(not lacking, f"{folder} holds no books yet; give the packages that they are read from: {gets}")
    read = {source.name: read_source(source, archives[source.name]) for source in sources}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as scratch:
        if scratch is not None:
            _write(scratch, read)
    return read_books(folder)


def read_books(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of :func:`make_books` of a folder that is there.

    Raises:
        ValueError: if it is no such folder, or was changed since.
    """
    try:
        held = json.loads((folder / HASHES).read_bytes())
        layout, files, table = held["layout"], held["files"], held["table"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not empty and holds no books: name another folder, or remove it") from error
    require(layout == LAYOUT, f"{folder} was made by another version; remove it, and it is made anew")
    changed = [name for name, digest in files.items() if _sha256(folder / name) != digest]
    require(
        not changed,
        f"{', '.join(changed)} in {folder} was changed or damaged since the corpus was made; remove the folder, and it "
        f"is made again of its packages",
    )
    return table


def read_documents(file: Path) -> list[Document]:
    """Return the documents of one of the corpus' files, in order.

    Raises:
        ValueError: for a line that is no document.
    """
    with file.open(encoding="utf-8") as lines:
        try:
            return [Document(row["book"], row["chapter"], row["text"]) for row in map(json.loads, lines)]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} holds a line that is no document of a book ({error}); make the corpus again with "
                f"'valuestream books'"
            ) from error


def byte_pairs(texts: Iterable[str], n_tokens: int = N_TOKENS) -> Tokenizer:
    """Return a byte-level BPE of so many tokens, the first of them :data:`END`, trained on texts and on the names of
    generated sentences.

    Any text has its tokens, and they give it back to the letter.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    found = Tokenizer(BPE())
    found.pre_tokenizer, found.decoder = ByteLevel(add_prefix_space=False), Decoder()
    trainer = BpeTrainer(
        vocab_size=n_tokens, special_tokens=[END], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    names = "".join(f" {name}" for name in (*NAMES, *HELD_OUT_NAMES)) * NAME_COUNT
    found.train_from_iterator([*texts, names], trainer)
    return found


def _write(folder: Path, read: Mapping[str, tuple[list[Document], Members]]) -> None:
    parts = dict[str, dict[str, list[Document]]]()
    for name, (documents, licences) in read.items():
        out = held_out_documents(documents)
        parts[name] = {
            split: [documents[i] for i in np.flatnonzero(out == is_out)]
            for split, is_out in ((TRAIN, False), (HELD_OUT, True))
        }
        for split, held in parts[name].items():
            _write_lines(folder / split / f"{name}.jsonl", held)
        for path, data in licences.items():
            file = folder / LICENCES / name / PurePosixPath(path).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    tokenizer = byte_pairs(document.text for held in parts.values() for document in held[TRAIN])
    tokenizer.save(str(folder / TOKENIZER_JSON))
    table = [{"source": name, **_counted(held, tokenizer)} for name, held in parts.items()]
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    hashes = {file.as_posix(): _sha256(folder / file) for file in files}
    text = json.dumps({"layout": LAYOUT, "files": hashes, "table": table}, indent=1)
    (folder / HASHES).write_text(f"{text}\n", encoding="utf-8")


def _write_lines(file: Path, documents: Sequence[Document]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"text": held.text, "book": held.book, "chapter": held.chapter} for held in documents)
    file.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _counted(parts: Mapping[str, Sequence[Document]], tokenizer: Tokenizer) -> dict[str, int]:
    tokens = {
        split: sum(len(found.ids) for found in tokenizer.encode_batch([document.text for document in held]))
        for split, held in parts.items()
    }
    every = [document for held in parts.values() for document in held]
    return {
        "documents": len(every),
        "characters": sum(len(document.text) for document in every),
        "tokens": sum(tokens.values()),
        "held_out": len(parts[HELD_OUT]),
        "held_out_tokens": tokens[HELD_OUT],
    }


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
