"""What the commands on whole experiments do once they are called."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from experiments.studies import gallery
from experiments.studies import pages as report
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.times import ASKS
from figures.files import write_figure, write_images

LM_EXPERIMENTS = ("lm",)
"""Those whose runs are asked for indirect objects in other bodies, heads, routes and circuits."""

if TYPE_CHECKING:
    from experiments.runs.config import RunConfig
    from experiments.runs.run import Run
    from experiments.studies.arms import Size


def sweep(
    names: Sequence[str],
    engine: Literal["processes", "ray"],
    size: Size,
    workers: int | None,
    address: str | None,
    device: str,
    retries: int,
    again: bool,
    bundle: Path | None,
    root: Path,
) -> None:
    """Train experiments by name, or list them."""
    from experiments.studies.registry import EXPERIMENTS, configs
    from experiments.sweeps.sweep import sweep as train_all

    if not names:
        _list_experiments(EXPERIMENTS, size, _held(bundle))
        return
    wanted = configs(names, size)
    held = set() if again else _held(bundle)
    missing = [config for config in wanted if config.id not in held]
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} of {len(wanted)} runs are in the committed results (--again trains them)")
    train_all(missing, root, workers, device, engine=engine, address=address, retries=retries)


def _kept(bundle: Path | None) -> Path:
    """The bundle that results are put into: the one that is named, or this repository's.

    Raises:
        ValueError: if none is named and the packages are installed, so that it would be a file of the installation.
    """
    if bundle is None and not report.in_repository():
        raise ValueError(
            f"the results in {COMMITTED} came with valuestream and are not written to; say where these go: --bundle DIR"
        )
    return bundle or COMMITTED


def _held(bundle: Path | None) -> set[str]:
    path = bundle or COMMITTED
    return Bundle.open(path).finished() if (path / "manifest.json").exists() else set()


def _list_experiments(experiments: dict[str, Any], size: Size, held: set[str]) -> None:
    from circuits.common.text_table import as_text

    rows = []
    for name, experiment in experiments.items():
        ids = {arm.config.id for arm in experiment.arms(size)}
        rows.append({"experiment": name, "asks": ASKS[name], "runs": len(ids), "in the bundle": len(ids & held)})
    print(as_text(pd.DataFrame(rows)))


def collect(roots: Sequence[Path], size: Size, bundle: Path | None, afresh: bool = False) -> None:
    """Collect runs, and say of every experiment how many the bundle holds."""
    from experiments.studies.collection import collect as gather

    path = _kept(bundle)
    for name, (held, wanted) in gather(roots, path, size=size, afresh=afresh).items():
        print(f"{name}: {held} of {wanted} runs")
    total = sum(file.stat().st_size for file in path.glob("*"))
    print(f"wrote {path} ({total / 1e6:.1f} MB)")


def amicl(size: Size, bundle: Path | None) -> None:
    """Run the associative memory model and keep its frames."""
    from experiments.studies.associative_memory import study
    from experiments.studies.collection import add_frames

    started, path = time.perf_counter(), _kept(bundle)
    frames = study(size)
    add_frames(frames, path)
    print(f"wrote {', '.join(frames)} into {path} ({time.perf_counter() - started:.0f} s)")


def mechanism(roots: Sequence[Path], n: int, bundle: Path | None, size: Size = "full") -> None:
    """Analyse the runs that keep checkpoints, and keep the frames."""
    from experiments.studies.collection import add_frames
    from experiments.studies.heads_and_routes import study
    from experiments.studies.registry import configs

    path = _kept(bundle)
    wanted = configs(["gradient-paper", "mechanism"], size)
    frames = study(list(_with_checkpoints(roots, wanted)), n)
    add_frames(frames, path)
    print(f"wrote {', '.join(frames)} into {path}")


def lm_mechanism(roots: Sequence[Path], bundle: Path | None, size: Size = "full") -> None:
    """Analyse the language models' runs, and keep the frames."""
    from experiments.runs.directory import directory_of
    from experiments.runs.run import Run
    from experiments.studies.collection import add_frames
    from experiments.studies.lm_mechanism import study
    from experiments.studies.registry import configs

    path = _kept(bundle)
    paths = [directory_of(root, config) for config in configs(LM_EXPERIMENTS, size) for root in roots]
    runs = [Run.open(there) for there in paths if (there / "run.json").is_file()]
    frames = study([run for run in runs if run.finished])
    add_frames(frames, path)
    print(f"wrote {', '.join(frames)} into {path}")


