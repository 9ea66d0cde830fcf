"""What lies in a run's directory: measurements, checkpoints, results, and what a run resumes from.

Every file is written whole or not at all, and is read only with the hash that was written with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from circuits.checkpoint import (
    CheckpointError,
    checkpoint_bytes,
    load_checkpoint,
    read_tensors,
    tensor_bytes,
)
from circuits.common.files import write_atomically
from circuits.model import HookedStreamTransformer
from experiments.runs.frames import parquet_bytes, sealed_bytes, sha256
from experiments.runs.locks import GONE, explained, same_file
from experiments.runs.logs import append_line, whole_lines
from experiments.runs.record import RunError, anew, checkpoint_step, record_bytes
from experiments.runs.recorded import STATE, RecordedRun, result_name


class RunFiles(RecordedRun):
    """The files of one run, and what its ``run.json`` says of them."""

    config: Any

    def load_model(self, step: int = -1) -> HookedStreamTransformer:
        """Return the model at a step with a checkpoint (default: the last), in evaluation mode.

        Raises:
            RunError: if there is no checkpoint at that step, or it is not the one that the run wrote.
        """
        step = checkpoint_step(self.record, self.path.name, step)
        return load_checkpoint(self.intact(self.checkpoint_path(step), self.record["checkpoints"][str(step)]))

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint of a step is kept."""
        return self.path / "checkpoints" / f"step_{step:08d}.safetensors"

    # --- writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Where files are written: into the directory whose lock is held, and into no other of its name."""
        with explained(self.path):
            if self._held is not None and not same_file(self.path / ".lock", self._held):
                raise RunError(GONE.format(self.path))
            yield

    def _write(self, name: str, data: bytes) -> Path:
        path = self.path / name
        folder = path.parent
        with self._writing():
            if folder != self.path and folder.is_symlink():
                raise RunError(f"{folder} is a symbolic link, and a run's files stay in its directory; remove the link")
            if folder != self.path:
                folder.mkdir(exist_ok=True)
            write_atomically(path, data)
        return path

    def write_record(self) -> None:
        """Write run.json; for who holds the run's lock."""
        self._write("run.json", record_bytes(self.record))

    def write_checkpoint(self, model: HookedStreamTransformer, step: int) -> None:
        """Write the model at a step and note its hash."""
        data = checkpoint_bytes(model, step=step, run=self.record["id"])
        self._write(str(self.checkpoint_path(step).relative_to(self.path)), data)
        self.record["checkpoints"][str(step)] = hashlib.sha256(data).hexdigest()
        self.write_record()

    def write_state(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write what is needed to resume."""
        self._write(STATE, tensor_bytes(tensors, {**about, "run": self.record["id"]}))

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
        if about.get("run", self.record["id"]) != self.record["id"]:
            raise RunError(f"{self.path / STATE} is the state of the run {about['run']}; remove it, and train again")
        return tensors, about

    def write_result(self, analysis: str, frame: pd.DataFrame) -> Path:
        """Write a tidy frame into ``results/`` and return its path; every row names the run.

        Raises:
            ValueError: for a name that is not letters, digits, dots, hyphens and underscores, a letter or digit first.
            RunError: if ``results`` leads out of the directory, or the disk is full.
        """
        frame = frame.assign(run=self.path.name)
        return self._write(f"results/{result_name(analysis)}.parquet", sealed_bytes(frame))

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
                f"{self.path / name} has {there} measurements, the saved state had seen {measurements}; "
                f"{anew(self.path)}"
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
