"""The final norm's weights moved into the unembedding, so that what tools add up are the logits; and the norm of token
embeddings into the embedding."""

from __future__ import annotations

import copy
import dataclasses
from typing import TypeVar

import torch

from circuits.common.errors import require
from circuits.config.parts import Unembedding
from circuits.embeddings import Embed, Unembed
from circuits.layers import Norm
from circuits.transformerlens.tools import ToolSurface

Model = TypeVar("Model", bound=ToolSurface)


@torch.no_grad()
def with_folded_norm(model: Model) -> Model:
    """Return a copy with the same logits, whose final norm has no weights and whose embedding has no norm; its
    unembedding is its own where either had any."""
    require(
        not model.readout, "the final norm stands before a ReLU stack, not before W_U, and cannot be folded into it"
    )
    hooked = model.hooked_modules()
    require(not hooked, f"hooks are attached at {', '.join(hooked[:3])}; call model.reset_hooks() before folding")
    folded, config = copy.deepcopy(model), model.config
    norm, embed = folded.get_submodule("ln_final"), folded.embed
    w, b = getattr(norm, "w", None), getattr(norm, "b", None)
    of_tokens = isinstance(embed, Embed) and embed.tokens and embed.ln is not None
    if w is None and not of_tokens:
        return folded
    if w is not None or config.tied_embedding:
        W_U, b_U = model.W_U.double(), model.b_U.double()
        weights = torch.ones_like(W_U[:, 0]) if w is None else w.double()
        config = dataclasses.replace(
            config, readout=Unembedding(config.readout.d_vocab_out, bias=True), tied_embedding=False
        )
        unembed = Unembed(config, bias=True).to(model.W_U.device, model.W_U.dtype).train(model.training)
        unembed.W_U.copy_(weights[:, None] * W_U)
        unembed.b_U.copy_(b_U if b is None else b_U + b.double() @ W_U)
        folded.unembed = unembed
    if isinstance(norm, Norm) and w is not None:
        w.fill_(1.0)
        if b is not None:
            b.zero_()
    if isinstance(embed, Embed) and embed.ln is not None and of_tokens:
        # Rows are normalised one by one, so a table of normalised rows is the same.
        embed.W_E.copy_(embed.ln(embed.W_E[None])[0])
        embed.ln = None
        config = dataclasses.replace(config, embedding_norm=None)
    folded.config = config
    folded.setup()
    return folded
