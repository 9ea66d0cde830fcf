"""What is asked of trained runs to tell which heads and routes do it: one call over their checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from circuits.common.errors import require
from experiments.questions.ablate import Ablate
from experiments.questions.circuit import FindCircuit, circuit_frame
from experiments.questions.heads import Heads
from experiments.questions.patch import Patch
from experiments.questions.paths import Paths
from experiments.runs.pooling import labelled
from experiments.runs.run import Run

PLATEAU, MIDDLE, LEARNED = 0.3, 0.6, 0.95
"""In-context accuracies by which phases are told apart: any label of the context is right a quarter of the time."""
PATCHED = ("state", "resid_pre", "k", "v")
HEAD_CHECKPOINTS = 12
"""Of more checkpoints than so many, head scores are taken at evenly spaced ones."""


def phases(run: Run) -> dict[str, int]:
    """Return the checkpoint of every phase that a run's checkpoints show: before, within, after, end.

    Before: the last with in-context accuracy below ``PLATEAU``; within: the nearest to ``MIDDLE``; after: the first
    from ``LEARNED`` on; end: the last. Between two evaluations the accuracy is that of the straight line.

    Raises:
        ValueError: for a run with fewer than two checkpoints.
    """
    metrics = run.metrics()
    seen = metrics[(metrics.split == "ic") & (metrics.measure == "accuracy")]
    steps = np.array([step for step in run.checkpoints() if seen.step.min() <= step <= seen.step.max()])
    require(
        len(steps) > 1,
        f"{run.path.name} has {len(steps)} evaluated checkpoint(s); phases want several: train it with checkpoint_at",
    )
    accuracy = np.interp(steps, seen.step, seen["value"])
    low, high = steps[accuracy < PLATEAU], steps[accuracy >= LEARNED]
    found = {"before": int(low.max())} if len(low) else {}
    found |= {"within": int(steps[np.abs(accuracy - MIDDLE).argmin()])}
    found |= {"after": int(high.min())} if len(high) else {}
    return found | {"end": int(steps.max())}


def study(runs: Sequence[Run], n: int = 256, progress: bool = True) -> dict[str, pd.DataFrame]:
    """Return what can be said of the mechanism of runs, by name of frame; every row names run, variant, seed, preset.

    "mechanism_heads": head scores over checkpoints. Per phase (columns phase, step): "mechanism_patches": every layer,
    role and route patched; "mechanism_shares": every head's effect by route; "mechanism_ablations": what breaks without
    a head, its halves, the stream, single edges. "mechanism_edges": each run's circuit at its end, edge by edge, with
    its faithfulness and minimality; "mechanism_circuits": how much of the behaviour it carries at each phase.

    Raises:
        ValueError: as :func:`phases`.
    """
    frames = defaultdict[str, list[pd.DataFrame]](list)
    for run in tqdm(runs, unit=" runs", disable=not progress):
        for name, frame in _of_run(run, n).items():
            frames[name].append(labelled(frame, run).assign(preset=run.config.preset))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}


def _of_run(run: Run, n: int) -> dict[str, pd.DataFrame]:
    at, steps = phases(run), run.checkpoints()
    every = -(-len(steps) // HEAD_CHECKPOINTS)
    # All edges without which more than 2 % of the logit difference is lost, by EAP-IG.
    circuit = FindCircuit(n=n, threshold=0.02)
    scores, quality = circuit.ask(run)
    named = {step: phase for phase, step in reversed(at.items()) if phase != "before"}
    followed = circuit.follow(run, quality.circuit, sorted(named)).to_frame()
    heads = Heads(n=n, checkpoints=tuple(sorted({*steps[::every], *at.values()})))

    def patches(step: int) -> pd.DataFrame:
        return Patch(n=n, step=step, components=PATCHED).ask(run).to_frame()

    def ablations(step: int) -> pd.DataFrame:
        whole = Ablate(n=n, step=step).ask(run)
        edges = Ablate(n=n, step=step, edges=("each",), method=("mean",)).ask(run)
        return pd.concat([whole.frame.assign(what="site"), edges.frame.assign(what="edge")], ignore_index=True)

    return {
        "mechanism_heads": heads.ask(run).to_frame(),
        "mechanism_patches": _each(at, patches),
        "mechanism_shares": _each(at, lambda step: Paths(n=n, step=step).ask(run)[1].to_frame()),
        "mechanism_ablations": _each(at, ablations),
        "mechanism_edges": circuit_frame(scores, quality),
        "mechanism_circuits": followed.assign(phase=followed.step.map(named)),
    }


def _each(at: dict[str, int], ask: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([ask(step).assign(phase=phase, step=step) for phase, step in at.items()], ignore_index=True)
