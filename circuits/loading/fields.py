"""The fields of somebody else's configuration: each is read, known to change nothing, or refused."""

from __future__ import annotations

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

    def number(self, name: str, default: int | None = None) -> int:
        """Return a whole number of at least 1; a field that is missing or null has the ``default``.

        Raises:
            ValueError: for another value, or a missing one without a default.
        """
        value = self.get(name) if default is None else self.get(name, default)
        value = default if value is None else value
        return whole(f"{name} in {self.where}", value)

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
