"""The command ``valuestream``. Only names and help live here; torch is imported when a command runs."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from experiments.commands import lm_cli, route_cli, study, sweep
from experiments.commands.lm_cli import Interventions, TrainLM
from experiments.commands.route_cli import Root, RunName, Step


@dataclass(frozen=True)
class TrainICL:
    """Train the in-context classifier, one run or all variants x seeds side by side."""

    variant: Annotated[str, arg(help="a named mixing rule; 'valuestream variants' lists them")] = "value"
    variants: Annotated[tuple[str, ...], arg(help="several of them, instead of --variant")] = ()
    preset: Annotated[str, arg(help="'paper' (width 150, SGD) or 'small' (width 64, Adam, a minute)")] = "small"
    seed: Annotated[int, arg(help="of weights, data and class vectors; equal seeds pair variants")] = 0
    seeds: Annotated[tuple[int, ...], arg(help="several of them, instead of --seed")] = ()
    steps: Annotated[int | None, arg(help="updates, instead of the preset's")] = None
    layers: Annotated[int, arg(help="attention layers")] = 2
    compute: Annotated[Literal["auto", "eager", "compiled"], arg(help="auto compiles long runs")] = "auto"
    device: Annotated[str, arg(help="cpu or cuda")] = "cpu"
    workers: Annotated[int | None, arg(help="processes (default: one a core)")] = None
    gradients_every: Annotated[int | None, arg(help="steps between splits of the gradient by route")] = None
    interventions: Interventions = None
    root: Root = Path("runs")


def train(
    what: OmitArgPrefixes[
        Annotated[TrainICL, subcommand("icl", prefix_name=False)]
        | Annotated[TrainLM, subcommand("lm", prefix_name=False)]
    ],
) -> None:
    """Train one run, or all variants x seeds side by side. A finished run costs nothing, an interrupted one goes on."""
    from experiments.commands import lm_commands
    from experiments.commands import run_commands as commands

    if isinstance(what, TrainICL):
        commands.train(what)
    else:
        lm_commands.train(what)


def runs(root: Root = Path("runs")) -> None:
    """List the runs: variant, seed, status, last step, accuracy."""
    from experiments.commands import run_commands as commands

    commands.runs(root)


def variants() -> None:
    """List the named mixing rules with what they say and whose they are."""
    from experiments.commands import run_commands as commands

    commands.variants()


def describe(
    variant: Positional[Annotated[str, arg(help="a named mixing rule")]],
    preset: Annotated[str, arg(help="paper or small")] = "paper",
    layers: Annotated[int, arg(help="attention layers")] = 2,
) -> None:
    """Show what flows where in a variant: a table of layers, carriers, sources, gains, gates and hook names."""
    from experiments.commands import run_commands as commands

    commands.describe(variant, preset, layers)


def patch(
    run: RunName,
    corruption: route_cli.Corruption = None,
    n: Annotated[int, arg(help="clean/corrupt pairs")] = 128,
    metric: Annotated[str, arg(help="logit_difference, probability, rank, loss or accuracy")] = "logit_difference",
    direction: Annotated[
        Literal["denoise", "noise"], arg(help="clean into corrupt, or corrupt into clean")
    ] = "denoise",
    components: Annotated[tuple[str, ...], arg(help="what to patch")] = ("state", "resid_pre", "q", "k", "v", "z"),
    routes: Annotated[tuple[str, ...], arg(help="of q, k and v: own, residual, mixed, outgoing (default: all)")] = (),
    heads: Annotated[Literal["all", "each"], arg(help="heads together, or one by one")] = "all",
    together: Annotated[tuple[str, ...], arg(help="also this, patched at once, e.g. resid_pre v.residual")] = (),
    step: Step = -1,
    max_memory: route_cli.Memory = None,
    top: Annotated[int, arg(help="rows to print")] = 15,
    root: Root = Path("runs"),
) -> None:
    """Patch every layer x position role x component x route of a run's model; write and draw the effects."""
    from experiments.commands import run_commands as commands

    which: dict[str, Any] = {"components": components, "routes": routes or None, "heads": heads, "together": together}
    commands.patch(run, root, top, n, corruption, metric, direction, step, max_memory, which)


