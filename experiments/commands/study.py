"""The commands on studies: ask what training does not log, draw and write everything again, repeat it in miniature."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from circuits.common.errors import known, require
from circuits.common.screen import say
from experiments.commands.sweep import collect, kept, known_ends, sweep
from experiments.options import BundlePath, Device, Extent, Root, Roots, Workers, option
from experiments.output import Tables, show
from experiments.runs.folder import runs_folder, runs_folders

if TYPE_CHECKING:
    from experiments.studies.study import Picture, Study
else:
    Picture = Study = Any


def amicl(size: Extent = "full", bundle: BundlePath = None) -> None:
    """Run the associative memory model: counts, curves, heat maps, the best a by task; into the committed results."""
    from experiments.studies.associative_memory.study import STUDY, ask

    _put(partial(ask, size), bundle, STUDY)


def mechanism(
    roots: Roots = (),
    n: Annotated[int, option("sequences or pairs a question")] = 256,
    bundle: BundlePath = None,
) -> None:
    """Ask heads, routes and circuits of all runs with checkpoints round the transition; into the committed results."""
    from experiments.studies.heads_and_routes.study import STUDY, ask

    _put(partial(ask, runs_folders(roots), n=n), bundle, STUDY)


def lm_mechanism(roots: Roots = (), bundle: BundlePath = None) -> None:
    """Ask the language models for indirect objects (also transplanted), heads, routes, circuits; into the results."""
    from experiments.studies.indirect_objects.study import STUDY, ask

    _put(partial(ask, runs_folders(roots)), bundle, STUDY)


def learned_gains(roots: Roots = (), bundle: BundlePath = None) -> None:
    """Ask models with learned gains what each route does beside its gain; into the committed results."""
    from experiments.studies.learned_gains.study import STUDY, ask

    _put(partial(ask, runs_folders(roots)), bundle, STUDY)


def gains_in_training(roots: Roots = (), bundle: BundlePath = None) -> None:
    """Ask classifiers with learned gains what each route does at every checkpoint; into the committed results."""
    from experiments.studies.learned_gains.gains_in_training import STUDY, ask

    _put(partial(ask, runs_folders(roots)), bundle, STUDY)


def interference(roots: Roots = (), bundle: BundlePath = None) -> None:
    """Ask runs with checkpoints what the second layer's values are made of; into the committed results."""
    from experiments.studies.interference.study import STUDY, ask

    _put(partial(ask, runs_folders(roots)), bundle, STUDY)


def lm_cost(
    rounds: Annotated[int, option("turns of every variant")] = 40,
    device: Device = "cpu",
    bundle: BundlePath = None,
) -> Tables:
    """Measure what a training step of every variant costs, in one interleaved run; into the committed results."""
    from experiments.studies.step_cost.study import STUDY, measure

    found = _put(partial(measure, rounds, device), bundle, STUDY)["lm_cost"]
    show(found)
    return {"lm_cost": found}


def demo(
    size: Annotated[str, option("'standard' (12 runs, minutes) or 'smallest' (only shows that it runs)")] = "standard",
    out: Annotated[Path, option("where the page and the figures go")] = Path("demo"),
    images: Annotated[bool, option("the figures as PNG and SVG too; needs kaleido and a browser")] = False,
    root: Root = None,
) -> Tables:
    """Train four variants, ask everything of them, print the table and write one page with all figures."""
    from experiments.studies.demonstration.asking import SIZES, find
    from experiments.studies.demonstration.page import write_page
    from experiments.studies.demonstration.told import printable, tell

    found = find(SIZES[known("size", size, SIZES)], root)
    # First what lasts: whoever reads what is printed may have had enough.
    page = write_page(found, out, images)
    show(printable(found.table))
    tell(found)
    say(f"\nopen {page.resolve()}")
    return {"steps": found.table}


def _put(compute: Callable[[], Mapping[str, Any]], bundle: Path | None, study: Study) -> Mapping[str, Any]:
    """Compute frames of a study and put them into a bundle, with what made them; that none may be written to is said
    before anything is computed."""
    from experiments.studies.collection import add_frames
    from experiments.studies.provenance import sources_of

    path, started = kept(bundle), time.perf_counter()
    # Before they are computed, as sources may change meanwhile.
    sources = sources_of(study.asking.compute) if study.asking else None
    frames = compute()
    add_frames(frames, path, sources)
    say(f"wrote {', '.join(frames)} into {path} ({time.perf_counter() - started:.0f} s)")
    return frames


