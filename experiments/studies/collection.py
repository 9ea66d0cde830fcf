"""From run directories to the bundle of committed results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.common.plain_data import canonical_json
from experiments.runs.config import RunConfig
from experiments.runs.frames import DIGITS, parquet_bytes
from experiments.runs.run import Run, runs_in
from experiments.studies.changing import Write, changing
from experiments.studies.committed_results import (
    COMMITTED,
    LOGS,
    SCHEMA,
    Bundle,
    BundleError,
    DamagedManifestError,
    Made,
    log_hash,
    manifest_of,
)
from experiments.studies.registry import EXPERIMENTS, experiment
from experiments.studies.study import Arm, Size

ENDED = ("finished", "failed")
"""Runs that count: those that came to their end, and those that diverged on the way."""


def collect(
    roots: Sequence[str | Path],
    bundle: str | Path = COMMITTED,
    names: Iterable[str] | None = None,
    size: Size = "full",
    afresh: bool = False,
) -> dict[str, tuple[int, int]]:
    """Write the runs of experiments (default: all) into a bundle; return, by experiment, how many of its runs it holds
    now, of all.

    A run is looked for under ``roots``, and where it is in none of them the bundle's own copy is kept, as are all
    frames of analyses (see :func:`add_frames`). ``afresh`` takes nothing from the bundle but the frames of analyses
    that are whole: so one that was damaged is written again.

    Raises:
        UnknownNameError: for an unknown experiment.
        RunError: for a run directory that is damaged.
        BundleError: if there is no finished run at all, or for a bundle of another schema.
    """
    arms = {name: experiment(name).arms(size) for name in names or EXPERIMENTS}
    wanted = {arm.config.id: arm.config for those in arms.values() for arm in those}
    found = {run.config.id: run for run in runs_in(roots, wanted.values()) if run.status in ENDED}
    fresh = {run_id: read(run) for run_id, run in found.items()}
    where = ", ".join(map(str, roots))
    none = f"there is no finished run of {', '.join(arms)} in {where}; 'valuestream sweep' trains them"
    manifest = Path(bundle) / "manifest.json"
    if not fresh and not manifest.exists():
        raise BundleError(none)
    # What is kept is read while nobody else changes it.
    with changing(Path(bundle)) as replace:
        kept = _rows_of(Bundle.open(bundle), wanted) if manifest.exists() and not afresh else {}
        held = {**kept, **fresh}
        if not held:
            raise BundleError(none)
        _put(_frames(held, arms), Path(bundle), replace, afresh)
    return {name: (sum(arm.config.id in held for arm in those), len(those)) for name, those in arms.items()}


def _frames(held: Mapping[str, dict[str, Any]], arms: Mapping[str, Sequence[Arm]]) -> dict[str, pd.DataFrame]:
    rows = [
        (name, arm.condition, arm.label, arm.config.seed, arm.config.id)
        for name, those in arms.items()
        for arm in those
        if arm.config.id in held
    ]
    frames = {
        "arms": pd.DataFrame(rows, columns=["experiment", "condition", "variant", "seed", "run"]),
        "runs": pd.DataFrame([of["about"] for of in held.values()]),
    }
    for log in LOGS:
        # Empty frames have no types, and would take them from the others.
        full = [of[log] for of in held.values() if len(of[log])]
        frames[log] = pd.concat(full, ignore_index=True) if full else pd.DataFrame({"run": []})
    return frames


def add_frames(
    frames: Mapping[str, pd.DataFrame], bundle: str | Path = COMMITTED, sources: Mapping[str, str] | None = None
) -> None:
    """Write frames into a bundle, rounded, with their hashes in its manifest: all or, if the process dies, none.

    With ``sources`` (:func:`experiments.studies.provenance.sources_of`, read before the frames were computed) these are
    written beside the hashes as what made the frames, with the ids of the runs that each has rows of.

    Raises:
        BundleError: for a bundle of another schema, or one that was changed.
    """
    made = {} if sources is None else {n: {"sources": {**sources}, "runs": _runs(f)} for n, f in frames.items()}
    with changing(Path(bundle)) as replace:
        _put(frames, Path(bundle), replace, made=made)


def _runs(frame: pd.DataFrame) -> list[str]:
    """The ids of the runs that a frame names, which stand at the end of their names."""
    return sorted({str(name).rpartition("-")[2] for name in frame["run"].unique()}) if "run" in frame else []


def _put(
    frames: Mapping[str, pd.DataFrame],
    path: Path,
    replace: Write,
    afresh: bool = False,
    made: Mapping[str, Made] | None = None,
) -> None:
    written = {f"{name}.parquet": parquet_bytes(frame.round(DIGITS), level=19) for name, frame in frames.items()}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
    kept, before = _whole_files(path, afresh)
    files = dict(sorted({**kept, **hashes}.items()))
    stay = {name: of for name, of in before.items() if f"{name}.parquet" in kept and name not in frames}
    told = {"made": dict(sorted({**stay, **(made or {})}.items()))}
    text = json.dumps({"schema": SCHEMA, "files": files, **(told if told["made"] else {})}, indent=1) + "\n"
    replace({**written, "manifest.json": text.encode()})


def _whole_files(path: Path, afresh: bool) -> tuple[dict[str, str], dict[str, Made]]:
    """The files of a bundle that stay, with their hashes, and what made its frames."""
    if not (path / "manifest.json").exists():
        return {}, {}
    if not afresh:
        held = Bundle.open(path)
        return dict(held.files), held.made
    try:
        held = Bundle(path, manifest_of(path))
    except DamagedManifestError:
        return {}, {}
    changed = set(held.changed())
    return {name: digest for name, digest in held.files.items() if name not in changed}, held.made


def read(run: Run) -> dict[str, Any]:
    """Return one run's row (``about``) and logs, as the bundle holds them."""
    logs = {"metrics": run.metrics(), "gradients": pd.DataFrame()}
    if run.config.training.gradients_at:
        logs["gradients"] = run.gradients()
    logs = {log: frame.assign(run=run.config.id).round(DIGITS) for log, frame in logs.items()}
    stop = run.config.training.stop_at if isinstance(run, Run) else None
    about = {
        "run": run.config.id,
        "name": run.path.name,
        "variant": run.config.variant,
        "preset": run.config.preset,
        "seed": run.config.seed,
        "steps": run.config.training.steps,
        "stops_at": stop.accuracy if stop else float("nan"),
        "status": run.status,
        "engine": run.record["engine"],
        "seconds": run.seconds,
        "config": canonical_json(run.config.essence()),
        "environment": canonical_json(run.record["environment"]),
    }
    about |= {log: log_hash(frame) if len(frame) else "" for log, frame in logs.items()}
    return {"about": about, **logs}


def _rows_of(old: Bundle, wanted: Mapping[str, RunConfig]) -> dict[str, dict[str, Any]]:
    """The rows and logs of the wanted runs that a bundle holds already."""
    logs = {log: dict(list(old.frame(log).groupby("run", sort=False, observed=True))) for log in LOGS}
    return {
        row["run"]: {"about": row, **{log: logs[log].get(row["run"], pd.DataFrame()) for log in LOGS}}
        for row in old.runs.to_dict("records")
        if row["run"] in wanted
    }
