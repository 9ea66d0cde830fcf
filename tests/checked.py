"""How the types of our packages are checked in tests; imported before any of them.

The hook of ``--jaxtyping-packages`` puts ``jaxtyping.jaxtyped`` round every function of ours while it is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

# Whatever is first imported while the hook loads a module of ours is compiled from its source instead of being read as
# bytecode. For these libraries that takes longer than all of our code.
import cattrs  # noqa: F401
import datasets  # noqa: F401
import jaxtyping
import numpy as np
import plotly.io  # noqa: F401
import torch
import transformer_lens.model_bridge  # noqa: F401
import transformers  # noqa: F401
import tyro  # noqa: F401
from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable
from jaxtyping import _array_types, _storage

_CONF = BeartypeConf(violation_type=TypeError)
jaxtyped = jaxtyping.jaxtyped


def _calls() -> list[Any]:
    """The calls under way in this thread, the last one innermost: for each the sizes that names have in it."""
    try:
        return _storage._shape_storage.memo_stack
    except AttributeError:
        _storage._shape_storage.memo_stack = []
        return _storage._shape_storage.memo_stack


def checked(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Return a function whose types are checked in every call, sizes of one name against each other.

    Jaxtyping's own decorator does the same and words its errors better, but binds the arguments of every call, looks at
    them twice, and writes code for every function within another whenever the other is called. A violation is a
    ``TypeError`` either way.
    """
    if function is None:
        return lambda decorated: checked(decorated, typechecker=typechecker)
    if not inspect.isfunction(function):
        return jaxtyped(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        star = function.__code__.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
        alike = all(isinstance(hint, str) for hint in function.__annotations__.values())  # whenever it is made
        return _checked_within(function) if alike and not star else jaxtyped(function, typechecker=typechecker)
    hints = _hints(function)
    sized = any(map(_has_shape, hints.values()))
    # What cannot be evaluated yet, as a class that is made later, and functions whose body runs when the call is over.
    if len(hints) < len(function.__annotations__) or (sized and inspect.isgeneratorfunction(function)):
        return jaxtyped(function, typechecker=typechecker)
    careful = beartype(conf=_CONF)(function)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not sized:
            return careful(*args, **kwargs)
        calls = _calls()
        calls.append(({}, {}, {}, {}))
        try:
            return careful(*args, **kwargs)
        finally:
            calls.pop()

    return called


def _has_shape(hint: Any) -> bool:
    of_jaxtyping = isinstance(hint, type) and hint.__module__.startswith("jaxtyping")
    return of_jaxtyping or any(map(_has_shape, getattr(hint, "__args__", ())))


def _checked_within(function: Any) -> Any:
    """Check a function within another, which is made anew in every call, without code of its own.

    Beartype's functions refer to themselves: what such a function holds would live until garbage is collected.
    """
    code, said = function.__code__, {"conf": _CONF, "exception_prefix": f"{function.__qualname__}() "}
    if code not in _HINTS:
        _HINTS[code] = _hints(function)
    hints = _HINTS[code]
    in_order = [hints.get(name, Any) for name in code.co_varnames[: code.co_argcount]]
    returned = hints.get("return", Any)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        calls = _calls()
        calls.append(({}, {}, {}, {}))
        try:
            named = ((hints.get(name, Any), value) for name, value in kwargs.items())
            for hint, value in (*zip(in_order, args, strict=False), *named):
                if hint is not Any:
                    die_if_unbearable(value, hint, **said)
            out = function(*args, **kwargs)
            if returned is not Any:
                die_if_unbearable(out, returned, **said)
            return out
        finally:
            calls.pop()

    return called


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(function: Any) -> dict[str, Any]:
    """The annotations that can be evaluated by now; the others may be anything."""
    found = {}
    for name, hint in function.__annotations__.items():
        with contextlib.suppress(Exception):
            one: Any = types.SimpleNamespace(__annotations__={name: hint})
            found[name] = typing.get_type_hints(one, function.__globals__, include_extras=True)[name]
    return found


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """No types are checked within."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# --- shapes -----------------------------------------------------------------------------------------------------------

_ARRAYS = (torch.Tensor, torch.nn.Parameter, np.ndarray)
_NUMBERS_AND_NAMES = re.compile(r"(\s*(\*?[A-Za-z_]\w*|\d+|\.\.\.))*\s*")
looked_at: Any = _array_types._MetaAbstractArray.__instancecheck__


def fits(hint: Any, value: Any) -> bool:
    """Whether an array is of a type, given the sizes that names have in the innermost call, which learns new ones.

    It is jaxtyping's answer, asked once of every dtype and shape: jaxtyping copies at every look all that a call knows.
    """
    kind = type(value)
    seen = hint.__dict__.get("seen", hint)
    if seen is hint:
        seen = hint.seen = {} if _NUMBERS_AND_NAMES.fullmatch(hint.dim_str) else None
    if seen is None or kind not in _ARRAYS:
        return looked_at(hint, value)
    key = kind, value.dtype, value.shape
    calls = _calls()
    if key not in seen:
        calls.append(({}, {}, {}, {}))
        try:
            fitting = looked_at(hint, value)
        finally:
            sizes, shapes, *_ = calls.pop()
        seen[key] = (sizes, shapes) if fitting else None
    if seen[key] is None:
        return False
    if calls:
        sizes, shapes = seen[key]
        known, known_shapes, *_ = calls[-1]
        for name, size in sizes.items():
            if known.get(name, size) != size:
                return False
        for name, shape in shapes.items():
            if known_shapes.get(name, shape) != shape:
                return looked_at(hint, value)
        known.update(sizes)
        known_shapes.update(shapes)
    return True


meta: Any = _array_types._MetaAbstractArray
meta.__instancecheck__ = fits
jaxtyping.jaxtyped = checked
