"""The commands paths, attribute and circuit: their options and help; as in :mod:`experiments.cli`, nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

Root = Annotated[Path, arg(help="where run directories are kept")]
RunName = Positional[Annotated[str, arg(help="a run's directory, name or id, or how one of them begins")]]
Step = Annotated[int, arg(help="which checkpoint; -1 is the last")]
Pairs = Annotated[int, arg(help="clean/corrupt pairs")]
Corruption = Annotated[
    str | None,
    arg(
        help="of the classifier: labels (two of the context swapped) or item (another is asked for); of indirect "
        "objects: flip, s2 or abc; default: the first of them"
    ),
]
Split = Annotated[
    str | None,
    arg(help="of the classifier: ic, ic2, iw or test; of indirect objects: train, names, templates, held-out or paper"),
]
Metric = Annotated[str, arg(help="logit_difference, probability or another of analysis.METRICS")]
Direction = Annotated[Literal["denoise", "noise"], arg(help="clean into corrupt, or corrupt into clean")]
Memory = Annotated[
    int | None, arg(help="bytes by which the process may grow, at its peak (default: a quarter of what is free)")
]
Top = Annotated[int, arg(help="rows to print")]


def paths(
    run: RunName,
    senders: Annotated[tuple[str, ...], arg(help="heads, as in L0H0 (default: all)")] = (),
    receivers: Annotated[tuple[str, ...], arg(help="as in L1H0.v, MLP1, logits (default: all)")] = (),
    routes: Annotated[tuple[str, ...], arg(help="residual, stream")] = ("residual", "stream"),
    corruption: Corruption = None,
    n: Pairs = 128,
    metric: Metric = "logit_difference",
    direction: Direction = "denoise",
    step: Step = -1,
    max_memory: Memory = None,
    top: Top = 15,
    root: Root = Path("runs"),
) -> None:
    """Patch every direct path from head to head, by route, and split every head's effect by route; write and draw."""
    from experiments.commands import route_commands

    options: dict[str, Any] = {"routes": routes, "corruption": corruption, "n": n, "metric": metric}
    options |= {"direction": direction, "step": step, "max_memory": max_memory}
    route_commands.paths(run, root, top, senders, receivers, options)


def attribute(
    run: RunName,
    method: Annotated[str, arg(help="of edges: EAP, EAP-IG, exact; of sites: AtP, AtP+QK, 'AtP*', IG")] = "EAP-IG",
    steps: Annotated[int, arg(help="inputs between the two runs, for EAP-IG and IG")] = 5,
    check: Annotated[int, arg(help="edges or sites that are patched exactly, to compare")] = 64,
    components: Annotated[tuple[str, ...], arg(help="of sites")] = ("state", "resid_pre", "q", "k", "v", "z"),
    heads: Annotated[Literal["all", "each"], arg(help="of sites: heads together, or one by one")] = "all",
    corruption: Corruption = None,
    n: Pairs = 128,
    metric: Metric = "logit_difference",
    direction: Direction = "denoise",
    step: Step = -1,
    max_memory: Memory = None,
    top: Top = 15,
    root: Root = Path("runs"),
) -> None:
    """Estimate the effect of every edge or site from gradients, both routes included; say how well it agrees."""
    from experiments.commands import route_commands

    options: dict[str, Any] = {"corruption": corruption, "n": n, "metric": metric, "direction": direction}
    options |= {"step": step, "steps": steps, "check": check, "max_memory": max_memory}
    options |= {"components": components, "heads": heads}
    route_commands.attribute(run, root, top, method, options)


def circuit(
    runs: Positional[Annotated[tuple[str, ...], arg(help="one run or more (seeds, variants), by name")]],
    rule: Annotated[str, arg(help="threshold, or greedy or top with --size")] = "threshold",
    size: Annotated[
        int | None, arg(help="edges of greedy or top, before those on no way from input to logits are left out (20)")
    ] = None,
    threshold: Annotated[
        float | None, arg(help="of |effect|, a share of the clean-corrupt difference, for the rule threshold (0.02)")
    ] = None,
    method: Annotated[str, arg(help="what scores the edges: EAP, EAP-IG or exact")] = "EAP-IG",
    replacement: Annotated[str, arg(help="for edges outside: 'other run', mean or zero")] = "other run",
    checkpoints: Annotated[bool, arg(help="follow the circuit over the run's checkpoints too")] = False,
    steps: Annotated[int, arg(help="inputs between the two runs, for EAP-IG")] = 5,
    corruption: Corruption = None,
    n: Pairs = 128,
    metric: Metric = "logit_difference",
    step: Step = -1,
    max_memory: Memory = None,
    root: Root = Path("runs"),
) -> None:
    """Find each run's circuit of edges by route, with faithfulness, completeness and minimality; write and draw."""
    from experiments.commands import route_commands

    options: dict[str, Any] = {"method": method, "replacement": replacement, "steps": steps, "corruption": corruption}
    options |= {"n": n, "metric": metric, "step": step, "max_memory": max_memory}
    route_commands.circuit(runs, root, rule, size, threshold, checkpoints, options)