def heads(
    run: RunName,
    n: Annotated[int, arg(help="sequences")] = 256,
    split: route_cli.Split = None,
    root: Root = Path("runs"),
) -> None:
    """Score every head at every checkpoint of a run; write and draw the curves.

    Previous token, ILA, TILA, TLA, retrieval, copying by route, composition of heads by route; CLA of the model.
    """
    from experiments.commands import run_commands as commands

    commands.heads(run, root, n, split)


def ablate(
    run: RunName,
    n: Annotated[int, arg(help="sequences")] = 512,
    split: route_cli.Split = None,
    step: Step = -1,
    method: Annotated[
        tuple[Literal["zero", "mean", "resample"], ...],
        arg(help="what comes in place: zero, the mean over sequences, or another sequence's activation"),
    ] = ("zero", "mean"),
    from_run: Annotated[
        str | None, arg(help="also put in place what another run's model has there on the same sequences")
    ] = None,
    edges: Annotated[
        tuple[str, ...], arg(help="edges to cut together, as in 'L0H0.v > L1H0.v (stream)', or 'each' one by itself")
    ] = (),
    root: Root = Path("runs"),
) -> None:
    """Take away each head, whole and in halves, the stream, its value, its gradient; write and draw what breaks."""
    from experiments.commands import run_commands as commands

    commands.ablate(run, root, n, split, step, method, from_run, edges)


def gradients(
    run: RunName,
    n: Annotated[int, arg(help="sequences")] = 256,
    split: Annotated[str, arg(help="train, test, ic, ic2 or iw; of a language model train or validation")] = "train",
    activations: Annotated[tuple[str, ...], arg(help="hook points, for the gradient there too")] = (),
    by: Annotated[Literal["total", "pair"], arg(help="the stream's share, or that of every layer pair")] = "total",
    logged: Annotated[bool, arg(help="what 'train --gradients-every' logged, instead of the checkpoints")] = False,
    root: Root = Path("runs"),
) -> None:
    """Split the gradient at every checkpoint into direct and stream share; write and draw the shares."""
    from experiments.commands import run_commands as commands

    commands.gradients(run, root, n, split, activations, by, logged)


def demo(
    size: Annotated[
        str, arg(help="'standard' (12 runs, minutes) or 'smallest' (only shows that it runs)")
    ] = "standard",
    out: Annotated[Path, arg(help="where the page and the figures go")] = Path("demo"),
    images: Annotated[bool, arg(help="the figures as PNG and SVG too; needs kaleido and a browser")] = False,
    root: Root = Path("runs"),
) -> None:
    """Train four variants, ask everything of them, print the table and write one page with all figures."""
    from experiments.commands import run_commands as commands

    commands.demo(size, root, out, images)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "runs": runs,
    "variants": variants,
    "describe": describe,
    "patch": patch,
    "paths": route_cli.paths,
    "attribute": route_cli.attribute,
    "ablate": ablate,
    "heads": heads,
    "gradients": gradients,
    "circuit": route_cli.circuit,
    "ioi": lm_cli.ioi,
    "corpus": lm_cli.corpus,
    "sweep": sweep.sweep,
    "collect": sweep.collect,
    "amicl": study.amicl,
    "mechanism": study.mechanism,
    "lm-mechanism": study.lm_mechanism,
    "lm-cost": study.lm_cost,
    "figures": study.figures,
    "reproduce": study.reproduce,
}


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as the sentence that it is."""
    print(f"warning: {message}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for an error that a sentence explains, 130 after an interrupt."""
    # Two threads on matrices of this size are many times slower than one; workers use the other cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    describe_all = "Mechanistic interpretability of transformers with residual attention streams."
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="valuestream", description=describe_all, args=arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads the output has had enough (`valuestream runs | head -1`), which is no error of anyone's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted; every run is saved: give the same command again to go on", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("VALUESTREAM_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
