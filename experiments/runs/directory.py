"""Run directories: plain files that say what was trained, how it went and what it became.

    <root>/icl-value-small-s0-0123456789ab/
        run.json                           configuration, versions, git state, status, content hashes
        metrics.jsonl                      while running, a line a measurement; metrics.parquet once closed
        gradients.jsonl                    likewise, of runs that split their gradients by route while they train
        state.safetensors                  while running: where to resume
        checkpoints/step_00000100.safetensors
        results/<analysis>.parquet         tidy frames, with <analysis>.json and .html figures beside them
        sessions.jsonl                     how long each sitting took; equal runs differ in it alone
        places.json                        of a corpus of local files: where this machine has them; no part of the run

Every file is written whole or not at all, and is read only with the hash that was written with it. Only the process
that holds the run's lock changes its record, and reads it again when it takes the lock. Nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from circuits.common.files import write_new
from experiments.runs.files import RunFiles
from experiments.runs.locks import GONE, explained, held_lock
from experiments.runs.names import Config, begins, directory_of, others, the_one
from experiments.runs.record import FORMAT, DamagedRunWarning, RunError, environment, kind_of, read_record, record_bytes

C = TypeVar("C", bound=Config)
R = TypeVar("R", bound="RunDirectory[Any]")


class RunDirectory(RunFiles, Generic[C]):
    """One run's directory, of one kind of runs. Make one with :meth:`at`, read one with :meth:`open`."""

    kind: ClassVar[str]
    """What ``run.json`` says of the kind."""
    what: ClassVar[str]
    """The kind in words."""
    train_with: ClassVar[str]
    """The command that makes such runs."""

    def __init__(self, path: Path, record: dict[str, Any]):
        super().__init__(path, record)
        self.config: C = self._config(record["config"])

    @staticmethod
    def _config(plain: dict[str, Any]) -> Any:
        raise NotImplementedError

    @staticmethod
    def _plain(config: Any) -> dict[str, Any]:
        return config.to_plain()

    @classmethod
    def at(cls: type[R], root: str | Path, config: Any, engine: str = "eager") -> R:
        """Return the run of a configuration under ``root``, new or as it stands there, whatever its directory's name
        says before the id."""
        path = directory_of(root, config)
        if not (path / "run.json").exists():
            record = {"format": FORMAT, "kind": cls.kind, "id": config.id, "config": cls._plain(config)}
            record |= {"engine": engine, "status": "running", "environment": environment(), "checkpoints": {}}
            path.mkdir(parents=True, exist_ok=True)
            with explained(path):
                # Another process may be making the same run; it is made once.
                write_new(path / "run.json", record_bytes(record))
        return cls.open(path)

    @classmethod
    def open(cls: type[R], path: str | Path) -> R:
        """Return the run in a directory.

        Raises:
            RunError: if the directory is no run, is of another kind, from another version, half written or changed.
        """
        path = Path(path)
        record = read_record(path)
        if kind_of(record) != cls.kind:
            raise RunError(f"{path.name} is no run of {cls.what} but of kind {kind_of(record)!r}; name one that is")
        try:
            run = cls(path, record)
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
    def find(cls: type[R], name: str | Path, root: str | Path = "runs") -> R:
        """Return a run by its path, or by its name, id or the beginning of either under ``root`` (:func:`the_one`).

        Raises:
            RunError: if there is no such run (nearest suggested), it is of another kind, or there is more than one.
        """
        for path in (Path(name), Path(root) / name):
            if path.is_dir():
                return cls.open(path)
        there = cls.under(root)
        if not any(begins(name, run.path.name, run.record) for run in there):
            for path in others(root, cls.kind, name):
                # Which says of what kind it is, and what was wanted.
                cls.open(path)
        if not there:
            raise RunError(f"there are no runs of {cls.what} in {root}; train one with '{cls.train_with}'")
        return the_one(str(name), there)

    @classmethod
    def under(cls: type[R], root: str | Path = "runs") -> list[R]:
        """Return the runs of this kind under ``root``, by name.

        One that cannot be read hides no other: it is left out, and a :class:`DamagedRunWarning` says why.
        """
        found: list[R] = []
        for file in sorted(Path(root).glob("*/run.json")):
            try:
                if kind_of(read_record(file.parent)) == cls.kind:
                    found.append(cls.open(file.parent))
            except ValueError as error:
                warnings.warn(f"{file.parent} is left out: {error}", DamagedRunWarning, stacklevel=2)
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
