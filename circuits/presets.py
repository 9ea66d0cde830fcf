"""The in-context classifier and language models in named sizes, and how many parameters a configuration has."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from circuits.common.errors import known, require
from circuits.common.fields import Checked, checked_value
from circuits.config.layers import MLP
from circuits.config.model import ModelConfig
from circuits.config.parts import NormalInit, ReluStack, TokenInputs, ToyInit, Unembedding, VectorInputs
from circuits.streams import variants

ICL_PRESETS: dict[str, dict[str, int]] = {
    "paper": {"n_ctx": 65, "d_content": 85},
    "small": {"n_ctx": 17, "d_content": 47},
}
"""Position blocks and content widths of the in-context classifier: 65 + 85 = 150 as in the paper, 17 + 47 = 64."""


def icl_config(variant: str = "value", preset: str = "paper", **overrides: Any) -> ModelConfig:
    """Return the in-context classifier: two attention-only layers of one head, three ReLU layers, 32 logits.

    No biases in attention, no 1/sqrt(d), no output matrix, no layer norm; the width is positions plus content.
    ``overrides`` replace fields of :class:`circuits.config.model.ModelConfig` (``n_layers=3``, say); with streams of
    its own a model is called as the rule that makes them, or ``own-`` and their hash
    (:func:`circuits.streams.variants.name_of`).

    Raises:
        UnknownNameError: for an unknown variant, preset or field (nearest suggested).
        ValueError: if the overrides contradict each other.

    Source: arXiv 2412.15113, in-context learning experiment; Reddy, arXiv 2312.03002.
    """
    sizes = ICL_PRESETS[known("preset", preset, ICL_PRESETS)]
    width = sizes["n_ctx"] + sizes["d_content"]
    fields: dict[str, Any] = {
        "n_layers": 2,
        "n_heads": 1,
        "d_model": width,
        "n_ctx": sizes["n_ctx"],
        "inputs": VectorInputs(width),
        "readout": ReluStack(d_vocab_out=32),
        "positions": "one-hot",
        "output_matrix": False,
        "biases": False,
        "attention_scale": False,
        "init": ToyInit(),
    }
    return _named(variant, fields | _fields(overrides))


@dataclass(frozen=True)
class LMSize(Checked):
    """What tells one size of language model from another; ``lm_config`` holds what all share."""

    ABOVE_ZERO = ("n_layers", "d_model", "n_heads", "d_vocab", "n_ctx")

    n_layers: int
    d_model: int
    n_heads: int
    d_vocab: int = 600
    n_ctx: int = 96
    dropout: float = 0.0
    attention_scale: bool = True


GPT2_VOCABULARY = 50257

LM_SIZES: dict[str, LMSize] = {
    "0.2m": LMSize(4, 64, 4),
    "1m": LMSize(5, 128, 8),
    "3m": LMSize(7, 192, 12),
    "8m": LMSize(8, 256, 16, d_vocab=GPT2_VOCABULARY, n_ctx=2048, dropout=0.1, attention_scale=False),
    # The published 1B model's layout is not known: this is our own. Without 1/sqrt(d) scores grow with d_head = 128, so
    # unlike the 8m model it divides by it.
    "1b": LMSize(18, 2048, 16, d_vocab=GPT2_VOCABULARY, n_ctx=2048),
}
"""Sizes by name: ``8m`` is the published TinyStories model (19.7 million parameters with its embeddings), ``1b`` our
layout of a model of the published larger one's size, the others small ones for small vocabularies."""


def lm_config(size: str, variant: str = "value", d_vocab: int | None = None, **overrides: Any) -> ModelConfig:
    """Return a GPT-2-like language model: pre-LN, biases, exact GELU, MLP x4, learned positions, tied embedding.

    ``d_vocab`` replaces the size's vocabulary; ``overrides`` replace fields of
    :class:`circuits.config.model.ModelConfig` (``dropout=0.0``, say); the MLP's width and the streams follow an
    overridden ``d_model`` and ``n_layers``. Streams of its own name the model as in :func:`icl_config`.

    Raises:
        UnknownNameError: for an unknown size, variant or field (nearest suggested).
        ValueError: if the overrides contradict each other.

    Source: ``8m`` and what all share: arXiv 2412.15113, language-model experiment.
    """
    at = LM_SIZES[known("size", size, LM_SIZES)]
    vocabulary = at.d_vocab if d_vocab is None else d_vocab
    fields: dict[str, Any] = {
        "n_layers": at.n_layers,
        "n_heads": at.n_heads,
        "d_model": at.d_model,
        "n_ctx": at.n_ctx,
        "inputs": TokenInputs(vocabulary),
        "readout": Unembedding(vocabulary),
        "attention_scale": at.attention_scale,
        "normalization": "LN",
        "dropout": at.dropout,
        "tied_embedding": True,
        "init": NormalInit(0.02),
    }
    fields |= _fields(overrides)
    # Here, as the MLP's width is made of it, and would be refused in its place.
    width = checked_value(fields["d_model"], int, "d_model")
    require(width > 0, f"d_model must be a positive whole number, got {width}")
    return _named(variant, {"mlp": MLP(4 * width), **fields})


def _fields(overrides: dict[str, Any]) -> dict[str, Any]:
    for field in overrides:
        known("field of ModelConfig", field, [f.name for f in dataclasses.fields(ModelConfig)])
    return overrides


def _named(variant: str, fields: dict[str, Any]) -> ModelConfig:
    """Return a model with the streams of a variant, or those that ``fields`` has, and the name of what it is."""
    rule = variants.streams(variant, fields["n_layers"])
    config = ModelConfig(**{"streams": rule, "name": variant, **fields})
    if "name" in fields or config.streams == rule:
        return config
    return dataclasses.replace(config, name=variants.name_of(config.streams, config.n_layers, variant))


def parameter_count(config: ModelConfig) -> int:
    """Return how many parameters a model has, a tied matrix counted once; nothing of its size is allocated."""
    # Here, so that naming a configuration does not import torch.
    import torch

    from circuits.model import HookedStreamTransformer

    with torch.device("meta"):
        model = HookedStreamTransformer(config)
    return sum(parameter.numel() for parameter in model.parameters())
