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

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import pandas as pd
from torch import Tensor

from circuits.checkpoint import (
    CheckpointError,
    checkpoint_bytes,
    load_checkpoint,
    read_step,
    read_tensors,
    tensor_bytes,
)
from circuits.common.errors import UnknownNameError, known, require
from circuits.common.files import write_atomically, write_new
from circuits.common.plain_data import content_hash, differences
from circuits.model import HookedStreamTransformer
from experiments.runs.frames import DamagedFrameError, parquet_bytes, read_sealed, sealed_bytes, sha256
from experiments.runs.logs import DamagedLogError, append_line, read_lines, whole_lines

FORMAT = "valuestream-run-2"
FIRST_FORMAT = "valuestream-run-1"
"""Its records have no hash of themselves."""
FIRST_KIND = "icl"
KINDS = (FIRST_KIND, "lm")
"""Of tasks of vectors and of tokens."""
STATUSES = ("running", "failed", "finished")
LOCK_SECONDS = 1.0
"""How long to wait for a lock that is taken: who only asks whether a run trains takes it for a moment."""
STATE = "state.safetensors"
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


GONE = (
    "{} was deleted, moved or replaced while its run was trained, and what was in it with it; put it back, or give the "
    "same command again to train the run from its beginning"
)


@contextmanager
def explained(run: Path) -> Iterator[None]:
    """Turn a full disk, or a directory that is no longer there, into a sentence that says what is safe and what to
    do."""
    try:
        yield
    except FileNotFoundError as error:
        if run.is_dir():
            raise
        raise RunError(GONE.format(run)) from error
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
    def kind(self) -> str:
        """What ``run.json`` calls the kind of the task."""
        ...

    @property
    def id(self) -> str:
        """The hash that names the run."""
        ...

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        ...

    @property
    def usual(self) -> bool:
        """Whether the name, without the id, says all of it."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """The configuration as plain data."""
        ...


C = TypeVar("C", bound=Config)
R = TypeVar("R", bound="RunDirectory[Any]")


class RunDirectory(Generic[C]):
    """One run's directory, of one kind of runs. Make one with :meth:`at`, read one with :meth:`open`."""

    logs: ClassVar[tuple[str, ...]] = ("metrics",)
    """What such runs measure while they train."""

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path = path
        self.record: dict[str, Any] = record
        self.config: C = self._config(record["config"])
        self._held: os.stat_result | None = None
        """The lock's file, while this process holds it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path.name}, {self.status})"

    @staticmethod
    def _config(plain: dict[str, Any]) -> Any:
        raise NotImplementedError

    @staticmethod
    def _plain(config: Any) -> dict[str, Any]:
        return config.to_plain()

    # --- making and finding -----------------------------------------------------------------------------------------

    @classmethod
    def at(cls: type[R], root: str | Path, config: Any, engine: str = "eager") -> R:
        """Return the run of a configuration under ``root``, new or as it stands there, whatever its directory's name
        says before the id."""
        path = directory_of(root, config)
        if not (path / "run.json").exists():
            record = {"format": FORMAT, "kind": config.kind, "id": config.id, "config": cls._plain(config)}
            record |= {"engine": engine, "status": "running", "environment": environment(), "checkpoints": {}}
            path.mkdir(parents=True, exist_ok=True)
            with explained(path):
                # Another process may be making the same run; it is made once.
                write_new(path / "run.json", _record_bytes(record))
        return cls.open(path)

    @classmethod
    def open(cls: type[R], path: str | Path) -> R:
        """Return the run in a directory.

        Raises:
            RunError: if the directory is no run, of another version or a kind that this one does not know, half written or
                changed.
        """
        path = Path(path)
        record = read_record(path)
        if kind_of(record) not in KINDS:
            known_kinds = ", ".join(KINDS)
            raise RunError(f"{path} is a run of the kind {kind_of(record)!r}, and this version knows {known_kinds}")
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
            RunError: if there is no such run (nearest suggested), or there is more than one.
        """
        for path in (Path(name), Path(root) / name):
            if path.is_dir():
                return cls.open(path)
        there = cls.under(root)
        if not there:
            raise RunError(f"there are no runs in {root}; train one with 'valuestream train icl'")
        return the_one(str(name), there)

    @classmethod
    def under(cls: type[R], root: str | Path = "runs") -> list[R]:
        """Return the runs under ``root``, by name.

        One that cannot be read hides no other: it is left out, and a :class:`DamagedRunWarning` says why.
        """
        found: list[R] = []
        for file in sorted(Path(root).glob("*/run.json")):
            try:
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
        """``running`` (a process trains it now), ``interrupted`` (none does, and it can go on), ``failed`` or
        ``finished``."""
        said = self.record["status"]
        return "interrupted" if said == "running" and not self._in_use() else said

    @property
    def finished(self) -> bool:
        """Whether the run is closed; a finished run is never trained again."""
        return self.record["status"] == "finished"

    def _in_use(self) -> bool:
        if self._held is not None:
            return True
        try:
            with _opened_lock(self.path, os.O_RDONLY) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def step(self) -> int:
        """The step up to which the run is on the disk: of its last measurement, checkpoint or saved state."""
        metrics = self.metrics()
        return max(int(metrics.step.max()) if len(metrics) else 0, self._saved_step(), *self.checkpoints())

    def _saved_step(self) -> int:
        return read_step(self.path / STATE) if (self.path / STATE).exists() else 0

    def metrics(self) -> pd.DataFrame:
        """Return what was measured so far, tidy: step, split, measure, value.

        Raises:
            RunError: if the file is missing or does not have the hash that the run states.
        """
        return self._logged("metrics", METRIC_COLUMNS)

    def _logged(self, log: str, columns: list[str] | None = None) -> pd.DataFrame:
        if not self.finished:
            rows = [row for rows in self._lines(f"{log}.jsonl") for row in rows]
            return pd.DataFrame(rows, columns=columns)
        file = self.path / f"{log}.parquet"
        if not file.is_file() or sha256(file) != self.record[log]:
            raise RunError(f"{file} is missing or does not have the hash that run.json states; train the run again")
        return pd.read_parquet(file)

    def _lines(self, name: str) -> list[Any]:
        try:
            return read_lines(self.path / name)
        except DamagedLogError as error:
            raise RunError(f"{error}; remove {self.path} and train the run again") from error

    @property
    def seconds(self) -> float:
        """How long all sittings took together."""
        return float(sum(session["seconds"] for session in self._lines("sessions.jsonl")))

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

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Where files are written: into the directory whose lock is held, and into no other of its name."""
        with explained(self.path):
            if self._held is not None and not _is(self.path / ".lock", self._held):
                raise RunError(GONE.format(self.path))
            yield

    def _write(self, name: str, data: bytes) -> Path:
        path = self.path / name
        with self._writing():
            if path.parent != self.path:
                _own_folder(path.parent)
            write_atomically(path, data)
        return path

    def write_record(self) -> None:
        """Write run.json; for who holds the run's lock."""
        self._write("run.json", _record_bytes(self.record))

    def write_checkpoint(self, model: HookedStreamTransformer, step: int) -> None:
        """Write the model at a step and note its hash."""
        data = checkpoint_bytes(model, step=step, run=self.config.id)
        self._write(str(self.checkpoint_path(step).relative_to(self.path)), data)
        self.record["checkpoints"][str(step)] = hashlib.sha256(data).hexdigest()
        self.write_record()

    def write_state(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write what is needed to resume."""
        self._write(STATE, tensor_bytes(tensors, {**about, "run": self.config.id}))

    def read_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what :meth:`write_state` wrote last, ``None`` before there is any.

        Raises:
            RunError: if it is not as it was written, or another run's.
        """
        if not (self.path / STATE).exists():
            return None
        try:
            tensors, about = read_tensors(self.path / STATE)
        except CheckpointError as error:
            raise RunError(f"{error}; remove it, and the run is trained from its beginning") from error
        if about.get("run", self.config.id) != self.config.id:
            raise RunError(f"{self.path / STATE} is the state of the run {about['run']}; remove it, and train again")
        return tensors, about

    def write_result(self, analysis: str, frame: pd.DataFrame) -> Path:
        """Write a tidy frame into ``results/`` and return its path; every row names the run.

        Raises:
            ValueError: for a name that is not letters, digits, dots, hyphens and underscores, a letter or digit first.
            RunError: if ``results`` leads out of the directory, or the disk is full.
        """
        frame = frame.assign(run=self.path.name)
        return self._write(f"results/{_result_name(analysis)}.parquet", sealed_bytes(frame))

    def results(self, analysis: str) -> pd.DataFrame:
        """Return a frame that :meth:`write_result` wrote.

        Raises:
            RunError: if there is none, naming those that there are, or it is not as it was written.
        """
        file = self.path / "results" / f"{_result_name(analysis)}.parquet"
        if not file.is_file():
            there = sorted(f.stem for f in (self.path / "results").glob("*.parquet"))
            raise RunError(f"{self.path.name} has no result {analysis!r}; there are {there}")
        try:
            return read_sealed(file)
        except DamagedFrameError as error:
            raise RunError(f"{error}; ask again ('valuestream {analysis} {self.path.name}', if it made it)") from error

    def append_rows(self, log: str, rows: Sequence[Any]) -> None:
        """Add one measurement's rows to ``<log>.jsonl``, one line a measurement."""
        with self._writing():
            append_line(self.path / f"{log}.jsonl", rows)

    def append_session(self, session: Mapping[str, Any]) -> None:
        """Note one sitting: from and to which step, and its seconds."""
        with self._writing():
            append_line(self.path / "sessions.jsonl", dict(session))

    def keep_rows(self, log: str, measurements: int) -> None:
        """Drop what was measured after the saved state; it will be measured again.

        Raises:
            RunError: if there is less than that, or a line is not as it was written.
        """
        name = f"{log}.jsonl"
        there = len(self._lines(name)[:measurements])
        if there < measurements:
            raise RunError(
                f"{self.path / name} has {there} measurements, the saved state had seen {measurements}; remove the run"
            )
        lines = whole_lines(self.path / name)[:measurements]
        if (self.path / name).exists():
            self._write(name, b"".join(line + b"\n" for line in lines))

    def close(self) -> None:
        """Turn what was measured into Parquet, mark the run finished and drop the resume state."""
        for log, frame in self._frames().items():
            self.record[log] = sha256(self._write(f"{log}.parquet", parquet_bytes(frame)))
        self.record["status"] = "finished"
        self.write_record()
        self.tidy()

    def _frames(self) -> dict[str, pd.DataFrame]:
        return {"metrics": self.metrics()}

    def tidy(self) -> None:
        """Drop what a finished run no longer needs, and what a killed process left half written; for who holds the
        lock, or of a finished run."""
        folders = (self.path, self.path / "checkpoints", self.path / "tokenizer")
        leftovers = [file for folder in folders for file in folder.glob(".*.tmp")]
        if self.finished:
            leftovers += [self.path / name for name in (*(f"{log}.jsonl" for log in self.logs), STATE)]
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, its record as it stands on the disk; the lock goes with the process, however
        it ends.

        Raises:
            RunError: if another process holds it, or the directory is gone or no longer this run's.
        """
        with explained(self.path), _opened_lock(self.path, os.O_RDWR | os.O_CREAT) as descriptor:
            _take(descriptor, self.path)
            self._held = os.fstat(descriptor)
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


@contextmanager
def _opened_lock(run: Path, how: int) -> Iterator[int]:
    try:
        descriptor = os.open(run / ".lock", how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RunError(f"{run / '.lock'} is a symbolic link, and no lock of a run is one; remove it") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, run: Path) -> None:
    last = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() > last:
                raise RunError(f"another process is training {run}; wait for it, or stop it first") from error
        time.sleep(LOCK_SECONDS / 20)


def _is(file: Path, one: os.stat_result) -> bool:
    try:
        return os.path.samestat(file.stat(follow_symlinks=False), one)
    except FileNotFoundError:
        return False


def _own_folder(folder: Path) -> None:
    """Make a run's folder in its directory, which must be there."""
    if folder.is_symlink():
        raise RunError(f"{folder} is a symbolic link, and a run's files stay in its directory; remove the link")
    folder.mkdir(exist_ok=True)


def _result_name(analysis: str) -> str:
    require(
        bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*", analysis, re.ASCII)),
        f"{analysis!r} names no result: use letters, digits, dots, hyphens and underscores, a letter or digit first",
    )
    return analysis


def _record_bytes(record: Mapping[str, Any]) -> bytes:
    held = dict(record) | {"format": FORMAT}
    held["sha256"] = _record_hash(held)
    return (json.dumps(held, indent=1, sort_keys=True) + "\n").encode()


def _record_hash(record: Mapping[str, Any]) -> str:
    return content_hash(json.loads(json.dumps({key: value for key, value in record.items() if key != "sha256"})))


def directory_of(root: str | Path, config: Config) -> Path:
    """Return where the run of a configuration is under ``root``, or would be; the id tells, whatever the name says
    before it."""
    path = Path(root) / config.name
    return path if path.exists() else next(Path(root).glob(f"*-{config.id}"), path)


def _begins(beginning: str | Path, name: str, record: Mapping[str, Any]) -> bool:
    return name.startswith(str(beginning)) or str(record["id"]).startswith(str(beginning))


def the_one(name: str, runs: Sequence[R]) -> R:
    """Return the one of some runs whose name or id begins so; of several, the one that is made of its name alone, with
    the preset's task, model and training.

    Raises:
        RunError: if none does (nearest suggested), or several and not just one is of its name alone.
    """
    fits = [run for run in runs if _begins(name, run.path.name, run.record)]
    if len(fits) > 1:
        usual = [run for run in fits if run.config.usual]
        if len(usual) != 1:
            names = ", ".join(sorted(run.path.name for run in fits))
            apart = "; ".join(differences(*(run.config.to_plain() for run in fits[:2]))[:3])
            what = f"the id (the first two differ in {apart})" if apart else "the path (two are one run, copied)"
            raise RunError(f"{name!r} fits {len(fits)} runs: {names}; give {what}")
        return usual[0]
    if fits:
        return fits[0]
    try:
        known("run", name, [run.path.name for run in runs])
    except UnknownNameError as error:
        raise RunError(str(error)) from error
    raise AssertionError("unreachable: a known name fits")


def table_of(runs: Sequence[R], row: Callable[[R], dict[str, Any]]) -> pd.DataFrame:
    """Return a row a run; one whose files are damaged is left out with a :class:`DamagedRunWarning`."""
    rows = []
    for run in runs:
        try:
            rows.append(row(run))
        except RunError as error:
            warnings.warn(f"{run.path} is left out: {error}", DamagedRunWarning, stacklevel=2)
    return pd.DataFrame(rows)


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
        raise RunError(f"{file} is half written or damaged ({error}); remove {path} and train again") from error
    if not isinstance(record, dict):
        raise RunError(f"{file} is damaged, it is no record of a run; remove {path} and train again")
    if record.get("format") not in (FORMAT, FIRST_FORMAT):
        raise RunError(f"{path} has the format {record.get('format')!r}, this version reads {FORMAT!r}")
    if not isinstance(record.get("config"), dict) or "id" not in record:
        raise RunError(f"{file} is damaged, it names no configuration; remove {path} and train again")
    if record["format"] == FORMAT and record.get("sha256") != _record_hash(record):
        raise RunError(f"{file} does not have the hash that it states: it was changed or damaged; restore it")
    if record.get("status") not in STATUSES or not isinstance(record.get("checkpoints"), dict):
        raise RunError(f"{file} is damaged, it has no status or no list of checkpoints; remove {path} and train again")
    return record


def kind_of(record: Mapping[str, Any]) -> str:
    """Return the kind of a run, of what its ``run.json`` says; the first runs were all of one kind, and say none."""
    return record.get("kind", FIRST_KIND)
