"""Configurations as plain data and back, and everything that is derived from their text: hashes, run ids, seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import cattrs
from cattrs.gen import make_dict_structure_fn, override
from cattrs.strategies import configure_tagged_union, configure_union_passthrough

from circuits.common.errors import known, require, whole
from circuits.common.families import Family, without_modules
from circuits.common.fields import Checked, Kind, checked_value, checks_of

T = TypeVar("T")

_converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
_brief = cattrs.Converter(omit_if_default=True)


def _reader_of(kind: type[Checked]) -> Any:
    # What holds no part of its own is read as the class itself would take it: a number is not cut to a whole one, nor a
    # word made a truth value, on the way.
    # What does not fit reaches the class as it stands, whose sentence names the field.
    def as_taken(asked: Kind) -> Callable[[Any, Any], Any]:
        return lambda value, _: asked.take(value) if asked.fits(value) else value

    plain: Any = {name: override(struct_hook=as_taken(asked)) for name, asked in checks_of(kind) if not asked.parts}
    return make_dict_structure_fn(kind, _converter, **plain)


_converter.register_structure_hook_factory(
    lambda kind: isinstance(kind, type) and issubclass(kind, Checked), _reader_of
)
for _kind in (int, float, bool, str):
    _converter.register_structure_hook(_kind, lambda value, kind: checked_value(value, kind, "a stored value"))


def register_union(union: Any) -> None:
    """Let values of a union of dataclasses be stored; the class name goes into the field ``type``."""
    for converter in (_converter, _brief):
        configure_tagged_union(union, converter, tag_name="type")


def store_family(family: Family) -> None:
    """Let values of a family's base class be stored, with the name of their kind in the field ``type``."""

    def wanted(kind: Any) -> bool:
        return kind is family.base

    def read(stored: Any, _: Any) -> Any:
        kind, fields = family.read(stored)
        return _converter.structure(fields, kind)

    def write(value: Any) -> dict[str, Any]:
        return family.stored(_converter.unstructure(value, type(value)), type(value))

    def write_brief(value: Any) -> dict[str, Any]:
        return without_modules(family.stored(_brief.unstructure(value, type(value)), type(value)))

    _converter.register_structure_hook_func(wanted, read)
    _converter.register_unstructure_hook_func(wanted, write)
    _brief.register_unstructure_hook_func(wanted, write_brief)


def register_plain_union(union: Any) -> None:
    """Let values of a union of numbers, strings and ``None`` be stored as they are."""
    for converter in (_converter, _brief):
        configure_union_passthrough(union, converter)


def to_plain(value: Any, kind: Any = None) -> Any:
    """Return a configuration as dictionaries, lists, numbers and strings that JSON can hold."""
    return json.loads(json.dumps(_converter.unstructure(value, kind or type(value))))


def essence(value: Any) -> Any:
    """Return :func:`to_plain` without the fields that have their defaults.

    Its hash names a run: a field that is added later, with a default that means what was done before, leaves the
    names of earlier runs as they were. So a default never changes its meaning.
    """
    return json.loads(json.dumps(_brief.unstructure(value, type(value))))


def from_plain(kind: type[T], data: Mapping[str, Any]) -> T:
    """Return the configuration of class ``kind`` that ``to_plain`` wrote."""
    require(isinstance(data, Mapping), f"a stored {kind.__name__} is an object with its fields, got {data!r}")
    for name in data:
        known(f"field of {kind.__name__}", name, [f.name for f in dataclasses.fields(kind)])  # type: ignore[arg-type] # kind is a dataclass by contract
    try:
        return _converter.structure(data, kind)
    except (cattrs.errors.BaseValidationError, cattrs.errors.CattrsError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is not a stored {kind.__name__}: {error}") from error


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a plain value: sorted keys, no spaces; numpy's and torch's numbers are numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_number)


def _number(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no number, text, list or mapping of these, got {value!r}")


def content_hash(value: Any) -> str:
    """Return the SHA-256 (hexadecimal) of a plain value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def derive_seed(*labels: str | int) -> int:
    """Return a 63-bit seed hashed from labels, equal for equal labels on every machine.

    Streams of random numbers are told apart by label (``"init"``, ``"data"``, ``"evaluation"``) and never by adding
    to a seed, so that runs of different variants share them exactly and streams never overlap.

    Raises:
        ValueError: for a label that is neither a string nor a whole number: 1.0 and True are equal to 1 and would be
            hashed otherwise.
    """
    told = [label if isinstance(label, str) else whole("a label of a seed", label, None) for label in labels]
    return int(content_hash(told)[:16], 16) >> 1


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Return, one line each, where two plain values differ, as ``field: left value / right value``."""
    if isinstance(left, dict) and isinstance(right, dict):
        names = sorted(set(left) | set(right))
        parts = (differences(left.get(n), right.get(n), f"{path}.{n}" if path else n) for n in names)
        return [line for part in parts for line in part]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        parts = (differences(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(left, right, strict=True)))
        return [line for part in parts for line in part]
    return [] if left == right else [f"{path}: {_short(left)} / {_short(right)}"]


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 120 else text[:117] + "..."
