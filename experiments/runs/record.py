"""What a run's ``run.json`` says: its kind, configuration and environment, how far it is, and the hashes of files."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from circuits.common.errors import whole
from circuits.common.plain_data import content_hash

FORMAT = "valuestream-run-2"
FIRST_FORMAT = "valuestream-run-1"
"""Its records have no hash of themselves."""
FIRST_KIND = "icl"
KINDS = (FIRST_KIND, "vectors", "lm")
"""Of the task in context, of other tasks of vectors, and of tasks of tokens."""
STATUSES = ("running", "failed", "finished")


class RunError(ValueError):
    """A directory that is no run, of another version, half written, damaged or in use; or a run that cannot go on."""


class DamagedRunWarning(UserWarning):
    """A run that was left out of a listing, as it cannot be read."""


def anew(path: Path) -> str:
    """Return what to do about a run that is damaged, in words: the command that removes it comes first, as what is
    there is never trained again."""
    command = f"valuestream runs --remove {shlex.quote(str(path))} --yes"
    return f"remove the run ('{command}'), then train it again, or import it again"


@cache
def environment() -> dict[str, Any]:
    """Return the versions and the git state that a run is recorded with."""
    packages = ("torch", "transformer-lens", "numpy", "valuestream")
    return {"python": platform.python_version(), "git": _git(), **{name: version(name) for name in packages}}


def _git() -> dict[str, Any] | None:
    here = Path(__file__).parents[2]
    # Installed somewhere within another project's repository, its commits say nothing of this code.
    if not (here / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def read_record(path: Path) -> dict[str, Any]:
    """Return what a run's ``run.json`` says.

    Raises:
        RunError: if the directory is no run, is from another version or half written.
    """
    file = path / "run.json"
    try:
        record = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not a run directory: it has no run.json; 'valuestream runs' lists the runs"
        raise RunError(f"{path} {what}") from error
    except ValueError as error:
        raise RunError(f"{file} is half written or damaged ({error}); {anew(path)}") from error
    if not isinstance(record, dict):
        raise RunError(f"{file} is damaged, it is no record of a run; {anew(path)}")
    if record.get("format") not in (FORMAT, FIRST_FORMAT):
        raise RunError(f"{path} has the format {record.get('format')!r}, this version reads {FORMAT!r}")
    if not isinstance(record.get("config"), dict) or "id" not in record:
        raise RunError(f"{file} is damaged, it names no configuration; {anew(path)}")
    if record["format"] == FORMAT and record.get("sha256") != _record_hash(record):
        raise RunError(
            f"{file} does not have the hash that it states: it was changed or damaged; restore it, or {anew(path)}"
        )
    if record.get("status") not in STATUSES or not isinstance(record.get("checkpoints"), dict):
        raise RunError(f"{file} is damaged, it has no status or no list of checkpoints; {anew(path)}")
    return record


def kind_of(record: Mapping[str, Any]) -> str:
    """Return the kind of a run, of what its ``run.json`` says; the first runs were all of one kind, and say none."""
    return record.get("kind", FIRST_KIND)


def checkpoint_step(record: Mapping[str, Any], name: str, step: int = -1) -> int:
    """Return the step of a run's checkpoint, of what its ``run.json`` says; -1 is the last.

    Raises:
        RunError: if there is none at that step (nearest suggested), or none at all.
        ValueError: for what is no step.
    """
    step = whole("the step of a checkpoint (-1 is the last)", step, -1)
    steps = sorted(int(each) for each in record["checkpoints"])
    if not steps:
        raise RunError(f"{name} has no checkpoint yet; let it train on")
    step = steps[-1] if step == -1 else step
    if step not in steps:
        nearest = min(steps, key=lambda s: abs(s - step))
        raise RunError(f"{name} has no checkpoint at step {step}; the nearest is at {nearest}")
    return step


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return a record as the file that holds it, with its own hash."""
    held = dict(record) | {"format": FORMAT}
    held["sha256"] = _record_hash(held)
    return (json.dumps(held, indent=1, sort_keys=True) + "\n").encode()


def _record_hash(record: Mapping[str, Any]) -> str:
    return content_hash(json.loads(json.dumps({key: value for key, value in record.items() if key != "sha256"})))
