"""Frames of several runs: which may stand side by side as seeds (they differ in nothing else), and their metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from circuits.common.errors import require
from circuits.common.plain_data import differences
from experiments.runs.run import Run


def require_once(runs: Iterable[Run]) -> None:
    """Refuse a run that comes twice: a copy of its directory is the same run.

    Raises:
        ValueError: naming both directories.
    """
    seen: dict[str, Run] = {}
    for run in runs:
        before = seen.get(run.record["id"])
        require(
            before is None,
            f"{before and before.path} and {run.path} are one run (id {run.record['id']}), which would count twice; "
            f"leave one of them out",
        )
        seen[run.record["id"]] = run


def require_seeds(runs: Iterable[Run]) -> None:
    """Refuse runs of which means over seeds would say something wrong.

    Raises:
        ValueError: as :func:`require_once`, or if two of one variant and preset or size differ in more than their
            seed, naming both and in what.
    """
    runs = list(runs)
    require_once(runs)
    alike: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        config = run.config
        first = alike.setdefault((config.kind, config.variant, config.preset), run)
        found = differences(_but_seed(first), _but_seed(run))
        require(
            not found,
            f"{first.path.name} and {run.path.name} are both called {config.variant} ({config.preset}) and would be "
            f"pooled as seeds of it, but they differ in {'; '.join(found[:3])}; ask of each by itself, or give one "
            f"another name in the column 'variant'",
        )


def _but_seed(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.config.to_plain().items() if name != "seed"}


def labelled(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return a frame that says which run, variant and seed it is of."""
    return frame.assign(run=run.path.name, variant=run.config.variant, seed=run.config.seed)


def all_metrics(runs: Iterable[Run]) -> pd.DataFrame:
    """Return the metrics of several runs, with columns run, variant, seed, stopped, step, split, measure, value.

    ``stopped`` is whether a run ended before its last planned step, because it had learned.

    Raises:
        ValueError: as :func:`require_seeds`, for no runs, and for runs of one variant with several presets (or sizes),
            or of tokens and of vectors: the frame does not say which, so they would be pooled as seeds of the variant.
    """
    runs = list(runs)
    require(bool(runs), "all_metrics is of one run or more, and got none; Run.under(root) gives those of a folder")
    require_seeds(runs)
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.config.variant, run)
        require(
            (run.config.kind, run.config.preset) == (other.config.kind, other.config.preset),
            f"{other.path.name} and {run.path.name} are both called {run.config.variant}, are of other presets or "
            f"kinds, and would be pooled as seeds; ask all_metrics of each by itself, and give one another name in "
            f"the column 'variant'",
        )
    frames = [(run, run.metrics()) for run in runs]
    return pd.concat(
        [labelled(frame, run).assign(stopped=_stopped(frame, run)) for run, frame in frames], ignore_index=True
    )


def _stopped(metrics: pd.DataFrame, run: Run) -> bool:
    return run.finished and bool(metrics.step.max() < run.config.training.steps)
