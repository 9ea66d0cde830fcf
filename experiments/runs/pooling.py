"""Which runs may stand side by side as seeds: each counts once, and they differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from circuits.common.errors import require
from circuits.common.plain_data import differences
from experiments.runs.run import Run


def require_seeds(runs: Iterable[Run]) -> None:
    """Refuse runs of which means over seeds would say something wrong.

    Raises:
        ValueError: if a run comes twice (a copy of its directory is the same run), or two of one variant and preset or
            size differ in more than their seed, naming both and in what.
    """
    seen: dict[str, Run] = {}
    alike: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        before = seen.get(run.record["id"])
        seen[run.record["id"]] = run
        require(
            before is None,
            f"{before and before.path} and {run.path} are one run (id {run.record['id']}), which would count as two "
            f"seeds; leave one of them out",
        )
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
