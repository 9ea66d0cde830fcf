"""What R stores beside a package: a database, of which lists, numbers and texts are read, and nothing is run.

R packages keep their data as one file of compressed pieces (Rdata.rdb) and an index of where each begins (Rdata.rdx);
a piece is what R's ``serialize`` writes. Libraries that read R's data files do not read these databases, and of the
format only few kinds of values are needed here.

Source: R Internals, section 1.8, "Serialization formats"; R's ``makeLazyLoad.R``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from circuits.common.errors import require

_NULL, _REFERENCE, _SYMBOL, _PAIRS, _TEXT, _LOGICALS, _WHOLES, _TEXTS, _LIST = 254, 255, 1, 2, 9, 10, 13, 16, 19
_DAMAGED = (
    ValueError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
"""What reading something else than a database of R raises."""
_MAGIC = b"X\n"
"""How a value begins that is written in the portable binary form."""


def r_database(index: bytes, pieces: bytes) -> dict[str, Any]:
    """Return the objects of a database by name, given its index (.rdx) and its pieces (.rdb).

    Lists are dictionaries where their items have names, and else lists; vectors are lists.

    Raises:
        ValueError: for what is no such database, or holds values of kinds that are not read here.
    """
    try:
        where = r_object(gzip.decompress(index))["variables"]
        found = {name: r_object(_piece(pieces, *place)) for name, place in where.items()}
    except _DAMAGED as why:
        raise ValueError(f"this is no database of R objects that can be read: {why}") from why
    return found


def _piece(pieces: bytes, start: int, length: int) -> bytes:
    (size,) = struct.unpack(">i", pieces[start : start + 4])
    packed = pieces[start + 4 : start + length]
    # Without one of these letters, which no zlib data begins with, R packed it by zlib.
    kinds: dict[bytes, Callable[[bytes], bytes]] = {
        b"0": bytes,
        b"1": zlib.decompress,
        b"2": bz2.decompress,
        b"Z": lambda data: lzma.decompress(data, lzma.FORMAT_RAW, filters=_FILTERS),
    }
    unpack = kinds.get(packed[:1])
    found = zlib.decompress(packed) if unpack is None else unpack(packed[1:])
    require(len(found) == size, f"a piece has {len(found)} bytes and not {size}: it was cut short or damaged")
    return found


_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


def r_object(data: bytes) -> Any:
    """Return the one value that R's ``serialize`` wrote.

    Raises:
        ValueError: for another form than the portable binary one, or kinds of values that are not read here.
    """
    require(data[:2] == _MAGIC, "this is not what R's serialize writes in its portable binary form")
    reader = _Reader(data)
    version, *_ = (reader.whole() for _ in range(3))
    if version == 3:
        reader.take(reader.whole())  # the encoding's name
    return reader.value()


class _Reader:
    """Values one behind the other."""

    def __init__(self, data: bytes):
        self.data, self.at, self.symbols = data, len(_MAGIC), list[Any]()

    def take(self, n: int) -> bytes:
        self.at += n
        require(n >= 0 and self.at <= len(self.data), "a value ends before its time: it was cut short or damaged")
        return self.data[self.at - n : self.at]

    def whole(self) -> int:
        return struct.unpack(">i", self.take(4))[0]

    def value(self) -> Any:
        flags = self.whole()
        kind, has_attributes, has_tag = flags & 0xFF, bool(flags & 0x200), bool(flags & 0x400)
        if kind == _NULL:
            return None
        if kind == _REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == _SYMBOL:
            self.symbols.append(self.value())
            return self.symbols[-1]
        if kind == _TEXT:
            length = self.whole()
            return None if length < 0 else self.take(length).decode("utf-8")
        if kind == _PAIRS:
            if has_attributes:
                self.value()
            tag = self.value() if has_tag else None
            first = {tag: self.value()}
            return first | (self.value() or {})
        require(kind in (_LOGICALS, _WHOLES, _TEXTS, _LIST), f"values of R's kind {kind} are not read here")
        n = self.whole()
        numbers = kind in (_LOGICALS, _WHOLES)
        items = list(struct.unpack(f">{n}i", self.take(4 * n))) if numbers else [self.value() for _ in range(n)]
        attributes: Mapping[str, Any] = (self.value() if has_attributes else None) or {}
        names = attributes.get("names")
        return dict(zip(names, items, strict=True)) if names and not numbers else items
