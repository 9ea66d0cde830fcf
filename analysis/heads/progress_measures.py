"""Progress measures of in-context classification: plain functions of attention patterns and probabilities.

Tokens may stand in any order; ``items`` and ``labels`` say where the context's items and labels are along an axis of a
pattern, pair k of the context being (items[k], labels[k]). Source: Reddy, arXiv 2312.03002, section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ila(first_pattern: Float[Tensor, "batch query key"], items: Tensor, labels: Tensor) -> Float[Tensor, " batch"]:
    """Return, per example, the first layer's attention from each label to its item, averaged over the labels."""
    return first_pattern[:, labels, items].mean(-1)


def tila(
    last_attention: Float[Tensor, "batch key"], labels: Tensor, matches: Bool[Tensor, "batch pair"]
) -> Float[Tensor, " batch"]:
    """Return, per example, the last layer's attention from the target to the labels of its class, summed."""
    return (last_attention[:, labels] * matches).sum(-1)


def tla(last_attention: Float[Tensor, "batch key"], labels: Tensor) -> Float[Tensor, " batch"]:
    """Return, per example, the last layer's attention from the target to all labels, summed."""
    return last_attention[:, labels].sum(-1)


def cla(
    probabilities: Float[Tensor, "batch label"], context_labels: Int[Tensor, "batch pair"]
) -> Float[Tensor, " batch"]:
    """Return, per example, the total probability of labels that occur in the context, each counted once."""
    present = torch.zeros_like(probabilities).scatter_(1, context_labels, 1.0)
    return (probabilities * present).sum(-1)
