"""Run directories: plain files that say what was trained, how it went and what it became.

    <root>/icl-value-small-s0-0123456789ab/
        run.json                           configuration, versions, git state, status, content hashes
        metrics.jsonl                      while running, a line a measurement; metrics.parquet once closed
        gradients.jsonl                    likewise, of runs that split their gradients by route while they train
        state.safetensors                  while running: where to resume
        checkpoints/step_00000100.safetensors
        results/<analysis>.parquet         tidy frames, with <analysis>.json and .html figures beside them
        results/unfinished/                what questions that were interrupted have measured, until they are answered
        sessions.jsonl                     how long each sitting took; equal runs differ in it alone
        places.json                        of a corpus of local files: where this machine has them; no part of the run

Every file is written whole or not at all, and is read only with the hash that was written with it. Only the process
that holds the run's lock changes its record, and reads it again when it takes the lock. Nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from circuits.common.families import KindError
from circuits.common.files import path_of, write_new
from circuits.common.plain_data import differences
from experiments.runs.config import RunConfig
from experiments.runs.files import RunFiles
from experiments.runs.folder import ANOTHER, runs_folder
from experiments.runs.locks import GONE, explained, held_lock
from experiments.runs.names import directories, directories_of
from experiments.runs.record import (
    FORMAT,
    KINDS,
    DamagedRunWarning,
    RunError,
    environment,
    kind_of,
    read_record,
    record_bytes,
)

R = TypeVar("R", bound="RunDirectory")


def directory_of(root: str | Path | None, config: RunConfig) -> Path:
    """Return where the run of a configuration is under ``root``, or would be; the id tells, whatever the name says
    before it."""
    folder = runs_folder(root)
    path = folder / config.name
    return path if path.exists() else next(folder.glob(f"*-{config.id}"), path)


class RunDirectory(RunFiles):
    """One run's directory. Make one with :meth:`at`, read one with :meth:`open`."""

    def __init__(self, path: Path, record: dict[str, Any]):
        super().__init__(path, record)
        self.config = RunConfig.from_plain(record["config"])

    @staticmethod
    def _plain(config: RunConfig) -> dict[str, Any]:
        return config.to_plain()

    @classmethod
    def at(cls: type[R], root: str | Path | None, config: RunConfig, engine: str = "eager") -> R:
        """Return the run of a configuration under ``root``, new or as it stands there, whatever its directory's name
        says before the id.

        Raises:
            RunError: if its directory cannot be made.
        """
        path = directory_of(root, config)
        if not (path / "run.json").exists():
            record = {"format": FORMAT, "kind": config.kind, "id": config.id, "config": cls._plain(config)}
            record |= {"engine": engine, "status": "running", "environment": environment(), "checkpoints": {}}
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"the folder {path} cannot be made ({error.strerror}); {ANOTHER}") from error
            with explained(path):
                # Another process may be making the same run; it is made once.
                write_new(path / "run.json", record_bytes(record))
        return cls.open(path)

    @classmethod
    def open(cls: type[R], path: str | Path) -> R:
        """Return the run in a directory.

        Raises:
            ValueError: for what is no path.
            RunError: if the directory is no run, of another version or of a kind that this one does not know, half
                written or changed.
        """
        path = path_of("a run's directory", path)
        record = read_record(path)
        if kind_of(record) not in KINDS:
            raise RunError(
                f"{path} is a run of the kind {kind_of(record)!r}, and this version knows {', '.join(KINDS)}"
            )
        try:
            run = cls(path, record)
        except KindError as error:
            raise RunError(f"{path.name} cannot be opened: {error}") from error
        except ValueError as error:
            raise RunError(
                f"{path / 'run.json'} was changed, or is of another version: its configuration is none ({error})"
            ) from error
        if run.config.id != record["id"]:
            raise RunError(
                f"the configuration in {path / 'run.json'} does not have the hash {record['id']}: the file was changed"
            )
        return run

    @classmethod
    def find(cls: type[R], name: str | Path, root: str | Path | None = None) -> R:
        """Return a run by its path, or by its name, id or the beginning of either under ``root`` (:func:`the_one`).

        Raises:
            RunError: if there is no such run (nearest suggested), or there is more than one.
        """
        fits = directories_of(name, root)
        return cls.open(fits[0]) if len(fits) == 1 else the_one(str(name), cls._opened(fits))

    @classmethod
    def under(cls: type[R], root: str | Path | None = None) -> list[R]:
        """Return the runs under ``root``, by name.

        One that cannot be read hides no other: it is left out, and a :class:`DamagedRunWarning` says why.
        """
        return cls._opened(directories(root))

    @classmethod
    def _opened(cls: type[R], paths: Sequence[Path]) -> list[R]:
        found: list[R] = []
        for path in paths:
            try:
                found.append(cls.open(path))
            except ValueError as error:
                warnings.warn(f"{path} is left out: {error}", DamagedRunWarning, stacklevel=3)
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, its record as it stands on the disk; the lock goes with the process, however
        it ends.

        Raises:
            RunError: if another process holds it, or the directory is gone or no longer this run's.
        """
        with explained(self.path), held_lock(self.path) as self._held:
            try:
                with self._writing():
                    # Whoever held it since this one was opened has written more into it.
                    now = self.open(self.path)
                if now.record["id"] != self.record["id"]:
                    raise RunError(GONE.format(self.path))
                self.record = now.record
                self.tidy()
                yield
            finally:
                self._held = None


def the_one(name: str, runs: Sequence[R]) -> R:
    """Return the one of some runs that a name fits: of those that are called alike up to the id, the one that is made
    of that name alone, with the preset's task, model and training.

    Raises:
        RunError: if they are called otherwise (by variant, preset, shape or seed), not just one of them is of its name
            alone, or none can be read.
    """
    if len(runs) == 1:
        return runs[0]
    usual = [run for run in runs if run.config.usual]
    alike = len({run.path.name.rpartition("-")[0] for run in runs}) == 1
    if alike and len(usual) == 1:
        return usual[0]
    if not runs:
        raise RunError(f"no run that {name!r} fits can be read")
    names = ", ".join(sorted(run.path.name for run in runs))
    apart = "; ".join(differences(runs[0].config.to_plain(), runs[1].config.to_plain())[:3])
    what = f"the id (the first two differ in {apart})" if apart else "the path (two are one run, copied)"
    raise RunError(f"{name!r} fits {len(runs)} runs: {names}; give {what}")
