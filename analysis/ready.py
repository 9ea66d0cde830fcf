"""What questions ask of a model first: evaluation mode, no hooks where it is run by other code than forward, gradients
where they are compared, and weights that are numbers where nothing else is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from circuits.attention import Attention
from circuits.block import Block
from circuits.common.errors import require
from circuits.model import HookedStreamTransformer


class NotFiniteError(ValueError):
    """Weights, or numbers that a model makes of them, that are NaN or infinite."""


def require_eval_mode(model: HookedStreamTransformer, operation: str) -> None:
    """Raise ``ValueError`` if any part of the model is in training mode."""
    training = [name or "the model itself" for name, part in model.named_modules() if part.training]
    more = f" and {len(training) - 3} more" if len(training) > 3 else ""
    require(
        not training,
        f"{operation} requires the whole model to be in evaluation mode; found training mode at "
        f"{', '.join(training[:3])}{more}. Call model.eval() before",
    )


def require_no_hooks(model: HookedStreamTransformer, operation: str) -> None:
    """Raise ``ValueError`` if anything listens at the model: it is run by code that would call some hooks, not all.

    So it is of a model some of whose parts run by a ``forward`` of their own.
    """
    parts = {"the model": (model, HookedStreamTransformer)}
    for layer, block in enumerate(model.layers):
        parts |= {f"blocks.{layer}": (block, Block), f"blocks.{layer}.attn": (block.attn, Attention)}
    other = [name for name, (part, ours) in parts.items() if type(part).forward is not ours.forward]
    require(
        not other,
        f"{', '.join(other[:3])} runs by a forward of its own, and {operation} would not call it; make the change by "
        f"hooks or interventions where the question is answered, or ask the model of circuits",
    )
    hooked = model.hooked_modules()
    more = f" and {len(hooked) - 3} more" if len(hooked) > 3 else ""
    require(
        not hooked,
        f"hooks are attached at {', '.join(hooked[:3])}{more}; {operation} runs the model part by part, where some of "
        f"them would not fire: call model.reset_hooks() (those of other tools go by their handles), or ask the model "
        f"outside of the block that attaches them",
    )


def require_finite(what: str, values: Tensor) -> None:
    """Raise ``NotFiniteError`` if numbers that a model made hold NaN or infinity."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        raise NotFiniteError(
            f"{what} hold NaN or infinity in {int(bad.sum())} of {bad.numel()} places: so do the weights or inputs, "
            f"or numbers grow too large for their precision; correct those, or take an earlier checkpoint"
        )


def require_finite_weights(model: HookedStreamTransformer, operation: str) -> None:
    """Raise ``NotFiniteError`` if any parameter holds NaN or infinity: where no logits are made, nothing else tells."""
    every = dict(model.named_parameters())
    bad = [name for name, parameter in every.items() if not bool(torch.isfinite(parameter).all())]
    if bad:
        raise NotFiniteError(
            f"{len(bad)} of {len(every)} weights hold NaN or infinity (first: {', '.join(bad[:3])}), and {operation} "
            f"needs numbers; take a checkpoint from before, or correct them"
        )


def require_gradients(model: HookedStreamTransformer, operation: str, *inputs: Tensor) -> None:
    """Raise ``ValueError`` where no gradient can be had: in inference mode, or of tensors that were made there.

    What ``torch.no_grad()`` switches off can be switched on again where gradients are wanted.
    """
    made_there = any(tensor.is_inference() for tensor in (*model.parameters(), *inputs))
    require(
        not torch.is_inference_mode_enabled() and not made_there,
        f"{operation} takes gradients, and torch.inference_mode() keeps none: leave it, and make the model and its "
        f"inputs outside of it, too",
    )
