"""What can be said of the heads of a classifier in context, in one tidy frame."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.heads.attention_scores import WHOLE, AttentionScore, HeadScores, one_table, score_heads, tidy
from analysis.heads.composition import CONVENTION, has_fixed_gains, head_composition
from analysis.heads.copying import CopyRoute, copy_score
from analysis.heads.progress_measures import cla
from analysis.heads.retrieval import score_retrieval
from analysis.pairs import Pair
from circuits.model import HookedStreamTransformer
from experiments.tasks.in_context.batches import ICLBatch

Labels = tuple[Float[Tensor, "label d_input"], Int[Tensor, " label"]]
"""Every label as an input without a position, and its number."""


def scored(
    model: HookedStreamTransformer, batch: ICLBatch, scores: Sequence[AttentionScore], labels: Labels
) -> HeadScores:
    """Return all head scores of a model: layer, head, partner, score, value, stderr, n, convention.

    The attention ``scores`` and retrieval over the sequences of ``batch``; copying of the task's labels (n counts
    labels); composition, where ``partner`` names the earlier head (exact: n = 1, no error); and "cla", which is of the
    whole model, as a row with layer and head ``WHOLE``. Where the stream's gains depend on the input, what needs one
    linear map of it is left out.

    Raises:
        ValueError: for a model in training mode.
    """
    dtype = model.cfg.dtype
    inputs, (vectors, numbers) = batch.inputs.to(dtype), labels
    frames = [
        score_heads(model, inputs, scores),
        _context_labels(model, inputs, batch.context_labels),
        score_retrieval(model, Pair.one_sided(inputs, batch.labels), batch.holds_answer),
        *(copy_score(model, vectors.to(dtype), numbers, route, top_k=1) for route in _routes(model)),
        *([_composed(model)] if model.config.n_layers > 1 else []),
    ]
    return one_table(frames)


def _routes(model: HookedStreamTransformer) -> list[CopyRoute]:
    carried = has_fixed_gains(model) and model.config.stream_into("v")
    return ["own", "stream", "mixed"] if carried else ["own"]


@torch.no_grad()
def _context_labels(model: HookedStreamTransformer, inputs: Tensor, labels: Int[Tensor, "batch pair"]) -> pd.DataFrame:
    probabilities = model(inputs)[:, -1].softmax(-1)
    values = cla(probabilities, labels)[:, None]
    return tidy(WHOLE, "cla", values, "probability, summed, of the labels that occur in the context").assign(head=WHOLE)


def _composed(model: HookedStreamTransformer) -> pd.DataFrame:
    frame = head_composition(model, stream=has_fixed_gains(model)).to_frame()
    partner = [f"L{layer}H{head}" for layer, head in zip(frame.from_layer, frame.from_head, strict=True)]
    frame = frame.rename(columns={"to_layer": "layer", "to_head": "head", "score": "value"})
    return frame.assign(score=frame.kind + " composition", partner=partner, stderr=0.0, n=1, convention=CONVENTION)
