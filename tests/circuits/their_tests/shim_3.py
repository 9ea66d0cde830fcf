"""A pytest plugin that gives transformer-lens' tests a model of ours where they make a HookedTransformer.

transformer-lens 4 has that class no longer, and tests of the 3.x line make it: what they import stands here. Models
with a name have a values stream; they start from a seed, and speak through a tokenizer that is made of the tests' own
words. Nothing is loaded from a hub.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import transformer_lens
from transformer_lens.cache import key_value_cache
from transformer_lens.tools.analysis import direct_path_patching
from transformer_lens.utilities.components_utils import get_act_name
from transformer_lens.utilities.slice import Slice

from circuits import MLP, HookedStreamTransformer, KeyValueCache
from tests.circuits.their_tests.models import MORE, ONE_LAYER, model_of, tokenizer


class HookedTransformerConfig(types.SimpleNamespace):
    """What their tests say of a small model."""


class HookedTransformer:
    """Makes models of ours: those of a configuration, which speaks of no stream, without one."""

    def __new__(cls, cfg: HookedTransformerConfig) -> Any:
        """Return a model of those sizes."""
        sizes = {"n_layers": cfg.n_layers, "n_heads": cfg.n_heads, "d_model": cfg.d_model, "d_head": cfg.d_head}
        speaks: Any = tokenizer() if hasattr(cfg, "tokenizer_name") else None
        return model_of(
            "classic",
            getattr(cfg, "d_vocab", None) or len(speaks),
            speaks,
            **sizes,
            n_ctx=cfg.n_ctx,
            mlp=MLP(cfg.d_mlp, cfg.act_fn),
            normalization=getattr(cfg, "normalization_type", "LN"),
        )

    @staticmethod
    def from_pretrained(name: str, **options: Any) -> HookedStreamTransformer:
        """Return a small model with a stream, called as the one that is asked for in nothing but the layers it has."""
        n_layers = int(name.split("-")[-1][0]) if name.startswith("solu") else 2
        sizes = {"n_layers": n_layers, "n_heads": 4, "d_model": 32, "d_head": 8, "n_ctx": 64, "mlp": MLP(64)}
        folded = options.get("fold_ln", False)
        variant = ONE_LAYER if n_layers == 1 else MORE
        return model_of(variant, len(tokenizer()), tokenizer(), **sizes, normalization="LNPre" if folded else "LN")


utils: Any = types.ModuleType("transformer_lens.utils")
utils.get_act_name, utils.Slice = get_act_name, Slice
sys.modules["transformer_lens.utils"] = utils
for name, value in {
    "utils": utils,
    "HookedTransformer": HookedTransformer,
    "HookedTransformerConfig": HookedTransformerConfig,
}.items():
    setattr(transformer_lens, name, value)
for owner, name, value in (
    # Norms of fresh weights have nothing to fold.
    (HookedStreamTransformer, "process_weights_", lambda self: None),
    # A cache is ours, as it also keeps what a smear takes.
    (key_value_cache.TransformerLensKeyValueCache, "init_cache", lambda *_: KeyValueCache()),
    # A private function that 4.x lacks, so that the tests of others in its file can be loaded.
    (direct_path_patching, "_check_fold_ln", None),
):
    setattr(owner, name, value)
