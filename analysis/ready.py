"""What questions ask of a model first: evaluation mode, and no hooks where it is run by other code than forward."""

from __future__ import annotations

from transformer_lens.tools.analysis._model_state import require_eval_mode as _require

from circuits.errors import require
from circuits.model import HookedStreamTransformer


def require_eval_mode(model: HookedStreamTransformer, operation: str) -> None:
    """Raise ``ValueError`` if any part of the model is in training mode."""
    _require(model, operation=operation)


def require_no_hooks(model: HookedStreamTransformer, operation: str) -> None:
    """Raise ``ValueError`` if anything listens at the model: it is run by code that would call some hooks, not all."""
    hooked = model.hooked_modules()
    more = f" and {len(hooked) - 3} more" if len(hooked) > 3 else ""
    require(
        not hooked,
        f"hooks are attached at {', '.join(hooked[:3])}{more}; {operation} runs the model part by part, where some of "
        f"them would not fire: call model.reset_hooks() (those of other tools go by their handles), or ask the model "
        f"outside of the block that attaches them",
    )
