"""Where runs are kept, unless a call or a command says another folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "VALUESTREAM_RUNS"
"""The environment variable that names another folder than ``runs``."""


def runs_folder(root: str | Path | None = None) -> Path:
    """Return the folder of runs: ``root``; without one that of ``VALUESTREAM_RUNS``, else ``runs``, where this process
    works."""
    return Path(os.environ.get(VARIABLE) or "runs").expanduser() if root is None else Path(root)


def runs_folders(roots: Sequence[str | Path] = ()) -> list[Path]:
    """Return folders of runs, the usual one where none is given."""
    return [Path(root) for root in roots] or [runs_folder()]
