"""Files that grow by a line a measurement, each with a check of its own, so that what is read is what was written."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

TAIL = 1 << 16
"""Bytes in which the last line of a log surely begins."""


class DamagedLogError(ValueError):
    """A line that is not the one that was written."""


def line_of(value: Any) -> bytes:
    """Return plain data as one line: JSON, a tab, and a checksum of the JSON (CRC-32, hexadecimal)."""
    text = json.dumps(value).encode()
    return text + b"\t" + _check(text) + b"\n"


def append_line(file: Path, value: Any) -> None:
    """Add a line, flushed to the disk, behind whole ones: what a killed process left of a line is cut off first.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    with file.open("ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            if opened.read(1) != b"\n":
                opened.seek(0)
                opened.truncate(opened.read().rfind(b"\n") + 1)
        opened.write(line_of(value))
        opened.flush()
        os.fsync(opened.fileno())


def whole_lines(file: Path) -> list[bytes]:
    """Return the lines of a file, none if there is no file; one without its end, which a process that was killed was
    writing, is left out."""
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


def read_lines(file: Path) -> list[Any]:
    """Return what every whole line says.

    Raises:
        DamagedLogError: naming the first line that is not as it was written.
    """
    return [_read(line, number, file) for number, line in enumerate(whole_lines(file), 1)]


def last_line(file: Path) -> Any:
    """Return what the last whole line says, ``None`` where there is none that can be read; only the end is read."""
    try:
        with file.open("rb") as opened:
            opened.seek(-min(TAIL, opened.seek(0, os.SEEK_END)), os.SEEK_END)
            return _read(opened.read().rsplit(b"\n", 2)[-2], 0, file)
    except (OSError, DamagedLogError, IndexError):
        return None


def _read(line: bytes, number: int, file: Path) -> Any:
    text, tab, check = line.partition(b"\t")
    try:
        # The first runs wrote lines without a check.
        value = json.loads(text)
    except ValueError:
        value = None
    if value is None or (tab and check != _check(text)):
        raise DamagedLogError(f"line {number} of {file} was changed or damaged")
    return value


def _check(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()
