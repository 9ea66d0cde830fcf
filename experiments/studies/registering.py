"""Figures of one's own, with the runs that lie behind them: drawn, swept and collected by name as ours are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from circuits.common.errors import require
from circuits.common.families import module_of
from experiments.studies.committed_results import Bundle
from experiments.studies.registry import EXPERIMENTS, PICTURES, experiment
from experiments.studies.study import Arm, Experiment, Picture, RunConfig, Size

if TYPE_CHECKING:
    import plotly.graph_objects as go
else:
    go = Any

REGISTERED_BY: dict[str, str] = {}
"""The modules of figures that are not ours."""


def register_figure(
    name: str,
    draw: Callable[[Bundle], go.Figure],
    runs: Callable[[Size], Iterable[RunConfig]] | None = None,
    experiments: Sequence[str] = (),
    asks: str = "",
) -> Picture:
    """Return a figure, registered under its name: ``draw`` makes it of a bundle of results.

    What lies behind it are ``experiments`` that there are, and ``runs``, given a size: these are an experiment of the
    same name, with the question ``asks``, which ``sweep`` trains and ``collect`` puts into a bundle. A name may be
    registered again from the module that did so before.

    Raises:
        UnknownNameError: for an unknown experiment (nearest suggested).
        ValueError: for a name that is taken, is empty, or is not made of letters, digits, hyphens and underscores; or
            if ``draw`` or ``runs`` cannot be called.
    """
    require(
        isinstance(name, str) and bool(re.fullmatch(r"[a-zA-Z0-9]+([_-][a-zA-Z0-9]+)*", name)),
        f"a figure's name is letters, digits, and hyphens or underscores between them, as 'my_gap'; got {name!r}",
    )
    for what, given in (("draw", draw), ("runs", runs)):
        require(given is None or callable(given), f"{what} of the figure {name!r} is a function, got {given!r}")
    module, whose = module_of(draw), REGISTERED_BY.get(name, "ours")
    taken = (name in PICTURES or (name in EXPERIMENTS and runs is not None)) and whose != module
    require(not taken, f"the figure or experiment {name!r} is there already ({whose}); give yours another name")
    behind = [experiment(of) for of in experiments]
    if runs is not None:
        made = runs
        EXPERIMENTS[name] = Experiment(name, lambda size: [Arm(config) for config in made(size)], asks)
        behind.append(EXPERIMENTS[name])
    PICTURES[name] = Picture(name, draw, lambda bundle: {"bundle": bundle}, tuple(behind))
    REGISTERED_BY[name] = module
    return PICTURES[name]
