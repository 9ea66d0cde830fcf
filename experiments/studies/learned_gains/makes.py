"""What models of others have beside their streams, at a small size: nanochat's parts, modded-nanogpt's, Llama's."""

from __future__ import annotations

from typing import Any

from circuits.config.layers import MLP, Backout, QKNorm, ResidualScalars, Rotary, Smear
from circuits.presets import LM_SIZES

SIZE = "0.2m"
_SIZE = LM_SIZES[SIZE]

_ROTARY_ONLY: dict[str, Any] = {"positions": "none", "biases": False, "tied_embedding": False}
_MODDED: dict[str, Any] = {
    **_ROTARY_ONLY,
    "normalization": "RMSPre",
    "norm_eps": None,
    "embedding_norm": "RMSPre",
    "rotary": Rotary(backwards=True),
    "qk_norm": QKNorm(eps=None),
    "mlp": MLP(4 * _SIZE.d_model, "relu2", biases=False),
    "residual_scalars": ResidualScalars(),
}
_NANOCHAT: dict[str, Any] = {
    **_MODDED,
    "rotary": Rotary(1e5, backwards=True),
    "qk_norm": QKNorm(after_rotary=True, scale=1.2, eps=None),
    "logit_softcap": 15.0,
    "residual_scalars": ResidualScalars((1.15, 1.05), (0.2, 0.05)),
    "smear": Smear(),
    "backout": Backout(_SIZE.n_layers // 2),
}
_LLAMA: dict[str, Any] = {
    **_ROTARY_ONLY,
    "normalization": "RMS",
    "rotary": Rotary(),
    "mlp": MLP(176, "silu", gated=True, biases=False),
}

MAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "nanochat": ("nanochat's parts", _NANOCHAT),
    "modded-nanogpt": ("modded-nanogpt's parts", _MODDED),
    "modded-nanogpt-embeddings": ("modded-nanogpt's parts", _MODDED),
    "resformer-learned": ("Llama's parts", _LLAMA),
}
"""By rule, the condition that its runs are of and fields of :class:`circuits.config.model.ModelConfig`."""
