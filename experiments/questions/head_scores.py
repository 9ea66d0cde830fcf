"""Everything that can be said of the heads of a model, in one tidy frame."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from analysis.heads.attention_scores import AttentionScore, score_heads, tidy
from analysis.heads.composition import CONVENTION, has_fixed_gains, head_composition
from analysis.heads.copying import CopyRoute, copy_score
from analysis.heads.progress_measures import cla
from analysis.heads.retrieval import score_retrieval
from analysis.pairs import Pair
from circuits.model import HookedStreamTransformer
from experiments.tasks.in_context.batches import ICLBatch
from experiments.tasks.in_context.task import ICLTask

WHOLE = -1
"""Stands for layer and head where a row is of the whole model."""


def scored(model: HookedStreamTransformer, task: ICLTask, batch: ICLBatch) -> pd.DataFrame:
    """Return all head scores of a model: layer, head, partner, score, value, stderr, n, convention.

    The task's attention scores and retrieval over the sequences of ``batch``; copying of the task's labels (n counts
    labels); composition, where ``partner`` names the earlier head (exact: n = 1, no error); and "cla", which is of the
    whole model, as a row with layer and head ``WHOLE``. Where the stream's gains depend on the input, what needs one
    linear map of it is left out.

    Raises:
        ValueError: for a model in training mode.
    """
    frames = [
        score_heads(model, batch.inputs, task.head_scores(batch)),
        _context_labels(model, batch),
        score_retrieval(model, Pair.one_sided(batch.inputs, batch.labels), batch.holds_answer),
        *(copy_score(model, *task.label_inputs(), route, top_k=1) for route in _routes(model)),
        *([_composed(model)] if model.config.n_layers > 1 else []),
    ]
    whole = pd.concat([frame.assign(partner=frame.get("partner", "")) for frame in frames], ignore_index=True)
    return whole[["layer", "head", "partner", "score", "value", "stderr", "n", "convention"]]


def scored_prompts(model: HookedStreamTransformer, scores: Sequence[AttentionScore], pair: Pair) -> pd.DataFrame:
    """Return the attention scores and retrieval of a language model's heads on a pair's clean prompts, as
    :func:`scored`.

    Raises:
        ValueError: for a model in training mode.
    """
    frames = [
        score_heads(model, pair, scores),
        score_retrieval(model, pair),
    ]
    whole = pd.concat(frames, ignore_index=True).assign(partner="")
    return whole[["layer", "head", "partner", "score", "value", "stderr", "n", "convention"]]


def _routes(model: HookedStreamTransformer) -> list[CopyRoute]:
    carried = has_fixed_gains(model) and model.config.stream_into("v")
    return ["own", "stream", "mixed"] if carried else ["own"]


@torch.no_grad()
def _context_labels(model: HookedStreamTransformer, batch: ICLBatch) -> pd.DataFrame:
    probabilities = model(batch.inputs)[:, -1].softmax(-1)
    values = cla(probabilities, batch.context_labels)[:, None]
    return tidy(WHOLE, "cla", values, "probability, summed, of the labels that occur in the context").assign(head=WHOLE)


def _composed(model: HookedStreamTransformer) -> pd.DataFrame:
    frame = head_composition(model, stream=has_fixed_gains(model))
    partner = [f"L{layer}H{head}" for layer, head in zip(frame.from_layer, frame.from_head, strict=True)]
    frame = frame.rename(columns={"to_layer": "layer", "to_head": "head", "score": "value"})
    return frame.assign(score=frame.kind + " composition", partner=partner, stderr=0.0, n=1, convention=CONVENTION)
