"""An edge of the residual stream that is cut while a model runs: one projection does not read what one part wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from circuits.common.errors import require
from circuits.interventions.intervention import Intervention, Without
from circuits.layers import Norm
from circuits.model import HookedStreamTransformer


def edge_points(intervention: Intervention) -> tuple[str, ...]:
    """Return the hook points whose activations say what an edge carries, before its end runs: what its reader reads,
    and what its sender wrote; none for what cuts no edge."""
    cut = intervention.operation
    if not isinstance(cut, Without):
        return ()
    return f"blocks.{intervention.site.layer}.hook_resid_pre", f"blocks.{cut.layer}.hook_{cut.component}"


def without_edge(model: HookedStreamTransformer, intervention: Intervention, kept: Mapping[str, Tensor]) -> Tensor:
    """Return a layer's own queries, keys or values (batch pos head d_head) without what an edge carries.

    ``kept`` holds the activations of this pass at :func:`edge_points`, with their gradients.

    Raises:
        ValueError: if the pass began after the sender.
    """
    points = edge_points(intervention)
    require(
        {*points} <= {*kept},
        f"{intervention} takes away what an earlier layer wrote: run the whole model, from its inputs",
    )
    read, sent = (kept[point] for point in points)
    block: Any = model.blocks[intervention.site.layer]
    left = read - sent
    # Hook points have heard what the layer read; that it is read again for one projection is not for them.
    left = block.ln1.unheard(left) if isinstance(block.ln1, Norm) else left
    return block.attn.project_one(left, intervention.site.component)
