"""How the types of our packages are checked in tests; imported before any of them.

The hook of ``--jaxtyping-packages`` puts ``jaxtyping.jaxtyped`` round every function of ours while it is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

# Whatever is first imported while the hook loads a module of ours is compiled from its source instead of being read as
# bytecode. For these libraries that takes longer than all of our code.
import cattrs  # noqa: F401
import datasets  # noqa: F401
import jaxtyping
import plotly.io  # noqa: F401
import transformer_lens.model_bridge  # noqa: F401
import transformers  # noqa: F401
import tyro  # noqa: F401
from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable

_CONF = BeartypeConf(violation_type=TypeError)
_jaxtyped = jaxtyping.jaxtyped
_one_call: Any = _jaxtyped("context")


def checked(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Return a function whose types are checked in every call, sizes of one name against each other.

    Jaxtyping's own decorator does the same and words its errors better, but binds the arguments of every call, looks at
    them twice, and writes code for every function within another whenever the other is called. A violation is a
    ``TypeError`` either way.
    """
    if function is None:
        return lambda decorated: checked(decorated, typechecker=typechecker)
    if not inspect.isfunction(function):
        return _jaxtyped(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        star = function.__code__.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
        alike = all(isinstance(hint, str) for hint in function.__annotations__.values())  # whenever it is made
        return _checked_within(function) if alike and not star else _jaxtyped(function, typechecker=typechecker)
    try:
        hints = inspect.get_annotations(function, eval_str=True).values()
    except Exception:  # what cannot be evaluated yet may be anything, and raises anything
        return _jaxtyped(function, typechecker=typechecker)
    sized = any(map(_has_shape, hints))
    if sized and inspect.isgeneratorfunction(function):  # whose body runs when the call is over
        return _jaxtyped(function, typechecker=typechecker)
    careful = beartype(conf=_CONF)(function)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not sized:
            return careful(*args, **kwargs)
        with _one_call:
            return careful(*args, **kwargs)

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

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        with _one_call:
            named = ((hints.get(name, Any), value) for name, value in kwargs.items())
            for hint, value in (*zip(in_order, args, strict=False), *named):
                if hint is not Any:
                    die_if_unbearable(value, hint, **said)
            out = function(*args, **kwargs)
            die_if_unbearable(out, hints.get("return", Any), **said)
            return out

    return called


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(function: Any) -> dict[str, Any]:
    """The annotations that can be evaluated where the module ends; the others may be anything."""
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


jaxtyping.jaxtyped = checked
