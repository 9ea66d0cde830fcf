"""What a configuration's fields may hold: every value is held against its annotation, and equal values made one kind.

A frozen configuration dataclass that inherits from :class:`Checked` refuses a value of another type at once, with a
sentence, and keeps a number that fits as the type that its annotation names: 1, 1.0 and numpy's 1 are one ``float``, so
equal configurations have equal hashes. No torch and no numpy is imported here.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from circuits.common.errors import require

_LONGEST = 80
"""Of a refused value, so many characters are shown."""
_KINDS: dict[type, tuple[type, ...]] = {}
"""Of a base class that may be an annotation, the dataclasses that its fields may hold."""


def let_kinds_be(base: type, kinds: tuple[type, ...]) -> None:
    """Let a field that is annotated with a base class hold instances of its kinds, and of nothing else."""
    _KINDS[base] = kinds
    _kind.cache_clear()
    checks_of.cache_clear()


class Checked:
    """A frozen dataclass whose fields are held against their annotations when it is made.

    A subclass with a ``__post_init__`` of its own calls ``super().__post_init__()`` first; what follows may then rely
    on the types.
    """

    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ()
    """Fields that must be above 0, too."""

    def __post_init__(self) -> None:
        for name, kind in checks_of(type(self)):
            given = getattr(self, name)
            try:
                kept = kind.take(given)
            except _UnfitError as unfit:
                the = "" if "_" in name else "the "
                raise unfit.told(f"{type(self).__name__}: {the}{name}") from None
            if kept is not given:
                object.__setattr__(self, name, kept)
        positive(self, *self.ABOVE_ZERO)


# --- ranges, for what an annotation cannot say ------------------------------------------------------------------------


def positive(owner: object, *names: str) -> None:
    """Check that fields of ``owner`` are above 0."""
    for name in names:
        value = getattr(owner, name)
        require(value > 0, f"{name} must be a positive whole number, got {value}")


def counted_from_zero(owner: object, *names: str) -> None:
    """Check that fields of ``owner`` are not negative; ``None`` is passed over."""
    for name in names:
        value = getattr(owner, name)
        require(
            value is None or value >= 0,
            f"{name} of {type(owner).__name__} counts from 0, got {value}; negative numbers have no meaning here",
        )


def all_different(what: str, values: Sequence[Any]) -> None:
    """Check that no value comes twice."""
    twice = list(dict.fromkeys(value for value in values if values.count(value) > 1))
    require(not twice, f"{what} must differ from each other, and {', '.join(map(str, twice))} came more than once")


def checked_value(value: Any, annotation: Any, name: str) -> Any:
    """Return ``value`` as a field of that annotation keeps it."""
    try:
        return _kind(annotation).take(value)
    except _UnfitError as unfit:
        raise unfit.told(name) from None


# --- what an annotation asks for --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What an annotation asks for: in words, and as a function that returns the value as it is kept, or refuses it."""

    words: str
    take: Callable[[Any], Any]
    parts: tuple[type, ...] = ()
    """The dataclasses that it may be an instance of, or hold."""

    def fits(self, value: Any) -> bool:
        """Return whether the value is what is asked for."""
        try:
            self.take(value)
        except _UnfitError:
            return False
        return True


class _UnfitError(Exception):
    """A value that is not what its annotation asks for; :meth:`told` makes the sentence."""

    def __init__(self, expected: str, value: Any, remedy: str = "", inside: str = ""):
        super().__init__(expected)
        self.expected, self.value, self.remedy, self.inside = expected, value, remedy, inside

    def told(self, name: str) -> ValueError:
        sentence = f"{name}{self.inside} must be {self.expected}, got {shown(self.value)}"
        return ValueError(sentence + (f"; {self.remedy}" if self.remedy else ""))


@cache
def checks_of(owner: type) -> tuple[tuple[str, Kind], ...]:
    """Return the fields of a dataclass, each with what its annotation asks for.

    Understood are int, float, bool, str, ``Literal`` of strings, ``tuple[T, ...]``, ``tuple[T, U]``, dataclasses, and
    unions of these and ``None``.
    """
    hints, found = get_type_hints(owner), []
    for field in fields(owner):  # type: ignore[arg-type] # owner is a dataclass by contract
        try:
            found.append((field.name, _kind(hints[field.name])))
        except TypeError as error:
            raise TypeError(f"the field {field.name} of {owner.__name__}: {error}") from error
    return tuple(found)


@cache
def _kind(annotation: Any) -> Kind:
    origin, given = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(isinstance(choice, str) for choice in given):
        return _choice(given)
    if origin is tuple and given:
        return _tuple_of(_kind(given[0])) if given[-1] is Ellipsis else _tuple_as(tuple(map(_kind, given)))
    if origin in (Union, types.UnionType):
        return _one_of(tuple(_kind(member) for member in given if member is not type(None)), type(None) in given)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if annotation in _KINDS:
        return _one_of(tuple(map(_kind, _KINDS[annotation])), optional=False)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _part(annotation)
    raise TypeError(
        f"the annotation {annotation} is none of those that can be checked: int, float, bool, str, Literal of strings, "
        "tuple[...], dataclasses, families of these and unions"
    )


