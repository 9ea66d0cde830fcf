"""A pytest plugin that gives transformer-lens' tests a model of ours where they make a HookedTransformer.

transformer-lens 4 has that class no longer, and tests of the 3.x line make it: what they import stands here. Models
with a name have a values stream; they start from a seed, and speak through a tokenizer that is made of the tests' own
words. Nothing is loaded from a hub.
"""

from __future__ import annotations

import sys
import types
from functools import cache
from typing import Any

import torch
import transformer_lens
from transformer_lens.cache import key_value_cache
from transformer_lens.tools.analysis import direct_path_patching
from transformer_lens.utilities.components_utils import get_act_name
from transformer_lens.utilities.slice import Slice

from circuits import MLP, HookedStreamTransformer, KeyValueCache, lm_config

ONE_LAYER, MORE = "within-layer", "value"
"""A stream that a model of one layer can have, and the one of all others."""
WORDS = """Hello World! Hi Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.
When John and Mary went to the shops, John gave the bag to Mary gave
When Tom and James went to the park, James gave the ball to Tom gave
When Dan and Sid went to the shops, Sid gave an apple to Dan gave
After Martin and Amy went to the park, Amy gave a drink to Martin gave
The cat sat The dog ran I went to Staten Island, Sharon to buy myself a mandolin
It's always locked It's always blocked I'd rather be burned in Canada by the magistrate by the candidate
than to freeze here in the South An apple a day keeps junk the"""


@cache
def tokenizer() -> Any:
    """A tokenizer of byte pairs, as GPT-2's, with one token for each word of the tests."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), Decoder()
    trainer = BpeTrainer(  # type: ignore[call-arg] # of a compiled class
        vocab_size=2000, special_tokens=[end], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    words = WORDS.split()
    backend.train_from_iterator([WORDS, *words, *(f" {word}" for word in words)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, pad_token=end)


class HookedTransformerConfig(types.SimpleNamespace):
    """What their tests say of a small model."""


class HookedTransformer:
    """Makes models of ours: those of a configuration, which speaks of no stream, without one."""

    def __new__(cls, cfg: HookedTransformerConfig) -> Any:
        """Return a model of those sizes."""
        sizes = {"n_layers": cfg.n_layers, "n_heads": cfg.n_heads, "d_model": cfg.d_model, "d_head": cfg.d_head}
        speaks: Any = tokenizer() if hasattr(cfg, "tokenizer_name") else None
        return _model(
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
        return _model(variant, len(tokenizer()), tokenizer(), **sizes, normalization="LNPre" if folded else "LN")


def _model(variant: str, d_vocab: int, speaks: Any, **fields: Any) -> HookedStreamTransformer:
    model = HookedStreamTransformer(lm_config("0.2m", variant, d_vocab, tied_embedding=False, **fields), seed=1).eval()
    with torch.no_grad():
        # As trained weights, of which each matters.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    if speaks is not None:
        model.set_tokenizer(speaks)
    return model


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
