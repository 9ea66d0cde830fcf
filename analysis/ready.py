"""What questions ask of a model first: evaluation mode, and no hooks where it is run by other code than forward."""

from __future__ import annotations

from circuits.attention import Attention
from circuits.block import Block
from circuits.common.errors import require
from circuits.model import HookedStreamTransformer


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