# --- numbers, words ---------------------------------------------------------------------------------------------------


def _whole(value: Any) -> int:
    if type(value) is int:
        return value
    # Numpy's integers are Integral, and so is True.
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise _UnfitError("a whole number", value, _number_remedy(value))


def _finite(value: Any) -> float:
    # Numpy's numbers are Real, and so is True.
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise _UnfitError("a finite number", value) from None
        if math.isfinite(number):
            # 0.0 and -0.0 are equal, and their texts are not.
            return (value if type(value) is float else number) if number else 0.0
    raise _UnfitError("a finite number", value, _number_remedy(value))


def _number_remedy(value: Any) -> str:
    if isinstance(value, bool):
        return "a truth value is no number"
    if isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, Real):
        return "give one number" if tuple(shape) else "take the number out of it with .item()"
    return ""


def _truth(value: Any) -> bool:
    # Numpy's truth values are not bool; they are known by name, as numpy is not imported here.
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise _UnfitError("True or False", value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if type(value) is str else str(value)
    raise _UnfitError("a string", value, "write str(...)" if hasattr(value, "__fspath__") else "")


_SCALARS: dict[Any, Kind] = {
    int: Kind("a whole number", _whole),
    float: Kind("a finite number", _finite),
    bool: Kind("True or False", _truth),
    str: Kind("a string", _text),
}


def _choice(choices: tuple[str, ...]) -> Kind:
    words = f"one of {choices}"

    def take(value: Any) -> str:
        if isinstance(value, str):
            if value in choices:
                return value if type(value) is str else str(value)
            near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
            raise _UnfitError(words, value, f"did you mean {near[0]!r}?" if near else "")
        raise _UnfitError(words, value)

    return Kind(words, take)


# --- tuples, parts, unions --------------------------------------------------------------------------------------------


def _tuple_of(element: Kind) -> Kind:
    words = f"a tuple whose elements are each {element.words}"

    def take(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)):
            raise _UnfitError(words, value, f"write ({shown(value)},)" if element.fits(value) else "")
        return _each(value, [element] * len(value))

    return Kind(words, take, element.parts)


def _tuple_as(elements: tuple[Kind, ...]) -> Kind:
    words = f"a tuple of {len(elements)} ({', '.join(element.words for element in elements)})"

    def take(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)) or len(value) != len(elements):
            raise _UnfitError(words, value)
        return _each(value, elements)

    return Kind(words, take, tuple(part for element in elements for part in element.parts))


def _each(values: Sequence[Any], elements: Sequence[Kind]) -> tuple[Any, ...]:
    kept = []
    for index, (element, value) in enumerate(zip(elements, values, strict=True)):
        try:
            kept.append(element.take(value))
        except _UnfitError as unfit:
            unfit.inside = f"[{index}]{unfit.inside}"
            raise
    same = type(values) is tuple and all(a is b for a, b in zip(kept, values, strict=True))
    return values if same else tuple(kept)  # type: ignore[return-value] # values is a tuple where it is the same


def _part(part: type) -> Kind:
    def take(value: Any) -> Any:
        if isinstance(value, part):
            return value
        raise _UnfitError(part.__name__, value, _part_remedy(value, (part,)))

    return Kind(part.__name__, take, (part,))


def _one_of(members: tuple[Kind, ...], optional: bool) -> Kind:
    words = _listed([*(member.words for member in members), *(["None"] if optional else [])])
    parts = tuple(part for member in members for part in member.parts)

    def take(value: Any) -> Any:
        if optional and value is None:
            return None
        remedy = ""
        for member in members:
            try:
                return member.take(value)
            except _UnfitError as unfit:
                # What is wrong inside a tuple says more than the list of kinds.
                if unfit.inside:
                    raise
                remedy = unfit.remedy
        raise _UnfitError(words, value, remedy if len(members) == 1 else _part_remedy(value, parts))

    return Kind(words, take, parts)


def _part_remedy(value: Any, parts: tuple[type, ...]) -> str:
    """What to write instead of a value that is none of the parts."""
    if not parts:
        return _number_remedy(value)
    named = {part.__name__.casefold(): part for part in parts}
    with_fields = [part for part in parts if fields(part)]  # type: ignore[arg-type] # parts are dataclasses
    likely = (with_fields or list(parts))[0]
    if isinstance(value, type) and value in parts:
        likely = value
    elif isinstance(value, str):
        word = "".join(letter for letter in value.casefold() if letter.isalnum())
        near = difflib.get_close_matches(word, named, n=1, cutoff=0.4)
        likely = named[near[0]] if near else likely
    return f"write {likely.__name__}({'...' if likely in with_fields else ''})"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """Return a refused value as a sentence shows it: short, and with its type where that is not plain to see."""
    text = " ".join(repr(value).split())
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    obvious = value is None or isinstance(value, (str, int, float, tuple, list, dict, type)) or is_dataclass(value)
    return text if obvious else f"{text} ({type(value).__module__}.{type(value).__name__})"
