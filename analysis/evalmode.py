"""One rule for every measurement: the model is in evaluation mode."""

from __future__ import annotations

from transformer_lens.tools.analysis._model_state import require_eval_mode as _require

from circuits.model import HookedStreamTransformer


def require_eval_mode(model: HookedStreamTransformer, operation: str) -> None:
    """Raise ``ValueError`` if any part of the model is in training mode."""
    _require(model, operation=operation)
