"""Questions to a run: the functions of ``analysis`` on its task and its checkpoints, each a tidy frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from analysis import ablate, find_sites, patch, score_heads, split_gradient
from analysis.drawing import draw
from analysis.patching import Direction, PatchResult
from circuits.model import HookedStreamTransformer
from circuits.sites import Site
from experiments.runs import Run
from experiments.tasks.icl import ROLES

PATCHED = ("state", "resid_pre", "q", "k", "v", "z")


def patched_sites(
    model: HookedStreamTransformer,
    components: Sequence[str] = PATCHED,
    routes: Sequence[str] | None = None,
    heads: Literal["all", "each"] = "all",
    positions: Sequence[int | str] = ROLES,
) -> list[Site]:
    """Return the sites of a patch sweep: layers x components x routes x position roles."""
    return find_sites(model, components, routes, heads=heads, positions=positions)


def patch_run(
    run: Run,
    n: int = 128,
    corruption: str = "labels",
    metric: str = "logit_difference",
    direction: Direction = "denoise",
    step: int = -1,
    max_memory: int | None = None,
    progress: bool = False,
    **which: Any,
) -> PatchResult:
    """Return the patch sweep of a run's model over ``n`` pairs; ``which`` goes to :func:`patched_sites`.

    Raises:
        RunError: if there is no checkpoint at ``step``.
        ValueError: as :func:`analysis.patch`.
    """
    model, pair = run.load_model(step), run.task().pairs(n, corruption)
    return patch(model, pair, patched_sites(model, **which), metric, direction, max_memory, progress)


def heads_run(run: Run, n: int = 256, split: str = "ic", progress: bool = False) -> pd.DataFrame:
    """Return the head scores of every checkpoint of a run: step, layer, head, score, value, stderr, n."""
    task = run.task()
    batch = task.sample(n, split, seed=1)
    scores = task.head_scores(batch)
    return _over_checkpoints(run, lambda model: score_heads(model, batch.inputs, scores), progress)


def ablate_run(run: Run, n: int = 512, split: str = "ic", step: int = -1) -> pd.DataFrame:
    """Return every standard ablation of a run's model on ``n`` sequences of a split."""
    batch = run.task().sample(n, split, seed=1)
    return ablate(run.load_model(step), batch.inputs, batch.labels)


def gradients_run(run: Run, n: int = 256, split: str = "train", progress: bool = False) -> pd.DataFrame:
    """Return the split of the loss's gradient at every checkpoint: step, parameter, head, norms, shares, cosines."""
    batch = run.task().sample(n, split, seed=2**40)  # no step trains on this batch

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, -1], batch.labels)

    return _over_checkpoints(run, lambda model: split_gradient(model, loss, batch.inputs).to_frame(), progress)


def _over_checkpoints(run: Run, ask: Any, progress: bool) -> pd.DataFrame:
    steps = run.checkpoints()
    shown = tqdm(steps, unit=" checkpoints", disable=not progress, leave=False, delay=2)
    frames = [ask(run.load_model(step)).assign(step=step) for step in shown]
    return pd.concat(frames, ignore_index=True)


def labelled(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return a frame that says which run, variant and seed it is of."""
    return frame.assign(run=run.path.name, variant=run.config.variant, seed=run.config.seed)


def all_metrics(runs: Iterable[Run]) -> pd.DataFrame:
    """Return the metrics of several runs, with columns run, variant, seed, step, split, measure, value."""
    return pd.concat([labelled(run.metrics(), run) for run in runs], ignore_index=True)


def keep(run: Run, analysis: str, frame: pd.DataFrame) -> list[Path]:
    """Write a result of a run, tidy and drawn (``results/<analysis>.parquet``, ``.json``, ``.html``); return paths."""
    frame = labelled(frame, run)
    parquet = run.write_result(analysis, frame)
    drawn = draw("render", draw(analysis, frame), parquet.with_suffix(""), shared=run.path.parent)
    return [parquet, *drawn]
