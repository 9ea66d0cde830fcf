"""The fields of somebody else's configuration: each is read, known to change nothing, or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from circuits.common.errors import require, whole

_NEEDED = object()


class Fields:
    """A configuration that counts what was read of it, so that nothing is passed over unseen."""

    def __init__(self, given: Mapping[str, Any], where: str):
        self.where = where
        self._given, self._read = dict(given), set[str]()

    def get(self, name: str, default: Any = _NEEDED) -> Any:
        """Return a field's value; without a ``default`` it must be there.

        Raises:
            ValueError: naming the field that is missing.
        """
        self._read.add(name)
        require(name in self._given or default is not _NEEDED, f"{self.where} has no field {name!r}, which says a size")
        return self._given.get(name, default)

    def number(self, name: str, default: Any = _NEEDED) -> Any:
        """Return a whole number of at least 1; a field that is missing or null has the ``default``.

        Raises:
            ValueError: for another value, or a missing one without a default.
        """
        value = self.get(name, default)
        if value is None and default is not _NEEDED:
            return default
        return default if value is default else whole(f"{name} in {self.where}", value)

    def real(self, name: str, default: Any = _NEEDED) -> float:
        """Return a number above 0; a field that is missing or null has the ``default``.

        Raises:
            ValueError: for another value, or a missing one without a default.
        """
        value: Any = self.get(name, default)
        value = default if value is None and default is not _NEEDED else value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
        require(is_number, f"{name} in {self.where} must be a number above 0, got {value!r}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false; a field that is missing or null has the ``default``.

        Raises:
            ValueError: for another value.
        """
        value = self.get(name, default)
        value = default if value is None else value
        require(isinstance(value, bool), f"{name} in {self.where} must be true or false, got {value!r}")
        return value

    def inner(self, name: str) -> dict[str, Any]:
        """Return the fields that a field holds, none where it is missing or null.

        Raises:
            ValueError: for another value.
        """
        value = self.get(name, None)
        require(value is None or isinstance(value, dict), f"{name} in {self.where} must hold fields, got {value!r}")
        return value or {}

    def needs(self, name: str, *allowed: Any, says: str = "no model here does what it asks for") -> None:
        """Check that a field, where it is there, has one of the values that a loaded model has, too.

        Raises:
            ValueError: naming the field and what it asks for.
        """
        value = self.get(name, allowed[0])
        require(
            value in allowed,
            f"{name} = {value!r} in {self.where} cannot be loaded: {says} (wanted {' or '.join(map(repr, allowed))})",
        )

    def ignore(self, *names: str) -> None:
        """Pass over fields that change nothing of what a model computes in evaluation mode."""
        self._read.update(names)

    def finish(self) -> None:
        """Check that every field was read.

        Raises:
            ValueError: naming those that nothing is known about.
        """
        unknown = sorted(set(self._given) - self._read)
        values = ", ".join(f"{name} = {self._given[name]!r}" for name in unknown)
        require(
            not unknown,
            f"unknown field(s) in {self.where}: {values}. They may change what the model computes, so it is not "
            f"loaded; where one certainly changes nothing, remove it from the file",
        )
