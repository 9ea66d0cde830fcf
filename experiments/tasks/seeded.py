"""Seeds of tasks: equal ones pair variants, so whatever is no whole number is refused wherever a task takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from circuits.common.errors import whole


class SeededTask:
    """A task of which every method that takes a ``seed``, one's own too, takes nothing but a whole number for it."""

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and "seed" in (parameters := list(inspect.signature(method).parameters)):
                setattr(cls, name, _seeded(method, parameters.index("seed")))


def _seeded(method: Callable[..., Any], place: int) -> Callable[..., Any]:
    """A method whose argument at a place is a seed, as one that takes 1 and numpy's 1 for it, and neither 1.0 nor True:
    what is drawn is hashed from the text of a seed, so these would silently draw something else."""

    @wraps(method)
    def checked(*given: Any, **named: Any) -> Any:
        if "seed" in named:
            named["seed"] = whole("seed", named["seed"], None)
        elif len(given) > place:
            given = (*given[:place], whole("seed", given[place], None), *given[place + 1 :])
        return method(*given, **named)

    return checked
