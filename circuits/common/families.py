"""Families of kinds that can be added to: gains, transforms, topologies. Ours are there; others are registered.

A value is stored as its fields beside the name of its kind; one of a registered kind also has a hash of the source of
its classes, and the module that registered it. What is stored never imports code: that is for who reads it to do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

from circuits.common.errors import known, require
from circuits.common.fields import Checked, let_kinds_be

Kind = TypeVar("Kind", bound=Checked)
SCRIPT = "__script__"
"""What a script is called where it runs again without being the main one."""


class KindError(ValueError):
    """A kind that is not registered here, or whose source is another than when it was stored."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a registered kind comes from."""

    module: str
    """The module that registered it; of a script, its file's name."""
    source: str
    """The first 12 digits of the SHA-256 of the source of its classes. What these call is not followed."""


class Family:
    """The kinds of a base class, by name: ``what`` is what one of them is called."""

    def __init__(self, what: str, base: type[Checked], *ours: type[Checked]):
        self.what, self.base = what, base
        self.kinds: dict[str, type[Checked]] = {kind.__name__: kind for kind in ours}
        self.origins: dict[str, Origin] = {}
        self.let_be()

    def let_be(self) -> None:
        """Let a field that is annotated with the base class, or with one between it and the kinds, hold them."""
        kinds = tuple(self.kinds.values())
        between = {base for kind in kinds for base in kind.__mro__ if issubclass(base, self.base)} - {*kinds}
        for base in between or {self.base}:
            let_kinds_be(base, tuple(kind for kind in kinds if issubclass(kind, base)))

    def register(self, kind: type[Kind], *classes: type) -> type[Kind]:
        """Add a kind, whose source is that of its own class and of ``classes``; return it.

        The same name may be registered again from the module that registered it, as a notebook's cell does.

        Raises:
            ValueError: if it is no frozen dataclass that inherits from the base class, its source cannot be read, or
                another module has registered its name.
        """
        name = getattr(kind, "__name__", "")
        frozen = dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined] # dataclasses have it
        require(
            isinstance(kind, type) and issubclass(kind, self.base) and frozen and name.isidentifier(),
            f"a {self.what} is registered as a frozen dataclass with a name, made from {self.base.__name__}: "
            f"@dataclass(frozen=True) class {name if name.isidentifier() else 'Mine'}({self.base.__name__}); got "
            f"{kind!r}",
        )
        self.free(name, module_of(kind))
        source = source_hash(kind, *classes)
        self.kinds[name], self.origins[name] = kind, Origin(origin_of(name, kind), source)
        self.let_be()
        return kind

    def free(self, name: str, module: str) -> None:
        """Raise ``ValueError`` if a name is taken by another module, or by a kind of ours."""
        there = self.origins.get(name)
        require(
            name not in self.kinds or (there is not None and there.module == module),
            f"the {self.what} {name!r} is there already, {'ours' if there is None else f'registered by {there.module}'}"
            f"; give yours another name",
        )

    def stored(self, fields: Mapping[str, Any], kind: type) -> dict[str, Any]:
        """Return the plain fields of a value with the name of its kind, and where that comes from."""
        require(
            self.kinds.get(kind.__name__) is kind,
            f"the {self.what} {kind.__name__} is not registered; call register_{self.what} first",
        )
        origin = self.origins.get(kind.__name__)
        return {**fields, "type": kind.__name__, **(dataclasses.asdict(origin) if origin else {})}

    def read(self, stored: Mapping[str, Any]) -> tuple[type[Checked], dict[str, Any]]:
        """Return the kind and the plain fields of what :meth:`stored` returned.

        Raises:
            KindError: for a kind that is not registered here, or was changed since.
            UnknownNameError: for a name that was never registered (nearest suggested).
        """
        require(
            isinstance(stored, Mapping) and "type" in stored, f"a stored {self.what} names its type, got {stored!r}"
        )
        fields = dict(stored)
        name, module, source = fields.pop("type"), fields.pop("module", None), fields.pop("source", None)
        if name not in self.kinds and source is not None:
            raise KindError(
                f"the {self.what} {name!r} is not registered here; {module or 'another module'} registered it: import "
                f"that first, or give --plugin with its name"
            )
        kind, here = self.kinds[known(self.what, name, self.kinds)], self.origins.get(name)
        if source != (here.source if here else None):
            raise KindError(
                f"the {self.what} {name!r} of {module or (here.module if here else 'ours')} is not as it was: its "
                f"source had the hash {source} and has {here.source if here else None}; take the change back, or "
                f"register it under another name and train again"
            )
        return kind, fields


def without_modules(plain: Any) -> Any:
    """Return plain data without the modules that registered its kinds, which say where code lies and not what it is."""
    if isinstance(plain, list):
        return [without_modules(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    of_kind = {"type", "source", "module"} <= plain.keys()
    return {name: without_modules(part) for name, part in plain.items() if not (of_kind and name == "module")}


_REGISTERED: dict[tuple[str, str], None] = {}
"""Which module, by its name in this process, registered which name, in order."""


def registered_by_script() -> frozenset[str]:
    """Return the names that the main script, notebook or prompt has registered itself."""
    return frozenset(name for module, name in _REGISTERED if module == "__main__")


def registering_modules() -> tuple[str, ...]:
    """Return the modules that have registered something, beside the main script."""
    return tuple(dict.fromkeys(module for module, _ in _REGISTERED if module not in ("__main__", SCRIPT)))


def origin_of(name: str, code: Any) -> str:
    """Return the module that registers a name with a class or a function, and note it."""
    _REGISTERED[getattr(code, "__module__", type(code).__module__), name] = None
    return module_of(code)


def module_of(code: Any) -> str:
    """Return the module that a class or a function is from; of a script, its file's name, wherever it runs."""
    name = getattr(code, "__module__", type(code).__module__)
    if name not in ("__main__", SCRIPT):
        return name
    file = getattr(sys.modules[name], "__file__", None)
    return Path(file).name if file else "a notebook or prompt"


def source_hash(*classes: Any) -> str:
    """Return the first 12 digits of the SHA-256 of the source of classes and functions.

    Raises:
        ValueError: for one whose source cannot be read.
    """
    return hashlib.sha256("\n".join(map(_source, classes)).encode()).hexdigest()[:12]


def _source(kind: Any) -> str:
    try:
        return dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        pass
    own = _parts(kind)
    require(
        bool(own),
        f"the source of {getattr(kind, '__name__', kind)} cannot be read, so what changes in it would not be seen; "
        f"define it in a file or in a cell of a notebook",
    )
    return dedent("\n".join([*own, str(getattr(kind, "__annotations__", {}))]))


_GENERATED = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__")
"""What a frozen dataclass has that nobody wrote."""


def _parts(kind: Any) -> list[str]:
    """What a notebook's class is made of, which has no file where its functions have one: their sources, and of a
    dataclass its fields with their defaults; nothing if some function cannot be read."""
    of_fields = dataclasses.is_dataclass(kind)
    fields = [str(inspect.signature(kind.__init__))] if of_fields and dataclasses.fields(kind) else []
    written = [part for name, part in vars(kind).items() if not (of_fields and name in _GENERATED)]
    functions = filter(inspect.isfunction, (inspect.unwrap(getattr(part, "fget", None) or part) for part in written))
    try:
        sources = [inspect.getsource(function) for function in functions]
    except (OSError, TypeError):
        return []
    return [source for source in sources if source.strip()] + fields
