"""Commands on whole experiments: train many, collect results, analyse, draw everything again. Only names and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from experiments.commands.route_cli import Root

Size = Annotated[Literal["full", "miniature"], arg(help="all seeds, or fewer and nothing at the paper's size")]
BundlePath = Annotated[
    Path | None,
    arg(help="directory of committed results (default: those of the checkout; an installed copy's are only read)"),
]
Roots = Annotated[tuple[Path, ...], arg(help="directories with runs")]


def sweep(
    names: Positional[Annotated[tuple[str, ...], arg(help="experiments; none lists them")]] = (),
    engine: Annotated[
        Literal["processes", "ray"], arg(help="one process a core here, or a Ray cluster (the extra 'ray')")
    ] = "processes",
    size: Size = "full",
    workers: Annotated[int | None, arg(help="processes (default: one a core)")] = None,
    address: Annotated[
        str | None, arg(help="of the Ray cluster, e.g. head:6379 (default: one on this machine)")
    ] = None,
    device: Annotated[str, arg(help="cpu or cuda")] = "cpu",
    retries: Annotated[int, arg(help="how often a run is tried again whose worker died")] = 2,
    again: Annotated[bool, arg(help="train also what the committed results hold")] = False,
    bundle: BundlePath = None,
    root: Root = Path("runs"),
) -> None:
    """Train named experiments. What is finished, here or in the committed results, costs nothing; the rest resumes."""
    from experiments.commands import study_commands

    study_commands.sweep(names, engine, size, workers, address, device, retries, again, bundle, root)


def collect(
    roots: Roots = (Path("runs"),),
    size: Size = "full",
    bundle: BundlePath = None,
    afresh: Annotated[bool, arg(help="take nothing from the bundle but whole frames of analyses: repairs it")] = False,
) -> None:
    """Put the finished runs of all experiments into the committed results."""
    from experiments.commands import study_commands

    study_commands.collect(roots, size, bundle, afresh)


def amicl(
    size: Size = "full",
    bundle: BundlePath = None,
) -> None:
    """Run the associative memory model: counts, curves, heat maps, the best a by task; into the committed results."""
    from experiments.commands import study_commands

    study_commands.amicl(size, bundle)


def mechanism(
    roots: Roots = (Path("runs"),),
    n: Annotated[int, arg(help="sequences or pairs a question")] = 256,
    bundle: BundlePath = None,
) -> None:
    """Ask heads, routes and circuits of all runs with checkpoints round the transition; into the committed results."""
    from experiments.commands import study_commands

    study_commands.mechanism(roots, n, bundle)


def lm_mechanism(
    roots: Roots = (Path("runs"),),
    bundle: BundlePath = None,
) -> None:
    """Ask the language models for indirect objects (also transplanted), heads, routes, circuits; into the results."""
    from experiments.commands import study_commands

    study_commands.lm_mechanism(roots, bundle)


def lm_cost(
    rounds: Annotated[int, arg(help="turns of every variant")] = 40,
    device: Annotated[str, arg(help="cpu or cuda")] = "cpu",
    bundle: BundlePath = None,
) -> None:
    """Measure what a training step of every variant costs, in one interleaved run; into the committed results."""
    from experiments.commands import study_commands

    study_commands.lm_cost(rounds, device, bundle)


def figures(
    only: Annotated[tuple[str, ...], arg(help="figures by name (default: all)")] = (),
    out: Annotated[
        Path | None,
        arg(
            help="where they go (default: figures/rendered of the checkout, whose pages get the tables; of an "
            "installed copy ./figures, with the tables in its report.md)"
        ),
    ] = None,
    images: Annotated[
        Literal["auto", "yes", "no"], arg(help="SVG and PNG too; auto: where kaleido and a browser are found")
    ] = "auto",
    recompute: Annotated[bool, arg(help="train and analyse again what lies behind them, and collect it")] = False,
    root: Root = Path("runs"),
    bundle: BundlePath = None,
) -> None:
    """Draw every figure and write every table from the committed results, offline."""
    from experiments.commands import study_commands

    study_commands.figures(only, out, images, recompute, root, bundle)


def reproduce(
    preset: Annotated[Literal["small"], arg(help="the whole study in miniature, at the small preset")] = "small",
    out: Annotated[Path, arg(help="where results, figures and the report go")] = Path("reproduction"),
    workers: Annotated[int | None, arg(help="processes (default: one a core)")] = None,
) -> None:
    """Repeat the whole study in miniature: train, analyse, draw, and write a report with every table."""
    from experiments.commands import study_commands

    study_commands.reproduce(preset, out, workers)
