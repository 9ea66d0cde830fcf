"""A pytest plugin that gives transformer-lens' tests a model of ours where they make a TransformerBridge.

As the tests of the 4.x line do, from a name, a configuration, or a model of transformers: ours has the sizes of that,
and none of its weights. OURS, of the environment, says with which stream. Nothing is loaded from a hub.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge, sources
from transformer_lens.model_bridge.sources import _bridge_builder

import tests
from circuits import MLP, HookedStreamTransformer
from circuits.layers import Norm
from tests.circuits.their_tests.models import ONE_LAYER, model_of, tokenizer


def _bridge(n_layers: int, d_vocab: int, speaks: Any, dtype: torch.dtype | None, **fields: Any) -> Any:
    variant = ONE_LAYER if n_layers == 1 and os.environ["OURS"] != "classic" else os.environ["OURS"]
    model = model_of(variant, d_vocab, speaks, n_layers=n_layers, **fields)
    # That transformer-lens' tools for edges are refused on a stream is for tests of ours.
    model.allow_stream_blind_tools()
    return model.to(dtype or torch.float32)


def boot_transformers(name: str, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """Return a model of as many layers as the one of that name."""
    n_layers = 6 if name in ("distilgpt2", "EleutherAI/pythia-14m") else 12
    sizes = {"n_heads": 4, "d_model": 32, "n_ctx": 1024, "mlp": MLP(64)}
    return _bridge(n_layers, len(tokenizer()), tokenizer(), dtype, **sizes)


def boot_native(cfg: Any, **_: Any) -> Any:
    """Return a model of the sizes of a configuration."""
    sizes = {name: getattr(cfg, name) for name in ("n_heads", "d_model", "d_head", "n_ctx", "n_key_value_heads")}
    mlp = None if cfg.attn_only else MLP(cfg.d_mlp or 4 * cfg.d_model)
    return _bridge(cfg.n_layers, cfg.d_vocab, None, cfg.dtype, mlp=mlp, **sizes)


def build_bridge_from_module(hf: Any, architecture: str, *, hf_config: Any, **_: Any) -> Any:
    """Return a model of the sizes of one of transformers'."""
    n_heads, d_model = hf_config.num_attention_heads, hf_config.hidden_size
    fewer = getattr(hf_config, "num_key_value_heads", n_heads)
    sizes = {"n_heads": n_heads, "d_model": d_model, "n_ctx": hf_config.max_position_embeddings}
    mlp = MLP(getattr(hf_config, "intermediate_size", 4 * d_model))
    dtype = next(hf.parameters()).dtype
    kv_heads = None if fewer == n_heads else fewer
    layers = hf_config.num_hidden_layers
    return _bridge(layers, hf_config.vocab_size, None, dtype, mlp=mlp, n_key_value_heads=kv_heads, **sizes)


# What helps their tests is found in the folder of theirs: ``from tests import goldens``.
tests.__path__.append(os.environ["TRANSFORMER_LENS_TESTS"])
for owner, name, value in (
    (TransformerBridge, "boot_transformers", staticmethod(boot_transformers)),
    (TransformerBridge, "boot_native", staticmethod(boot_native)),
    (sources, "build_bridge_from_module", build_bridge_from_module),
    (_bridge_builder, "build_bridge_from_module", build_bridge_from_module),
    # Norms of fresh weights have nothing to fold, and names that a mode would add are there.
    (HookedStreamTransformer, "enable_compatibility_mode", lambda self, **_: None),
    # Where their tests reach into a bridge: the model that it wraps, its points, and the weights of its norms.
    (HookedStreamTransformer, "original_model", property(lambda self: self)),
    (HookedStreamTransformer, "_hook_registry", property(lambda self: self.hook_dict)),
    (Norm, "weight", property(lambda self: self.w)),
    (Norm, "bias", property(lambda self: self.b)),
):
    setattr(owner, name, value)
