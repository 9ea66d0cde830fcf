"""How the types of our packages are checked in tests; imported before any of them.

The hook of ``--jaxtyping-packages`` puts ``jaxtyping.jaxtyped`` round every function of ours while it is loaded.
"""

from __future__ import annotations

import functools
import inspect
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

_with_shapes = jaxtyping.jaxtyped
_without_shapes = beartype(conf=BeartypeConf(violation_type=TypeError))


def checked(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Return a function whose types are checked in every call.

    Where a shape is annotated jaxtyping does that, elsewhere beartype alone, as jaxtyping binds the arguments of every
    call to hold shapes against each other. Both raise a ``TypeError``.
    """
    if function is None:
        return lambda decorated: checked(decorated, typechecker=typechecker)
    # Beartype's functions refer to themselves: what a function within another holds would live until garbage is
    # collected.
    inner = "<locals>" in getattr(function, "__qualname__", "")
    if not inspect.isfunction(function) or inner or _may_have_shapes(function):
        return _with_shapes(function, typechecker=typechecker)
    careful = _without_shapes(function)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else careful)(*args, **kwargs)

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
