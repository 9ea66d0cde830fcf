"""Run directories: plain files that say what was trained, how it went and what it became.

    <root>/icl-value-small-s0-0123456789ab/
        run.json                           configuration, versions, git state, status, content hashes
        metrics.jsonl                      while running; metrics.parquet once closed
        gradients.jsonl                    likewise, of runs that split their gradients by route while they train
        state.safetensors                  while running: where to resume
        checkpoints/step_00000100.safetensors
        results/<analysis>.parquet         tidy frames, with <analysis>.json and .html figures beside them
        sessions.jsonl                     how long each sitting took; the one file that two equal runs differ in

Every file is written whole or not at all. Nothing is pickled.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import pandas as pd

from circuits.checkpoint import load_checkpoint, save_checkpoint
from circuits.errors import UnknownNameError, known
from circuits.files import write_atomically
from circuits.model import HookedStreamTransformer
from experiments.frames import parquet_bytes, sha256

FORMAT = "valuestream-run-1"
FIRST_KIND = "icl"
METRIC_COLUMNS = ["step", "split", "measure", "value"]


class RunError(ValueError):
    """A directory that is no run, of another version, half written, damaged or in use; or a run that cannot go on."""


class DamagedRunWarning(UserWarning):
    """A run that was left out of a listing, as it cannot be read."""


@cache
def environment() -> dict[str, Any]:
    """Return the versions and the git state that a run is recorded with."""
    packages = ("torch", "transformer-lens", "numpy", "valuestream")
    return {"python": platform.python_version(), "git": _git(), **{name: version(name) for name in packages}}


def _git() -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def explained(run: Path) -> Iterator[None]:
    """Turn a full disk into a sentence that says what is safe and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunError(
            f"no space left on the disk while writing into {run}; what was finished is whole, and the run resumes from "
            f"its last saved state: free some space and give the same command again"
        ) from error


@runtime_checkable
class Config(Protocol):
    """What a run's configuration tells of itself."""

    @property
    def variant(self) -> str:
        """The name of the mixing rule."""
        ...

    @property
    def seed(self) -> int:
        """What weights and data are drawn from."""
        ...

    @property
    def id(self) -> str:
        """The hash that names the run."""
        ...

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """The configuration as plain data."""
        ...


C = TypeVar("C", bound=Config)
R = TypeVar("R", bound="RunDirectory[Any]")


