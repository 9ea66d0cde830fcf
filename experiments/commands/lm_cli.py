"""Commands on language models. Only names and help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from experiments.commands.route_cli import Root

Sizes = Annotated[str, arg(help="0.2m, 1m, 3m (small vocabularies), 8m (as published) or 1b")]
Tasks = Annotated[str, arg(help="stories, ioi, repeats, nested, or text (with --corpus and --tokenizer)")]


Interventions = Annotated[
    Path | None,
    arg(
        help='a JSON list of what is done to activations, each like {"site": {"layer": 0, "component": "pattern"}, '
        '"operation": {"type": "Attend", "to": "previous"}, "strength": 1.0, "first": 0, "last": 500}; types: '
        "Zero, Mean, Clamp (value), Attend (to), Resample (seed), FromRun (checkpoint), Freeze, CutForward, "
        "CutGradient"
    ),
]


@dataclass(frozen=True)
class TrainLM:
    """Train a language model on generated stories or other tokens, or all variants x seeds side by side."""

    size: Sizes = "0.2m"
    task: Tasks = "stories"
    variant: Annotated[str, arg(help="a named mixing rule; 'valuestream variants' lists them")] = "value"
    variants: Annotated[tuple[str, ...], arg(help="several of them, instead of --variant")] = ()
    seed: Annotated[int, arg(help="of weights and data; equal seeds pair variants")] = 0
    seeds: Annotated[tuple[int, ...], arg(help="several of them, instead of --seed")] = ()
    corpus: Annotated[
        str | None, arg(help="for the task text: a .txt, .jsonl or .parquet file, a folder, or a name on the hub")
    ] = None
    column: Annotated[str, arg(help="the corpus' column of texts")] = "text"
    tokenizer: Annotated[
        str | None, arg(help="for the task text: a tokenizer.json, a folder, or a name on the hub")
    ] = None
    window: Annotated[int | None, arg(help="tokens in a window, instead of the task's")] = None
    steps: Annotated[int | None, arg(help="updates, instead of the size's")] = None
    optimizer: Annotated[
        Literal["adam", "adamw"] | None,
        arg(help="adam: a constant rate, as published; adamw: warm-up and cosine (default: the size's)"),
    ] = None
    rate: Annotated[float | None, arg(help="learning rate, instead of the size's")] = None
    batch: Annotated[int | None, arg(help="windows in an update")] = None
    accumulate: Annotated[int | None, arg(help="in so many parts, one after the other")] = None
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, arg(help="of products, where the device has it (default: the size's)")
    ] = None
    dropout: Annotated[float | None, arg(help="instead of the size's")] = None
    evaluate_every: Annotated[int | None, arg(help="steps between evaluations")] = None
    checkpoint_every: Annotated[int | None, arg(help="steps between checkpoints")] = None
    gradients_every: Annotated[int | None, arg(help="steps between splits of the gradient by route")] = None
    interventions: Interventions = None
    compute: Annotated[Literal["auto", "eager", "compiled"], arg(help="auto compiles on a GPU")] = "auto"
    device: Annotated[str, arg(help="cpu or cuda")] = "cpu"
    workers: Annotated[int | None, arg(help="processes, each with runs of its own (default: one a core)")] = None
    prepare: Annotated[
        bool,
        arg(
            help="only make the run's directory and print it, for 'torchrun -m experiments.training.several_processes'"
        ),
    ] = False
    root: Root = Path("runs")


def ioi(
    runs: Positional[Annotated[tuple[str, ...], arg(help="directories, names, ids, or the beginnings of either")]],
    n: Annotated[int, arg(help="prompts in every set (of the paper's, all eight)")] = 200,
    step: Annotated[int, arg(help="checkpoint (default: the last)")] = -1,
    body: Annotated[
        str | None, arg(help="run the weights as this variant; another architecture than theirs needs --transplant")
    ] = None,
    transplant: Annotated[
        bool, arg(help="also run classic weights in a value-stream body and the others in a classic one")
    ] = False,
    by: Annotated[
        Literal["set", "template", "order"], arg(help="a row a set, a template, or an order of the names (ABBA, BABA)")
    ] = "set",
    root: Root = Path("runs"),
) -> None:
    """Measure indirect-object identification of runs: matched, and transplanted; the paper's prompts as its table.

    Intervals are over prompts for one run and over seeds for several of a variant. Always in evaluation mode.
    """
    from experiments.commands import lm_commands

    lm_commands.ioi(runs, n, step, body, transplant, by, root)


def corpus(
    task: Positional[Annotated[Literal["stories"], arg(help="the generated corpus")]] = "stories",
    n: Annotated[int, arg(help="windows to count on")] = 2_000,
    seed: Annotated[int, arg(help="of the draws")] = 0,
    show: Annotated[int, arg(help="windows to print")] = 3,
) -> None:
    """Print some stories and what the corpus is made of: words, names, shares of sentences of every kind."""
    from experiments.commands import lm_commands

    lm_commands.corpus(n, seed, show)
