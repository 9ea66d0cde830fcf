"""The committed results: what finished runs measured, in a few Parquet files that every table and figure is made of.

    figures/data/
        manifest.json        schema, the hash of every file, and what made the frames of analyses
        arms.parquet         experiment, condition, variant (its label), seed, run (id)
        runs.parquet         run (id), name, configuration, status, versions, seconds, hashes of what it measured
        metrics.parquet      run, step, split, measure, value
        gradients.parquet    run, step, tensor, ...: the gradient by route
        <others>.parquet     results of analyses, each row with the run that it is of

Only files are read here, nothing is computed and no model is known; :mod:`experiments.studies.collection` writes them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.common.errors import known
from circuits.common.plain_data import content_hash
from experiments.runs.frames import frame_hash, sha256
from experiments.studies.changing import changed_at_once

SCHEMA = "valuestream-bundle-1"
COMMITTED = Path(__file__).parents[2] / "figures" / "data"
"""The bundle of this repository."""
LOGS = ("metrics", "gradients")
Made = dict[str, Any]
"""What made a frame: ``sources``, a digest a file, and ``runs``, the ids of those that it has rows of."""
AGAIN = (
    "restore it from the repository, or write it again from the runs ('valuestream collect RUNS --afresh', which keeps "
    "the frames that are whole)"
)


class BundleError(ValueError):
    """A directory that is no bundle, of another schema, incomplete or changed."""


class DamagedManifestError(BundleError):
    """A manifest that cannot be read."""


@dataclass(frozen=True)
class Bundle:
    """Committed results. Open one with :meth:`open`."""

    path: Path
    files: dict[str, str]
    """Every file of it, with its hash."""

    @classmethod
    def open(cls, path: str | Path = COMMITTED) -> Bundle:
        """Return the bundle in a directory, its files checked against their hashes.

        Raises:
            BundleError: if there is none, it has another schema, or a file is missing or was changed; where it is one
                run's results that were changed, it is named.
        """
        path = Path(path)
        try:
            changed_at_once(path)
        except OSError as error:
            raise BundleError(
                f"{path} was being written when the process died, and cannot be written from here ({error}); give any "
                f"command on it as somebody who may write there"
            ) from error
        bundle = cls(path, manifest_of(path))
        try:
            bundle._check_files()
        except BundleError:
            # Read while another process wrote it, it is read once more.
            if changed_at_once(path) or manifest_of(path) != bundle.files:
                return cls.open(path)
            raise
        return bundle

    def _check_files(self) -> None:
        missing = [name for name in self.files if not (self.path / name).is_file()]
        if missing:
            raise BundleError(f"{self.path} lacks {', '.join(missing)}; {AGAIN}")
        changed = self.changed()
        if not changed:
            return
        if {"runs.parquet", *(f"{log}.parquet" for log in LOGS)} & set(changed):
            try:
                self.check_runs()
            except BundleError:
                raise
            except Exception:  # what can no longer be read raises many classes, and names no run
                pass
        names = ", ".join(changed)
        raise BundleError(f"{names} in {self.path} does not have the hash that the manifest states; {AGAIN}")

    def changed(self) -> list[str]:
        """Return the files that are missing or do not have their hashes."""
        paths = {name: self.path / name for name in self.files}
        return [n for n, wanted in self.files.items() if not paths[n].is_file() or sha256(paths[n]) != wanted]

    def check_runs(self) -> None:
        """Check every run's configuration against its id, and what it measured against its hashes.

        Raises:
            BundleError: naming the runs that disagree.
        """
        runs = pd.read_parquet(self.path / "runs.parquet")
        wrong = [row.run for row in runs.itertuples() if content_hash(json.loads(str(row.config)))[:12] != row.run]
        if wrong:
            raise BundleError(f"in {self.path} the configurations of {_some(wrong)} do not have their hashes")
        for log in LOGS:
            rows = pd.read_parquet(self.path / f"{log}.parquet")
            by_run = dict(list(rows.groupby("run", sort=False, observed=True)))
            stated = dict(zip(runs.run, runs[log], strict=True))
            found = {run: log_hash(by_run[run]) if run in by_run else "" for run in stated}
            wrong = [run for run, digest in stated.items() if digest != found[run]]
            if wrong:
                raise BundleError(
                    f"in {self.path} the {log} of {_some(wrong)} do not have the hash that the run states: they were "
                    f"changed; restore {log}.parquet from the repository"
                )

    def frame(self, name: str) -> pd.DataFrame:
        """Return a frame of the bundle by name.

        Raises:
            UnknownNameError: if there is none (nearest suggested).
            BundleError: if the bundle was changed since it was opened.
        """
        known("frame of the bundle", name, [file.removesuffix(".parquet") for file in self.files])
        data = (self.path / f"{name}.parquet").read_bytes()
        if hashlib.sha256(data).hexdigest() != self.files[f"{name}.parquet"]:
            raise BundleError(f"{name}.parquet in {self.path} was changed since it was opened; open the bundle again")
        return pd.read_parquet(io.BytesIO(data))

    def has(self, name: str) -> bool:
        """Return whether there is a frame of that name."""
        return f"{name}.parquet" in self.files

    @cached_property
    def made(self) -> dict[str, Made]:
        """What made frames of analyses, by their names; of those of before it was written down, nothing."""
        return _manifest(self.path).get("made", {})

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run."""
        return self.frame("runs")

    @cached_property
    def arms(self) -> pd.DataFrame:
        """Experiment, condition, variant, seed and run of every arm."""
        return self.frame("arms")

    @cached_property
    def _metrics(self) -> pd.DataFrame:
        return self.frame("metrics")

    @cached_property
    def _places(self) -> dict[str, np.ndarray]:
        return _places(self._metrics)

    @cached_property
    def _last_steps(self) -> pd.Series:
        """The last step of every run, by id."""
        return self._metrics.groupby("run", observed=True).step.max()

    def holds(self, experiments: Iterable[str]) -> bool:
        """Return whether it holds runs of all of the experiments."""
        return set(experiments) <= set(self.arms.experiment)

    def engines(self) -> dict[str, str]:
        """Return the engines of the runs that it holds whole, by their ids."""
        whole = self.runs[self.runs.status == "finished"]
        return dict(zip(whole.run, whole.engine, strict=True))

    def ends(self) -> dict[str, int]:
        """Return the last step of every run that it holds whole, by id: of one that stopped early, where it did."""
        held = self.engines()
        return {str(run): int(step) for run, step in self._last_steps.items() if run in held}

    def experiment(self, name: str) -> pd.DataFrame:
        """Return the arms of an experiment with planned steps and status of their runs, and by what they end early.

        ``stops_at`` is how good a run must be at ``stops_on``, a split and a measure, to end (NaN: it does not).

        Raises:
            UnknownNameError: for an experiment of which the bundle holds no run (nearest suggested).
        """
        known("experiment in the bundle", name, self.arms.experiment.unique())
        arms = self.arms[self.arms.experiment == name].drop(columns="experiment")
        found = arms.merge(self.runs[["run", "name", "steps", "stops_at", "status", "config"]], on="run")
        return found.assign(stops_on=found.config.map(stops_on)).drop(columns="config")

    def metrics(self, name: str) -> pd.DataFrame:
        """Return what the runs of an experiment measured: condition, variant, seed, run (name), stopped (whether it
        ended before its last planned step, because it had learned), step, split, measure, value."""
        return self._of(name, self._metrics, self._places)

    def gradients(self, name: str) -> pd.DataFrame:
        """Return the gradient by route of the runs of an experiment that logged it."""
        log = self.frame("gradients")
        return self._of(name, log, _places(log))

    def _of(self, name: str, log: pd.DataFrame, places: dict[str, np.ndarray]) -> pd.DataFrame:
        arms = self.experiment(name)
        arms["stopped"] = (arms.status == "finished") & (arms.run.map(self._last_steps) < arms.steps)
        # Taken by place: to join an experiment with the rows of all takes several times as long.
        of_arms = [places.get(run, np.empty(0, dtype=np.intp)) for run in arms.run]
        rows = log.drop(columns="run").iloc[np.concatenate(of_arms)].reset_index(drop=True)
        arms = arms.drop(columns=["steps", "stops_at", "stops_on", "status", "run"]).rename(columns={"name": "run"})
        arms = arms.loc[arms.index.repeat([len(found) for found in of_arms])].reset_index(drop=True)
        return pd.concat([arms, rows], axis=1)


