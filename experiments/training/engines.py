"""How a run computes: compiled where that pays and a compiler is found, or step by step."""

from __future__ import annotations

import shutil

from circuits.last_position import why_not
from experiments.runs.config import RunConfig

COMPILE_FROM = 20_000
"""Runs of at least so many steps are compiled where a compiler is found; below, compiling costs more than it saves."""


def compiles() -> bool:
    """Return whether there is a compiler here for ``torch.compile`` to use."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def choose_compute(config: RunConfig) -> str:
    """Return ``"compiled"`` or ``"eager"``, whichever suits a classifier's run on this machine."""
    pays = config.training.steps >= COMPILE_FROM and why_not(config.model) is None
    return "compiled" if pays and compiles() else "eager"