class RunDirectory(Generic[C]):
    """One run's directory, of one kind of runs. Make one with :meth:`at`, read one with :meth:`open`."""

    kind: ClassVar[str]
    """What ``run.json`` says of the kind."""
    what: ClassVar[str]
    """The kind in words."""
    train_with: ClassVar[str]
    """The command that makes such runs."""
    logs: ClassVar[tuple[str, ...]] = ("metrics",)
    """What such runs measure while they train."""

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path, self.record = path, record
        self.config: C = self._config(record["config"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path.name}, {self.status})"

    @staticmethod
    def _config(plain: dict[str, Any]) -> Any:
        raise NotImplementedError

    # --- making and finding -----------------------------------------------------------------------------------------

    @classmethod
    def at(cls: type[R], root: str | Path, config: Any, engine: str = "eager") -> R:
        """Return the run of a configuration under ``root``, new or as it stands there."""
        path = Path(root) / config.name
        if (path / "run.json").exists():
            return cls.open(path)
        record = {"format": FORMAT, "kind": cls.kind, "id": config.id, "config": config.to_plain(), "engine": engine}
        run = cls(path, record | {"status": "running", "environment": environment(), "checkpoints": {}})
        run.write_record()
        return run

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
        run = cls(path, record)
        if run.config.id != record["id"]:
            raise RunError(
                f"the configuration in {path / 'run.json'} does not have the hash {record['id']}: the file was changed"
            )
        return run

    @classmethod
    def find(cls: type[R], name: str | Path, root: str | Path = "runs") -> R:
        """Return a run by its path, or by its name, id or the beginning of either under ``root``.

        Raises:
            RunError: if there is no such run (nearest suggested), or more than one.
        """
        for path in (Path(name), Path(root) / name):
            if path.is_dir():
                return cls.open(path)
        there = cls.under(root)
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

    def last(self, split: str, measure: str) -> tuple[int, float]:
        """Return the step and value of a measure's last row, 0 and NaN before there is one."""
        metrics = self.metrics()
        seen = metrics[(metrics.split == split) & (metrics.measure == measure)]
        return (int(seen.step.iloc[-1]), float(seen["value"].iloc[-1])) if len(seen) else (0, float("nan"))

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """``running`` (or interrupted, not yet resumed), ``failed`` or ``finished``."""
        return self.record["status"]

    @property
    def finished(self) -> bool:
        """Whether the run is closed; a finished run is never trained again."""
        return self.status == "finished"

    def metrics(self) -> pd.DataFrame:
        """Return what was measured so far, tidy: step, split, measure, value.

        Raises:
            RunError: if the file is missing or does not have the hash that the run states.
        """
        return self._logged("metrics", METRIC_COLUMNS)

    def _logged(self, log: str, columns: list[str] | None = None) -> pd.DataFrame:
        if not self.finished:
            file = self.path / f"{log}.jsonl"
            lines = file.read_text().splitlines() if file.exists() else []
            return pd.DataFrame([row for line in lines for row in json.loads(line)], columns=columns)
        file = self.path / f"{log}.parquet"
        if not file.is_file() or sha256(file) != self.record[log]:
            raise RunError(f"{file} is missing or does not have the hash that run.json states; train the run again")
        return pd.read_parquet(file)

    def checkpoints(self) -> list[int]:
        """Return the steps that have a checkpoint."""
        return sorted(int(step) for step in self.record["checkpoints"])

    def load_model(self, step: int = -1) -> HookedStreamTransformer:
        """Return the model at a step with a checkpoint (default: the last), in evaluation mode.

        Raises:
            RunError: if there is no checkpoint at that step, or it is not the one that the run wrote.
        """
        steps = self.checkpoints()
        if not steps:
            raise RunError(f"{self.path.name} has no checkpoint yet; let it train on")
        step = steps[-1] if step == -1 else step
        if step not in steps:
            nearest = min(steps, key=lambda s: abs(s - step))
            raise RunError(f"{self.path.name} has no checkpoint at step {step}; the nearest is at {nearest}")
        file = self.checkpoint_path(step)
        if not file.is_file() or sha256(file) != self.record["checkpoints"][str(step)]:
            raise RunError(f"{file} is missing or does not have the hash that run.json states; train the run again")
        return load_checkpoint(file)

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint of a step is kept."""
        return self.path / "checkpoints" / f"step_{step:08d}.safetensors"

    # --- writing ------------------------------------------------------------------------------------------------------

    def write_record(self) -> None:
        """Write run.json."""
        text = json.dumps(self.record, indent=1, sort_keys=True) + "\n"
        with explained(self.path):
            write_atomically(self.path / "run.json", text.encode())

    def write_checkpoint(self, model: HookedStreamTransformer, step: int) -> None:
        """Write the model at a step and note its hash."""
        with explained(self.path):
            save_checkpoint(self.checkpoint_path(step), model, step=step, run=self.config.id)
        self.record["checkpoints"][str(step)] = sha256(self.checkpoint_path(step))
        self.write_record()

    def write_result(self, analysis: str, frame: pd.DataFrame) -> Path:
        """Write a tidy frame into ``results/`` and return its path; every row names the run."""
        frame = frame.assign(run=self.path.name)
        file = self.path / "results" / f"{analysis}.parquet"
        with explained(self.path):
            write_atomically(file, parquet_bytes(frame))
        return file

    def results(self, analysis: str) -> pd.DataFrame:
        """Return a frame that :meth:`write_result` wrote.

        Raises:
            RunError: if there is none, naming those that there are.
        """
        file = self.path / "results" / f"{analysis}.parquet"
        if not file.is_file():
            there = sorted(f.stem for f in (self.path / "results").glob("*.parquet"))
            raise RunError(f"{self.path.name} has no result {analysis!r}; there are {there}")
        return pd.read_parquet(file)

    def append_rows(self, log: str, rows: Sequence[Any]) -> None:
        """Add one measurement's rows to ``<log>.jsonl``, one line a measurement."""
        with explained(self.path), (self.path / f"{log}.jsonl").open("a") as file:
            file.write(json.dumps(rows) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_rows(self, log: str, measurements: int) -> None:
        """Drop what was measured after the saved state; it will be measured again."""
        file = self.path / f"{log}.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        if len(lines) < measurements:
            raise RunError(
                f"{file} has {len(lines)} measurements, the saved state had seen {measurements}; remove the run"
            )
        if file.exists():
            with explained(self.path):
                write_atomically(file, "".join(lines[:measurements]).encode())

    def close(self) -> None:
        """Turn what was measured into Parquet, drop the resume state and mark the run finished."""
        for log, frame in self._frames().items():
            with explained(self.path):
                write_atomically(self.path / f"{log}.parquet", parquet_bytes(frame))
            self.record[log] = sha256(self.path / f"{log}.parquet")
        self.record["status"] = "finished"
        self.write_record()
        for name in (*(f"{log}.jsonl" for log in self.logs), "state.safetensors"):
            (self.path / name).unlink(missing_ok=True)

    def _frames(self) -> dict[str, pd.DataFrame]:
        return {"metrics": self.metrics()}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock goes with the process, however it ends.

        Raises:
            RunError: if another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"another process is training {self.path}; wait for it, or stop it first") from error
            yield


def the_one(name: str, runs: Sequence[R]) -> R:
    """Return the one of some runs whose name or id begins so.

    Raises:
        RunError: if none does (nearest suggested), or several.
    """
    fits = [run for run in runs if run.path.name.startswith(name) or run.record["id"].startswith(name)]
    if len(fits) > 1:
        raise RunError(f"{name!r} fits {len(fits)} runs: {', '.join(sorted(run.path.name for run in fits))}")
    if fits:
        return fits[0]
    try:
        known("run", name, [run.path.name for run in runs])
    except UnknownNameError as error:
        raise RunError(str(error)) from error
    raise AssertionError("unreachable: a known name fits")


def read_record(path: Path) -> dict[str, Any]:
    """Return what a run's ``run.json`` says.

    Raises:
        RunError: if the directory is no run, is from another version or half written.
    """
    file = path / "run.json"
    if not file.is_file():
        raise RunError(f"{path} is not a run directory: it has no run.json; 'valuestream runs' lists the runs")
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise RunError(f"{file} is half written or damaged ({error}); remove {path} and train again") from error
    if not isinstance(record, dict):
        raise RunError(f"{file} is damaged, it is no record of a run; remove {path} and train again")
    if record.get("format") != FORMAT:
        raise RunError(f"{path} has the format {record.get('format')!r}, this version reads {FORMAT!r}")
    if not isinstance(record.get("config"), dict) or "id" not in record:
        raise RunError(f"{file} is damaged, it names no configuration; remove {path} and train again")
    return record


def kind_of(record: Mapping[str, Any]) -> str:
    """Return the kind of a run, of what its ``run.json`` says; the first runs were all of one kind, and say none."""
    return record.get("kind", FIRST_KIND)
