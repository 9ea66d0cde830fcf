"""How the types of our packages are checked in tests; imported before any of them.

The hook of ``--jaxtyping-packages`` puts ``jaxtyping.jaxtyped`` round every function of ours while it is loaded.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable
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

MOST = 5
"""So many calls of a function are checked in every test, and so many functions that are made by one line within
another; to check all would be most of the suite's time."""
_with_shapes = jaxtyping.jaxtyped
_without_shapes = beartype(conf=BeartypeConf(violation_type=TypeError))
_counts: Counter[Any] = Counter()


def begin() -> None:
    """Let the calls be counted anew: another test begins."""
    _counts.clear()


def checked(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Return a function whose types are checked by jaxtyping, in the first calls of every test.

    Where no shape is annotated it is left to beartype alone, as jaxtyping binds the arguments of every call to hold
    shapes against each other. Both raise a ``TypeError``.
    """
    if function is None:
        return lambda decorated: checked(decorated, typechecker=typechecker)
    if not inspect.isfunction(function):
        return _with_shapes(function, typechecker=typechecker)
    code = function.__code__
    if "<locals>" in function.__qualname__:
        # Beartype's functions refer to themselves, so that what these hold would live until garbage is collected.
        _counts[code] += 1
        return function if _counts[code] > MOST else _with_shapes(function, typechecker=typechecker)
    careful = (
        _with_shapes(function, typechecker=typechecker) if _may_have_shapes(function) else _without_shapes(function)
    )

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable or _counts[code] >= MOST:
            return function(*args, **kwargs)
        _counts[code] += 1
        return careful(*args, **kwargs)

    return called


def _may_have_shapes(function: Any) -> bool:
    try:
        return any(_has_shape(hint) for hint in inspect.get_annotations(function, eval_str=True).values())
    except Exception:  # what cannot be evaluated yet may be anything, and raises anything
        return True


def _has_shape(hint: Any) -> bool:
    of_jaxtyping = isinstance(hint, type) and hint.__module__.startswith("jaxtyping")
    return of_jaxtyping or any(map(_has_shape, getattr(hint, "__args__", ())))


jaxtyping.jaxtyped = checked