def lm_cost(rounds: int, device: str, bundle: Path | None) -> None:
    """Time and weigh the steps of every variant, and keep the frame."""
    from circuits.common.text_table import as_text
    from experiments.studies.collection import add_frames
    from experiments.studies.lm_arms import PAIR, SIZES, VARIANTS
    from experiments.studies.step_cost import step_costs

    path = _kept(bundle)
    asked = {size: VARIANTS if size == SIZES[0] else PAIR for size in SIZES}
    frame = pd.concat([step_costs(size, variants, rounds, device) for size, variants in asked.items()])
    add_frames({"lm_cost": frame.reset_index(drop=True)}, path)
    print(as_text(frame))


def _with_checkpoints(roots: Sequence[Path], wanted: Sequence[RunConfig]) -> Iterable[Run]:
    from experiments.runs.directory import directory_of
    from experiments.runs.run import Run

    for path in (directory_of(root, config) for config in wanted for root in roots):
        if (path / "run.json").is_file():
            run = Run.open(path)
            if run.finished and len(run.checkpoints()) > 2:
                yield run


def figures(
    only: Sequence[str],
    out: Path | None,
    images: Literal["auto", "yes", "no"],
    recompute: bool,
    root: Path,
    bundle: Path | None,
) -> None:
    """Draw from the bundle; write its tables too if it is the one that comes with valuestream.

    In a checkout the pages are rewritten. Where the packages are installed nothing of theirs is touched: figures and a
    page of tables go into one folder.
    """
    wanted = gallery.chosen(only)
    here = report.in_repository()
    path, folder = bundle or COMMITTED, out or (COMMITTED.parent / "rendered" if here else Path("figures"))
    if recompute:
        _recompute(wanted, root, _kept(bundle))
    held = Bundle.open(path)
    drawn = {p.name: p.draw(held) for p in wanted if p.drawable(held)}
    left = [p.name for p in wanted if p.name not in drawn]
    for name, figure in drawn.items():
        write_figure(figure, folder / name, folder)
    if images != "no":
        _images(drawn, folder, must=images == "yes")
    print(
        f"wrote {len(drawn)} figures into {folder}"
        + (f"; the bundle has nothing for {', '.join(left)}" if left else "")
    )
    if bundle is None and not only:
        for page in report.fill_pages(held) if here else [report.write_page(held, folder / "report.md")]:
            print(f"wrote the tables of {page}")


def _images(drawn: dict[str, Any], folder: Path, must: bool) -> None:
    try:
        write_images(drawn, folder)
    except RuntimeError as error:
        if must:
            raise
        print(f"no SVG or PNG: {error}")


def _recompute(pictures: Sequence[gallery.Picture], root: Path, bundle: Path) -> None:
    names = list(dict.fromkeys(name for picture in pictures for name in picture.experiments))
    frames = {frame.split("_")[0] for picture in pictures for frame in picture.frames}
    if "mechanism" in frames:
        names += [name for name in ("gradient-paper", "mechanism") if name not in names]
    if "lm" in frames:
        names += [name for name in LM_EXPERIMENTS if name not in names]
    if names:
        sweep(names, "processes", "full", None, None, "cpu", 2, True, bundle, root)
        collect([root], "full", bundle)
    if "amicl" in frames:
        amicl("full", bundle)
    if "mechanism" in frames:
        mechanism([root], 256, bundle)
    if "lm" in frames:
        lm_mechanism([root], bundle)
        lm_cost(40, "cpu", bundle)


def reproduce(preset: str, out: Path, workers: int | None) -> None:
    """Train, analyse and draw the study in miniature, and write its report."""
    from experiments.studies.registry import EXPERIMENTS

    data, runs = out / "data", out / "runs"
    sweep(list(EXPERIMENTS), "processes", "miniature", workers, None, "cpu", 2, True, data, runs)
    collect([runs], "miniature", data)
    amicl("miniature", data)
    mechanism([runs], 128, data, "miniature")
    lm_mechanism([runs], data, "miniature")
    lm_cost(10, "cpu", data)
    figures((), out / "figures", "auto", False, runs, data)
    text = report.whole(Bundle.open(data), f"The study in miniature ({preset} preset)")
    (out / "report.md").write_text(text)
    print(f"read {out / 'report.md'}")