def figures(
    only: Annotated[tuple[str, ...], option("figures by name", "all")] = (),
    out: Annotated[
        Path | None,
        option(
            "where they go",
            "figures/rendered of the checkout, whose pages get the tables; of an installed copy ./figures, with the "
            "tables in its report.md",
        ),
    ] = None,
    images: Annotated[
        Literal["auto", "yes", "no"], option("images too; auto: where kaleido and a browser are found")
    ] = "auto",
    format: Annotated[tuple[Literal["png", "svg", "pdf"], ...], option("of the images")] = ("png", "svg"),
    size: Annotated[
        Literal["screen", "page", "column"],
        option("of the images: 1100 pixels, or a printed page's 183 mm or a column's 89, in a folder of that name"),
    ] = "screen",
    check: Annotated[
        bool,
        option(
            "draw and write nothing: say which figures, images and pages are not what the results give, and which runs "
            "and asked frames are not of what is trained and asked today (seconds, for torch)"
        ),
    ] = False,
    recompute: Annotated[bool, option("train and analyse again what lies behind them, and collect it")] = False,
    root: Root = None,
    bundle: BundlePath = None,
) -> None:
    """Draw every figure and write every table from the committed results, offline."""
    from experiments.studies import freshness, pages
    from experiments.studies.committed_results import COMMITTED, Bundle
    from experiments.studies.registry import pictures
    from figures.files import write_figure
    from figures.images import write_images

    # In a checkout the pages are rewritten; of an installation nothing is touched, and one page goes to the figures.
    require(not (check and recompute), "--check trains nothing: leave out --recompute, or check afterwards")
    wanted, here = pictures(only), pages.in_repository()
    folder = out or (COMMITTED.parent / "rendered" if here else Path("figures"))
    if recompute:
        _recompute(wanted, root, kept(bundle))
    held = Bundle.open(bundle or COMMITTED)
    if check:
        written = pages.PAGES if here and not only else ()
        found = freshness.check(wanted, held, folder, written, partial(pages.fill, rendered=folder))
        found = freshness.with_made(found, held, wanted if only else ())
        for line in freshness.of_frames(found):
            say(line)
        freshness.require_fresh(found)
        say(f"all {len(found)} are what the results give: {', '.join(freshness.counted(found))}")
        return
    drawn = {p.name: p.draw(held) for p in wanted if p.drawable(held)}
    left = [p.name for p in wanted if p.name not in drawn]
    for name, figure in drawn.items():
        write_figure(figure, folder / name, folder)
    if images != "no":
        try:
            made = write_images(drawn, folder if size == "screen" else folder / size, format, size)
            if size == "screen":
                freshness.note_images(made, folder)
        except RuntimeError as error:
            if images == "yes" or size != "screen" or set(format) != {"png", "svg"}:
                raise
            say(f"no images: {error}")
    say(
        f"wrote {len(drawn)} figures into {folder}"
        + (f"; the bundle has nothing for {', '.join(left)}" if left else "")
    )
    if bundle is None and not only:
        for page in pages.fill_pages(held) if here else [pages.write_page(held, folder / "report.md")]:
            say(f"wrote the tables of {page}")


def _recompute(pictures: list[Picture], root: Path | None, bundle: Path) -> None:
    """Train what lies behind pictures, and ask what has to be asked for their frames."""
    from experiments.studies.registry import STUDIES

    frames = {frame for picture in pictures for frame in picture.frames}
    asked = [study for study in STUDIES.values() if study.asking and frames & {*study.asking.frames}]
    askings = [study.asking for study in asked if study.asking]
    names = tuple(dict.fromkeys(e.name for one in (*pictures, *askings) for e in one.experiments))
    if names:
        _foretell(names, "full", root, None, len(asked))
        sweep(names, again=True, bundle=bundle, root=root)
        collect((runs_folder(root),), "full", bundle)
    for study, asking in zip(asked, askings, strict=True):
        _put(partial(asking.compute, [runs_folder(root)], "full"), bundle, study)


def _foretell(names: Sequence[str], size: Extent, root: Path | None, workers: int | None, analyses: int) -> None:
    """Say on the error stream what the training behind some experiments takes, in all and study by study: a run that
    several have counts in each, and a study takes so long by itself."""
    import pandas as pd

    from circuits.common.text_table import as_text
    from experiments.studies.registry import STUDIES, configs
    from experiments.sweeps.progress import duration
    from experiments.sweeps.sweep import sweep_plan

    plan = sweep_plan(configs(names, size), root, workers, ends=known_ends())
    rows = []
    for study in STUDIES.values():
        ids = {c.id for c in configs([e.name for e in study.experiments if e.name in names], size)}
        of = [run for run in plan.runs if run.config.id in ids]
        left = [run.path.name for run in of if not run.finished]
        time = duration(plan.forecast.total(left))
        rows += [{"study": study.name, "runs": len(of), "to train": len(left), "about": time}] if of else []
    then = f"; then {analyses} analyses, whose time is not in this" if analyses else ""
    print(as_text(pd.DataFrame(rows)), file=sys.stderr)
    say(f"in all {plan.sentence()}{then}", sys.stderr)


def reproduce(
    preset: Annotated[Literal["small"], option("the whole study in miniature, at the small preset")] = "small",
    out: Annotated[Path, option("where results, figures and the report go")] = Path("reproduction"),
    workers: Workers = None,
) -> None:
    """Repeat the whole study in miniature: train, analyse, draw, and write a report with every table."""
    from experiments.studies.committed_results import Bundle
    from experiments.studies.pages import whole
    from experiments.studies.registry import EXPERIMENTS, STUDIES

    data, runs = out / "data", out / "runs"
    asked = [(study, asking) for study in STUDIES.values() if (asking := study.asked("miniature"))]
    _foretell(tuple(EXPERIMENTS), "miniature", runs, workers, len(asked))
    sweep(tuple(EXPERIMENTS), size="miniature", workers=workers, again=True, bundle=data, root=runs)
    collect((runs,), "miniature", data)
    for study, asking in asked:
        _put(partial(asking.compute, [runs], "miniature"), data, study)
    figures(out=out / "figures", root=runs, bundle=data)
    (out / "report.md").write_text(whole(Bundle.open(data), f"The study in miniature ({preset} preset)"))
    say(f"read {out / 'report.md'}")
