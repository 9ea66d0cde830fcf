"""The commands that train named experiments and collect what they gave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from circuits.common.errors import require
from experiments.options import BundlePath, Device, Extent, Root, Roots, Workers, option
from experiments.output import Tables, say, show


def sweep(
    names: Positional[Annotated[tuple[str, ...], option("experiments; none lists them")]] = (),
    engine: Annotated[
        Literal["processes", "ray"], option("one process a core here, or a Ray cluster (the extra 'ray')")
    ] = "processes",
    size: Extent = "full",
    workers: Workers = None,
    address: Annotated[str | None, option("of the Ray cluster, e.g. head:6379", "one on this machine")] = None,
    device: Device = "cpu",
    retries: Annotated[int, option("how often a run is tried again whose worker died")] = 2,
    again: Annotated[bool, option("train also what the committed results hold")] = False,
    bundle: BundlePath = None,
    root: Root = None,
) -> Tables:
    """Train named experiments. What is finished, here or in the committed results, costs nothing; the rest resumes."""
    import pandas as pd

    from experiments.studies.committed_results import COMMITTED, Bundle
    from experiments.studies.registry import EXPERIMENTS, configs

    path, whole = bundle or COMMITTED, again and names
    there = (path / "manifest.json").exists()
    require(bool(whole) or bundle is None or there, f"there are no committed results in {path}; collect some first")
    held = {} if whole or not there else Bundle.open(path).engines()
    if not names:
        rows = []
        for name, experiment in EXPERIMENTS.items():
            ids = {arm.config.id for arm in experiment.arms(size)}
            about = {
                "experiment": name,
                "asks": experiment.asks,
                "runs": len(ids),
                "in the bundle": len(ids & held.keys()),
            }
            rows.append(about)
        listed = pd.DataFrame(rows)
        show(listed)
        return {"experiments": listed}
    from experiments.runs.table import row_of
    from experiments.sweeps.sweep import sweep as train_all

    wanted = configs(names, size)
    missing = [config for config in wanted if config.id not in held]
    if len(missing) < len(wanted):
        say(f"{len(wanted) - len(missing)} of {len(wanted)} runs are in the committed results (--again trains them)")
    # What is trained here is compared with what the bundle holds.
    like = [held[config.id] for config in wanted if config.id in held]
    how = {"engine": engine, "address": address, "retries": retries, "ends": known_ends(), "like": like}
    trained = train_all(missing, root, workers, device, **how)
    return {"runs": pd.DataFrame([row_of(run.path) for run in trained])}


def known_ends() -> dict[str, int]:
    """Return the last steps of the runs in this version's committed results, by id: where others stopped early, their
    like will."""
    from experiments.studies.committed_results import COMMITTED, Bundle

    return Bundle.open(COMMITTED).ends() if (COMMITTED / "manifest.json").exists() else {}


def collect(
    roots: Roots = (),
    size: Extent = "full",
    bundle: BundlePath = None,
    afresh: Annotated[bool, option("take nothing from the bundle but whole frames of analyses: repairs it")] = False,
) -> Tables:
    """Put the finished runs of all experiments into the committed results."""
    import pandas as pd

    from experiments.runs.folder import runs_folders
    from experiments.studies.collection import collect as gather

    path = kept(bundle)
    counts = gather(runs_folders(roots), path, size=size, afresh=afresh)
    found = pd.DataFrame([{"experiment": name, "runs": held, "of": wanted} for name, (held, wanted) in counts.items()])
    show(found)
    total = sum(file.stat().st_size for file in path.glob("*"))
    say(f"wrote {path} ({total / 1e6:.1f} MB)")
    return {"collected": found}


def kept(bundle: Path | None) -> Path:
    """Return the bundle that results are put into: the one that is named, or this repository's.

    Raises:
        ValueError: if none is named and the packages are installed, so that it would be a file of the installation.
    """
    from experiments.studies.committed_results import COMMITTED
    from experiments.studies.pages import in_repository

    if bundle is None and not in_repository():
        raise ValueError(
            f"the results in {COMMITTED} came with valuestream and are not written to; say where these go: --bundle DIR"
        )
    return bundle or COMMITTED
