"""What the commands do once they are called: ask, write, draw, and print a short table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from circuits import HookedStreamTransformer, icl_config
from circuits import variants as rules
from circuits.common.errors import known, whole
from circuits.common.text_table import as_text
from experiments.cli import TrainICL
from experiments.commands.lm_commands import read_interventions
from experiments.questions import analyses, routes
from experiments.questions.head_scores import WHOLE
from experiments.runs.config import TRAINING, icl_run
from experiments.runs.finding import first_corruption, first_split
from experiments.runs.run import Run, runs_table
from experiments.runs.training_config import Every
from experiments.studies import demonstration
from experiments.sweeps.sweep import sweep
from experiments.tasks.in_context.batches import PRESETS
from figures.models.ablation import ablation_bars
from figures.models.gradients import gradient_pairs, gradient_shares
from figures.models.patching import patch_heat_map
from figures.trainings.learning import head_scores


def _print(frame: pd.DataFrame) -> None:
    print(as_text(frame))


def _written(paths: Sequence[Path]) -> None:
    print("wrote " + ", ".join(str(path) for path in paths))


def train(what: TrainICL) -> None:
    """Train variants x seeds and list how each ended."""
    training = TRAINING[known("preset", what.preset, PRESETS)]
    training = training if what.steps is None else replace(training, steps=what.steps)
    if what.gradients_every is not None:
        training = replace(training, gradients_at=(Every(what.gradients_every),))
    if what.interventions is not None:
        training = replace(training, interventions=read_interventions(what.interventions))
    configs = [
        icl_run(variant, what.preset, seed, training, n_layers=what.layers)
        for seed in what.seeds or (what.seed,)
        for variant in what.variants or (what.variant,)
    ]
    compute = None if what.compute == "auto" else what.compute
    done = sweep(configs, what.root, what.workers, what.device, compute=compute)
    table = runs_table(what.root)
    _print(table[table.run.isin([run.path.name for run in done])])


def runs(root: Path) -> None:
    """List the runs."""
    table = runs_table(root)
    if table.empty:
        print(f"no runs in {root}; train one with: valuestream train icl --variant value --preset small")
    else:
        _print(table)


def variants() -> None:
    """List the named rules."""
    table = pd.DataFrame([{"variant": v.name, "rule": v.says, "source": v.citation} for v in rules.BASE])
    _print(table)
    print("\nEvery rule with a stream also comes as <variant>-stop (forward kept, gradient cut) and")
    print("<variant>-gradient-only (gradient kept, forward cut); svformer only as svformer-stop.")


def describe(variant: str, preset: str, layers: int) -> None:
    """Show what flows where."""
    print(HookedStreamTransformer(icl_config(variant, preset, n_layers=layers)))
    print(f"source: {rules.citation(variant)}")


def patch(
    name: str,
    root: Path,
    top: int,
    n: int,
    corruption: str | None,
    metric: str,
    direction: Any,
    step: int,
    max_memory: int | None,
    which: dict[str, Any],
) -> None:
    """Patch, write, draw, and print the largest effects."""
    whole("top", top)
    run = Run.find(name, root)
    corruption = corruption or first_corruption(run)
    result = analyses.patch_run(run, n, corruption, metric, direction, step, max_memory, progress=True, **which)
    frame = result.to_frame()
    largest = frame.loc[frame.effect.abs().sort_values(ascending=False).index].head(top)
    print(f"{run.path.name}: {len(frame)} sites, {n} pairs ({corruption}), {metric}, {direction}; largest effects:")
    print(analyses.beside(frame))
    _print(largest[["layer", "component", "route", "head", "position", "effect", "low", "high", "p"]])
    _written(analyses.keep(run, "patch", frame, patch_heat_map))


def heads(name: str, root: Path, n: int, split: str | None) -> None:
    """Score heads over checkpoints, write, draw, and print the last."""
    run = Run.find(name, root)
    frame = analyses.heads_run(run, n, split, progress=True)
    print(
        f"{run.path.name}: head scores at step {frame.step.max()} of {frame.step.nunique()} checkpoints, {n} sequences"
    )
    last = frame[frame.step == frame.step.max()]
    whole = last[last.layer == WHOLE]
    alone = last[(last.layer != WHOLE) & (last.partner == "")]
    _print(_wide(alone))
    composed = last[last.partner != ""]
    for rest in (
        composed[["partner", "layer", "head", "score", "value"]],
        whole[["score", "value", "stderr", "convention"]],
    ):
        if len(rest):
            _print(rest)
    _written(analyses.keep(run, "heads", frame, head_scores))


def _wide(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a head and a column a score, in the order in which they were computed."""
    table = scores.pivot(index=["layer", "head"], columns="score", values="value")
    shown = table[list(dict.fromkeys(scores.score))].map(lambda x: "-" if pd.isna(x) else f"{x:.4g}")
    return shown.reset_index()


def ablate(
    name: str,
    root: Path,
    n: int,
    split: str | None,
    step: int,
    methods: Sequence[str],
    from_run: str | None,
    edges: Sequence[str],
) -> None:
    """Ablate sites, or edges if some are named; write, draw, and print everything."""
    run = Run.find(name, root)
    other = None if from_run is None else Run.find(from_run, root)
    if edges:
        wanted = None if list(edges) == ["each"] else edges
        frame = routes.ablate_edges_run(run, wanted, methods, n, split, step, other, progress=True)
    else:
        frame = analyses.ablate_run(run, n, split, step, methods, other, progress=True)
    taken = "" if other is None else f", 'from run' is {other.path.name}"
    of = f" of {split or first_split(run)}"
    print(f"{run.path.name}: ablations on {n} sequences{of}{taken}")
    _print(frame.drop(columns=["n"]))
    _written(analyses.keep(run, "ablate_edges" if edges else "ablate", frame, ablation_bars))


def gradients(
    name: str, root: Path, n: int, split: str, activations: Sequence[str], by: Literal["total", "pair"], logged: bool
) -> None:
    """Split gradients over checkpoints, or take those that were logged; write, draw, and print the attention's."""
    run = Run.find(name, root)
    if logged and (by == "pair" or activations):
        raise ValueError("what was logged are the parameters' shares in total; leave out --by and --activations")
    analysis, columns = "gradients", ["whole", "direct", "stream", "stream_share", "alignment"]
    if by == "pair":
        analysis, columns = "gradient_pairs", ["reader", "source", "read", "fed", "norm", "share", "cosine"]
    ask = analyses.gradient_pairs_run if by == "pair" else analyses.gradients_run
    frame = run.gradients() if logged else ask(run, n, split, True, activations)
    attention = frame[frame.tensor.str.contains("attn")]
    steps = sorted(frame.step.unique())
    shown = attention[attention.step.isin({steps[0], steps[len(steps) // 2], steps[-1]})]
    of = "as logged in training" if logged else f"{n} sequences of {split}"
    print(f"{run.path.name}: gradient of the loss by route, {of}; first, middle and last of {len(steps)} steps:")
    reached = shown[shown.norm > 0] if by == "pair" else shown
    _print(reached[["step", "tensor", "head", *columns]])
    _written(analyses.keep(run, analysis, frame, gradient_pairs if by == "pair" else gradient_shares))


def demo(size: str, root: Path, out: Path, images: bool) -> None:
    """Train, ask, draw, and print the table and the page's path."""
    page = demonstration.demo(size, root, out, images=images)
    print(f"\nopen {page.resolve()}")
