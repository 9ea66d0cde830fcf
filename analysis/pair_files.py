"""Pairs kept in a file: a JSON object a line, of texts or of token numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.pairs import Pair
from analysis.text_pairs import Row, named, parts_of_rows
from circuits.common.errors import known, require
from circuits.common.files import path_of
from circuits.model import HookedStreamTransformer

FIELDS = ("clean", "corrupt", "answer", "wrong", "roles")
EXAMPLE = '{"clean": "...", "corrupt": "...", "answer": "...", "wrong": "...", "roles": {"S2": ["Mary", 2]}}'


@dataclass(frozen=True)
class PairsFile:
    """The rows of a file of pairs, which become a pair in the tokens of a model, and what tells the file apart."""

    name: str
    """Of the file, without its folders."""
    sha256: str
    """Of its bytes (hexadecimal)."""
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: str | Path) -> PairsFile:
        """Return the rows of a file: a line each, as in :data:`EXAMPLE`; empty lines are left out.

        With token numbers, ``{"clean": [5, 7], "corrupt": [5, 8], "answer": 3, "wrong": 4, "roles": {"S": 1}}``. The
        fields are as for :meth:`Pair.from_text`; ``roles`` may be left out.

        Raises:
            ValueError: if there is no such file or no line in it; and for a line that is no such object, naming it.
        """
        path = path_of("a file of pairs", path)
        require(path.is_file(), f"there is no file of pairs at {path}; it has a line a pair, as in {EXAMPLE}")
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start})") from error
        lines = ((f"{path.name}, line {i}", line) for i, line in enumerate(text.split("\n"), start=1))
        rows = tuple(_row(name, line) for name, line in lines if line.strip())
        require(bool(rows), f"{path} holds no pairs; it has a line a pair, as in {EXAMPLE}")
        return cls(path.name, hashlib.sha256(data).hexdigest(), rows)

    def pair(self, model: HookedStreamTransformer) -> Pair:
        """Return the rows as a pair in the tokens of a model, as :meth:`Pair.from_text` makes one.

        Raises:
            ValueError: as :meth:`Pair.from_text`, naming the line.
        """
        return Pair(**parts_of_rows(model, self.rows))


def _row(name: str, line: str) -> Row:
    with named(name):
        try:
            written = json.loads(line, object_pairs_hook=_each_once)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is no JSON ({error.msg} at character {error.pos + 1}); write {EXAMPLE}") from error
        require(isinstance(written, dict), f"it is no object; write {EXAMPLE}")
        for field in written:
            known("field", field, FIELDS)
        missing = [field for field in FIELDS[:-1] if field not in written]
        require(not missing, f"there is no {' and no '.join(map(repr, missing))}; write {EXAMPLE}")
    return Row(name, **{"roles": {}} | written)


def _each_once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(entries)
    require(len(found) == len(entries), f"a name stands twice in {[name for name, _ in entries]}")
    return found
