"""What the second layer's values are made of at label tokens, through training: sizes, overlaps, and how much of each
part tells the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.model import HookedStreamTransformer
from experiments.runs.pooling import labelled
from experiments.runs.run import Run
from experiments.tasks.in_context.batches import ICLBatch

PARTS = ("input", "first layer", "stream", "own", "used")
"""Of the values: by the layer's own matrix from the residual stream at the start, and from what the first layer wrote;
what comes in through the stream; the first two together; all of it."""
Values = Float[Tensor, "token d_head"]


def study(runs: Sequence[Run], n: int = 512, progress: bool = True) -> dict[str, pd.DataFrame]:
    """Return the frame "interference": a row a run, checkpoint and part of ``PARTS`` that its model has.

    Columns: ``size``, the root mean square norm; ``overlap``, the mean cosine with the part from the input; ``signal``,
    the share of its variance over tokens that lies between labels, and not within one. All of the label tokens of n
    sequences of novel classes.
    """
    frames = []
    for run in tqdm(runs, unit=" runs", disable=not progress):
        batch = run.task().sample(n, "ic", seed=1)
        rows = [{"step": step} | row for step in run.checkpoints() for row in _rows(run.load_model(step), batch)]
        frames.append(labelled(pd.DataFrame(rows), run))
    return {"interference": pd.concat(frames, ignore_index=True)}


@torch.no_grad()
def _rows(model: HookedStreamTransformer, batch: ICLBatch) -> list[dict[str, float | str]]:
    parts = value_parts(model, batch)
    labels = batch.context_labels.flatten()
    of_input = parts["input"]
    return [
        {
            "part": name,
            "size": part.square().sum(-1).mean().sqrt().item(),
            "overlap": torch.cosine_similarity(part, of_input, dim=-1).mean().item(),
            "signal": signal_share(part, labels),
        }
        for name, part in parts.items()
    ]


def value_parts(model: HookedStreamTransformer, batch: ICLBatch) -> Mapping[str, Values]:
    """Return the second layer's values at the label tokens of a batch, part by part as ``PARTS`` names them.

    The model is the in-context classifier of two layers and one head, which has no norm, so that values are sums.
    """
    _, cache = model.run_with_cache(batch.inputs)
    attn: Any = model.blocks[1].attn
    start, written = cache["blocks.0.hook_resid_pre"], cache["blocks.0.hook_attn_out"]
    parts = {"input": attn.project_one(start, "v"), "first layer": attn.project_one(written, "v")}
    if model.config.streams:
        parts["stream"] = cache["blocks.1.attn.hook_v_residual"]
    parts["own"] = parts["input"] + parts["first layer"]
    parts["used"] = cache["blocks.1.attn.hook_v_mixed" if model.config.streams else "blocks.1.attn.hook_v"]
    # A sequence is item, label, item, label, ..., and the item that is asked about.
    return {name: part[:, 1:-1:2, 0].flatten(0, 1) for name, part in parts.items()}


def signal_share(values: Values, labels: Int[Tensor, " token"]) -> float:
    """Return the share of the variance of values that lies between labels: 1 if a label fixes its value, 0 if the mean
    of every label is the same."""
    total = (values - values.mean(0)).square().sum()
    within = sum(
        (values[labels == label] - values[labels == label].mean(0)).square().sum() for label in labels.unique()
    )
    return float(1 - within / total)
