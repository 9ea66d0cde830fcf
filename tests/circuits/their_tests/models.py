"""The models of ours that transformer-lens' tests are given: small, with a tokenizer made of their words."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from circuits import HookedStreamTransformer, lm_config

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


def model_of(variant: str, d_vocab: int, speaks: Any, **fields: Any) -> HookedStreamTransformer:
    # With other seeds, bounds of theirs on rounding, or on how large an effect is at least, are missed now and then.
    model = HookedStreamTransformer(lm_config("0.2m", variant, d_vocab, tied_embedding=False, **fields), seed=3).eval()
    with torch.no_grad():
        # As trained weights, of which each matters.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    if speaks is not None:
        model.set_tokenizer(speaks)
    return model
