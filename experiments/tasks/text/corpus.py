"""Corpora: the documents of local files or of a data set on the hub, and what tells one corpus from another."""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.common.errors import known, require
from circuits.common.files import names_no_file, write_atomically
from circuits.common.plain_data import content_hash

if TYPE_CHECKING:
    from datasets import Dataset
else:
    # Annotations must resolve at run time, and datasets is imported only where it is used.
    Dataset = Any

KINDS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""What a local file is read as, by its suffix."""
INSTEAD = "pass a local .txt, .jsonl, .json or .parquet file, a folder of them, or a pattern such as 'stories/*.jsonl'"
BATCH = 1_000
"""Documents in memory at once."""
CHUNK = 1 << 20
SETTLED_SECONDS = 2.0
"""A file younger than this may change again without a new time stamp, so its hash is not remembered."""


def default_cache() -> Path:
    """Return where tokens are kept: the environment's ``VALUESTREAM_CACHE``, else ``.cache/valuestream`` at home."""
    return Path(os.environ.get("VALUESTREAM_CACHE") or "~/.cache/valuestream").expanduser()


def made(folder: Path) -> Path:
    """Return a folder of the cache, made if need be.

    Raises:
        ValueError: if it cannot be written, saying how to choose another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    require(writable, f"{folder} cannot be written; name another folder in the environment variable VALUESTREAM_CACHE")
    return folder


# --- local files ------------------------------------------------------------------------------------------------------


def local_files(name: str) -> tuple[Path, ...] | None:
    """Return the files that a path, a folder or a pattern means, in order of their names; ``None``: a hub's name.

    Raises:
        ValueError: if there is no such file, or one that cannot be read as a corpus, saying what to pass instead.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.suffix in KINDS and not p.name.startswith(".")]
    elif path.is_file():
        files = [path]
    elif glob.has_magic(name):
        files = [Path(found) for found in glob.glob(str(path), recursive=True) if Path(found).is_file()]
    elif names_no_file(name):
        raise ValueError(f"there is no file or folder {name}; {INSTEAD}")
    else:
        return None
    require(bool(files), f"{name} holds no files of a corpus; {INSTEAD}")
    strange = sorted({p.suffix for p in files} - set(KINDS))
    require(not strange, f"{name}: files with the suffix {strange} cannot be read as a corpus; {INSTEAD}")
    kinds = sorted({KINDS[p.suffix] for p in files})
    require(len(kinds) == 1, f"{name} holds files of several kinds, {kinds}: pass a pattern for one of them")
    return tuple(sorted(files))


@dataclass(frozen=True)
class LocalCorpus:
    """Documents of local files of one kind.

    Raises:
        ValueError: while it is read, for a file that is not UTF-8, not JSON or not Parquet, or without the column, and
            for a separator that is in none of the files.
    """

    name: str
    files: tuple[Path, ...]
    column: str
    separator: str | None
    """What stands between two documents of a .txt file, with line ends of any system; ``None``: a line is a
    document."""
    cache: Path

    @property
    def kind(self) -> str:
        """What the files are read as: text, json or parquet."""
        return KINDS[self.files[0].suffix]

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the file; of several, the hash of theirs."""
        digests = [_digest(file, self.kind != "parquet", made(self.cache / "seen")) for file in self.files]
        # Here and not where it is read: tokens that are stored already may be those of another release.
        self._check_separator()
        return digests[0] if len(digests) == 1 else content_hash(digests)

    @property
    def identity(self) -> str:
        """A hash that is another one for other documents: of what the files hold and how it is read."""
        kinds = [KINDS[file.suffix] for file in self.files]
        return content_hash([self.fingerprint, kinds, self.column, self._between])

    def batches(self) -> Iterator[list[str]]:
        """Yield the documents in their order, at most :data:`BATCH` at once, without blank ones."""
        if self.kind == "text":
            known("column", self.column, ["text"])
            stripped = (text.strip() for file in self.files for text in _texts(file, self._between))
            documents = filter(None, stripped)
            return iter(lambda: list(islice(documents, BATCH)), [])
        return chain.from_iterable(_rows(file, self.column, self.cache / "datasets") for file in self.files)

    @property
    def _between(self) -> str | None:
        """The separator with line ends as files have them when they are read."""
        return None if self.separator is None else self.separator.replace("\r\n", "\n").replace("\r", "\n")

    def _check_separator(self) -> None:
        between = self._between
        if between is None or self.kind != "text" or any(_holds(file, between) for file in self.files):
            return
        if not any(_holds_text(file) for file in self.files):
            return  # an empty corpus is refused as such
        shell = "; a backslash and an n typed in a shell are no line break: $'\\n' is one" if "\\" in between else ""
        raise ValueError(
            f"the separator {self.separator!r} is nowhere in {self.name}, so every file would be one document; give "
            f"what stands between two documents, or leave it out to take every line as a document{shell}"
        )


def _digest(file: Path, text: bool, seen: Path) -> str:
    """Return a file's SHA-256, remembered for as long as its size and time stamp are the same."""
    status = file.stat()
    stamp = {"size": status.st_size, "modified": status.st_mtime_ns}
    memory = seen / f"{content_hash(str(file.resolve()))[:24]}.json"
    # What is damaged is made again.
    with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        held = json.loads(memory.read_bytes())
        if held.pop("sha256", None) == content_hash(held) and held["stamp"] == stamp:
            return held["digest"]
    digest = _read_whole(file, text)
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        held = {"stamp": stamp, "digest": digest}
        write_atomically(memory, json.dumps(held | {"sha256": content_hash(held)}).encode())
    return digest