def manifest_of(path: Path) -> dict[str, str]:
    """Return the hash of every file of the bundle in a directory, as its manifest states it.

    Raises:
        BundleError: if there is no manifest, it is damaged, or of another schema.
    """
    return _manifest(path)["files"]


def _manifest(path: Path) -> dict[str, Any]:
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise BundleError(f"{path} holds no bundle of results: it has no manifest.json; 'valuestream collect' makes it")
    try:
        held = json.loads(manifest.read_bytes())
    except ValueError as error:
        raise DamagedManifestError(f"{manifest} is damaged ({error}); {AGAIN}") from error
    if not isinstance(held, dict):
        raise DamagedManifestError(f"{manifest} is damaged, it is no manifest; {AGAIN}")
    if (schema := held.get("schema")) != SCHEMA:
        written = f"{path} has the schema {schema!r}, this version reads {SCHEMA!r}"
        raise BundleError(f"{written}; check out the version that wrote it, or collect the runs again")
    if not isinstance(held.get("files"), dict):
        raise DamagedManifestError(f"{manifest} is damaged, it lists no files; {AGAIN}")
    return held


def stops_on(config: str) -> str:
    """Return of which split and measure a run must be good to end early, of its configuration as the bundle holds it.

    What a configuration leaves out is as :class:`experiments.runs.training_config.StopAt` has it.
    """
    stop = json.loads(config).get("training", {}).get("stop_at") or {}
    return f"{stop.get('split', 'ic')} {stop.get('measure', 'accuracy')}"


def log_hash(rows: pd.DataFrame) -> str:
    """Return the hash of one run's rows of a log, as the bundle holds them."""
    return frame_hash(rows.drop(columns="run").reset_index(drop=True))


def _places(log: pd.DataFrame) -> dict[str, np.ndarray]:
    """The places of every run's rows, by id."""
    found = log.groupby("run", sort=False, observed=True).indices
    return {str(run): np.asarray(rows) for run, rows in found.items()}


def _some(names: list[Any]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
