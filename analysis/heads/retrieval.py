"""Retrieval heads: which head copies the answer from where it stands."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from analysis.heads.attention_scores import HeadScores, is_pattern, tidy
from analysis.metrics import check_logits, precise, read
from analysis.pairs import Pair, check_readable, is_padding
from analysis.ready import require_eval_mode
from circuits.model import HookedStreamTransformer

RETRIEVAL = "share of answers whose position has the head's largest attention and that the model says; between 0 and 1"


@torch.no_grad()
def score_retrieval(
    model: HookedStreamTransformer, pair: Pair, holds: Bool[Tensor, "batch pos"] | None = None
) -> HeadScores:
    """Return every head's retrieval score on a pair's clean inputs, in the columns of :func:`score_heads`.

    It is the share of answers that a head copies and pastes: from the position that is read it attends most to a
    position that holds the answer, and the model says the answer. An answer that the model misses counts for no head.
    ``holds`` says which positions hold the answer; by default, where tokens equal it and are no padding. Inputs without
    a counterfactual are a ``Pair.one_sided(inputs, answers)``.

    Raises:
        ValueError: for a model in training mode, a pair that the model cannot answer or that is read at padding,
            ``holds`` of another shape, or vectors without it.

    Source: Wu et al., arXiv 2404.15574.
    """
    require_eval_mode(model, "scoring retrieval")
    check_readable(model, pair)
    inputs, answers = pair.clean, pair.answers
    if holds is None:
        if inputs.is_floating_point():
            raise ValueError("inputs that are vectors do not say which positions hold the answer; pass holds=")
        holds = (inputs == answers[:, None]) & ~is_padding(model, pair)
    if holds.shape != inputs.shape[:2] or holds.dtype != torch.bool:
        raise ValueError(
            f"holds is {tuple(holds.shape)} of {holds.dtype}, but inputs have (batch, pos) = "
            f"{tuple(inputs.shape[:2])}; it says True where the answer stands"
        )
    logits, cache = model.run_with_cache(inputs, names_filter=is_pattern)
    rows, read_at = torch.arange(len(inputs), device=logits.device), pair.reads
    there = read(logits, pair.read_at)
    check_logits(there)
    said = there.argmax(-1) == answers
    frames = []
    for layer in range(model.config.n_layers):
        largest = cache["pattern", layer].transpose(1, 2)[rows, read_at].argmax(-1)
        copied = holds.gather(1, largest) & said[:, None]
        frames.append(tidy(layer, "retrieval", precise(copied), RETRIEVAL))
    return HeadScores(pd.concat(frames, ignore_index=True))
