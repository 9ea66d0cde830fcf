"""What a run's files say without its model: what was measured and found, how far it is, and whether it can go on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from safetensors import SafetensorError, safe_open

from circuits.common.errors import require
from circuits.common.showing import ROWS, Shown
from experiments.runs.frames import DamagedFrameError, read_sealed, sha256
from experiments.runs.locks import is_held
from experiments.runs.logs import DamagedLogError, read_lines
from experiments.runs.record import RunError, anew

STATE = "state.safetensors"
SHARDS, ABOUT = "state", "about.json"
"""The folder in which several processes save, and what each state in it has when it is whole."""
METRIC_COLUMNS = ["step", "split", "measure", "value"]


class RecordedRun(Shown):
    """A run's directory and what its ``run.json`` says, to read; nothing here needs torch."""

    logs: ClassVar[tuple[str, ...]] = ("metrics",)
    """What such runs measure while they train."""

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path = path
        self.record: dict[str, Any] = record
        self._held: os.stat_result | None = None
        """The lock's file, while this process holds it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path.name}, {self.status})"

    def finding(self) -> str:
        """Return the run's name, how far it is, and what was measured last."""
        last = [f"{row.split} {row.measure} {row.value:.3g}" for row in self.largest(4).itertuples()]
        return f"{self.path.name}, {self.status} at step {self.step:,}; {', '.join(last) or 'nothing measured'}"

    def to_frame(self) -> pd.DataFrame:
        """Return what was measured so far, as :meth:`metrics`."""
        return self.metrics()

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the first ``n`` measures of the last step."""
        metrics = self.metrics()
        return metrics[metrics.step == metrics.step.max()].head(n)

    @property
    def draws(self) -> bool:
        """Whether anything was measured."""
        return len(self.metrics()) > 0

    def figure(self) -> Any:
        """Return every measure over steps, a line a split (a plotly figure).

        Raises:
            RunError: if nothing was measured yet.
        """
        from figures.trainings.learning import run_curves

        if not self.draws:
            raise RunError(f"{self.path.name} has measured nothing yet; train it, or ask its model")
        return run_curves(self.metrics(), self.path.name)

    @property
    def status(self) -> str:
        """``running`` (a process trains it now), ``interrupted`` (none does, and it can go on), ``failed`` or
        ``finished``."""
        said = self.record["status"]
        return "interrupted" if said == "running" and self._held is None and not is_held(self.path) else said

    @property
    def finished(self) -> bool:
        """Whether the run is closed; a finished run is never trained again."""
        return self.record["status"] == "finished"

    @property
    def step(self) -> int:
        """The step up to which the run is on the disk: of its last measurement, checkpoint or saved state."""
        metrics = self.metrics()
        return max(int(metrics.step.max()) if len(metrics) else 0, self._saved_step(), *self.checkpoints())

    def _saved_step(self) -> int:
        return max([_step_of(self.path / STATE), *(int(folder.name[5:]) for folder in whole_shards(self.path))])

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
        return pd.read_parquet(self.intact(self.path / f"{log}.parquet", self.record[log]))

    def intact(self, file: Path, digest: str | None) -> Path:
        """Return a file of the run, which is there with the hash that run.json states.

        Raises:
            RunError: if it is not, saying how to have the run anew.
        """
        if not file.is_file() or sha256(file) != digest:
            what = f"{file} is missing or does not have the hash that run.json states"
            raise RunError(f"{what}; {anew(self.path)}")
        return file

    def _lines(self, name: str) -> list[Any]:
        try:
            return read_lines(self.path / name)
        except DamagedLogError as error:
            raise RunError(f"{error}; {anew(self.path)}") from error

    @property
    def seconds(self) -> float:
        """How long all sittings took together."""
        return float(sum(session["seconds"] for session in self._lines("sessions.jsonl")))

    def checkpoints(self) -> list[int]:
        """Return the steps that have a checkpoint."""
        return sorted(int(step) for step in self.record["checkpoints"])

    def last(self, split: str, measure: str) -> tuple[int, float]:
        """Return the step and value of a measure's last row, 0 and NaN before there is one."""
        metrics = self.metrics()
        seen = metrics[(metrics.split == split) & (metrics.measure == measure)]
        return (int(seen.step.iloc[-1]), float(seen["value"].iloc[-1])) if len(seen) else (0, float("nan"))

    def results(self, analysis: str) -> pd.DataFrame:
        """Return a frame that :meth:`write_result` wrote.

        Raises:
            ValueError: for what can be no result's name.
            RunError: if there is none, naming those that there are, or it is not as it was written.
        """
        file = self.path / "results" / f"{result_name(analysis)}.parquet"
        if not file.is_file():
            there = sorted(f.stem for f in (self.path / "results").glob("*.parquet"))
            raise RunError(f"{self.path.name} has no result {analysis!r}; there are {there}")
        try:
            return read_sealed(file)
        except DamagedFrameError as error:
            raise RunError(f"{error}; ask again ('valuestream {analysis} {self.path.name}', if it made it)") from error


def whole_shards(run: Path) -> list[Path]:
    """Return the folders ``step_...`` of a run that several processes saved wholly, the newest last."""
    return sorted(file.parent for file in (run / SHARDS).glob(f"*/{ABOUT}") if file.parent.suffix != ".tmp")


def _step_of(state: Path) -> int:
    """The step that a saved state's header states, 0 where none can be read; to show, and not to build on."""
    try:
        with safe_open(state, framework="np") as file:
            return int(json.loads((file.metadata() or {}).get("valuestream", "{}"))["about"]["step"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return 0


def result_name(analysis: str) -> str:
    """Return the name of a result, checked.

    Raises:
        ValueError: for one that is not letters, digits, dots, hyphens and underscores, a letter or digit first.
    """
    require(
        isinstance(analysis, str) and bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*", analysis, re.ASCII)),
        f"{analysis!r} names no result: use letters, digits, dots, hyphens and underscores, a letter or digit first",
    )
    return analysis
