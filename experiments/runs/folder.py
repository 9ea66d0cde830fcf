"""Where runs are kept, unless a call or a command says another folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from circuits.common.errors import require
from circuits.common.files import path_of

VARIABLE = "VALUESTREAM_RUNS"
"""The environment variable that names another folder than ``runs``."""
ANOTHER = f"name another one, by --root, the argument root, or the variable {VARIABLE}"
"""What to do where runs cannot be kept."""


def runs_folder(root: str | Path | None = None) -> Path:
    """Return the folder of runs, which need not be there yet: ``root``; without one that of ``VALUESTREAM_RUNS``, else
    ``runs``, where this process works.

    Raises:
        ValueError: for what is no path, or is there and is no folder.
    """
    folder = Path(os.environ.get(VARIABLE) or "runs").expanduser() if root is None else path_of("root", root)
    require(folder.is_dir() or not folder.exists(), f"{folder} is a file, and runs are kept in a folder; {ANOTHER}")
    return folder


def runs_folders(roots: Sequence[str | Path] = ()) -> list[Path]:
    """Return folders of runs, the usual one where none is given."""
    return [runs_folder(root) for root in roots] or [runs_folder()]