def _read_whole(file: Path, text: bool) -> str:
    digest, decoder, read = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    with file.open("rb") as opened:
        while True:
            chunk = opened.read(CHUNK)
            digest.update(chunk)
            pending = len(decoder.getstate()[0])
            try:
                if text:
                    decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file} is not UTF-8: byte {read - pending + error.start} cannot be decoded ({error.reason}); "
                    f"convert the file, for example with iconv, or leave the document out"
                ) from error
            if not chunk:
                return digest.hexdigest()
            read += len(chunk)


def _texts(file: Path, separator: str | None) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as opened:
        if separator is None:
            yield from opened
            return
        rest = ""
        while chunk := opened.read(CHUNK):
            # What is not cut off yet is kept, so a separator across the border of two chunks is found.
            *whole, rest = (rest + chunk).split(separator)
            yield from whole
        yield rest


def _holds(file: Path, separator: str) -> bool:
    with file.open(encoding="utf-8-sig") as opened:
        end = ""
        while chunk := opened.read(CHUNK):
            if separator in (end := end + chunk):
                return True
            end = end[max(0, len(end) - len(separator) + 1) :]
    return False


def _holds_text(file: Path) -> bool:
    with file.open(encoding="utf-8-sig") as opened:
        return any(not chunk.isspace() for chunk in iter(lambda: opened.read(CHUNK), ""))


def _rows(file: Path, column: str, kept: Path) -> Iterator[list[str]]:
    """Yield a column of a JSON or Parquet file, read as a stream: nothing is copied to the disk."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    kind = KINDS[file.suffix]
    try:
        if not (read_metadata(file).num_rows if kind == "parquet" else file.stat().st_size):
            return
        rows: Any = load_dataset(kind, data_files=[str(file)], split="train", streaming=True, cache_dir=str(kept))
        yield from _column(rows.iter(batch_size=BATCH), column, str(file))
    except (ArrowException, DatasetsError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as {kind} with one document a row: {error}") from error


def _column(batches: Iterable[Mapping[str, Any]], column: str, name: str) -> Iterator[list[str]]:
    for batch in batches:
        texts = batch[known(f"column of {name}", column, batch)]
        strange = next((text for text in texts if not isinstance(text, str | None)), None)
        require(strange is None, f"column {column!r} of {name} holds {type(strange).__name__}, not text")
        if documents := [text for text in texts if text and not text.isspace()]:
            yield documents


# --- the hub ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubCorpus:
    """A split of a data set on the Hugging Face hub, kept on the disk by ``datasets``.

    Raises:
        ValueError: when it is first read, if it cannot be had, saying what to pass instead.
    """

    dataset: str
    subset: str | None
    revision: str | None
    split: str
    column: str
    cache: Path | None
    """Where ``datasets`` keeps it; ``None``: where it always does."""

    @property
    def name(self) -> str:
        """What messages call the corpus."""
        return f"{self.dataset} ({self.split})"

    @cached_property
    def identity(self) -> str:
        """A hash of what is read; without a commit as ``revision``, also of the files that were fetched."""
        named = [self.dataset, self.subset, self.revision, self.split, self.column]
        if re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            return content_hash(named)
        kept = [Path(file["filename"]) for file in self._data.cache_files]
        fetched = [[file.parent.name, file.name] for file in kept]
        return content_hash([*named, fetched, self._data.info.download_checksums, len(self._data)])

    def batches(self) -> Iterator[list[str]]:
        """Yield the documents in their order, at most :data:`BATCH` at once, without blank ones."""
        known(f"column of {self.name}", self.column, self._data.column_names)
        rows: Any = self._data.select_columns([self.column])
        return _column(rows.iter(batch_size=BATCH), self.column, self.name)

    @cached_property
    def _data(self) -> Dataset:
        from datasets import load_dataset

        kept: dict[str, Any] = {"cache_dir": None if self.cache is None else str(self.cache)}
        try:
            return load_dataset(self.dataset, self.subset, split=self.split, revision=self.revision, **kept)
        except Exception as error:  # the clients raise many classes, and all mean the same here
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"corpus {self.name} could not be loaded: there is no such local path, and the hub cannot be reached "
                f"or has no such data set, subset, revision or split ({why}); {INSTEAD}"
            ) from error


Corpus = LocalCorpus | HubCorpus
"""Documents that can be read once more (``batches``), and a name for what they are (``identity``)."""
