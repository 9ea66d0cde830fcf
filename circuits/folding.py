"""The final norm's weights moved into the unembedding, so that what tools add up are the logits."""

from __future__ import annotations

import copy
import dataclasses
from typing import TypeVar

import torch

from circuits.common.errors import require
from circuits.config.parts import Unembedding
from circuits.layers import Norm, Unembed
from circuits.transformerlens.tools import ToolSurface

Model = TypeVar("Model", bound=ToolSurface)


@torch.no_grad()
def with_folded_norm(model: Model) -> Model:
    """Return a copy with the same logits, whose final norm has no weights and whose unembedding is untied."""
    require(
        not model.readout, "the final norm stands before a ReLU stack, not before W_U, and cannot be folded into it"
    )
    hooked = model.hooked_modules()
    require(not hooked, f"hooks are attached at {', '.join(hooked[:3])}; call model.reset_hooks() before folding")
    folded = copy.deepcopy(model)
    norm = folded.get_submodule("ln_final")
    w, b = getattr(norm, "w", None), getattr(norm, "b", None)
    if w is None:
        return folded
    assert isinstance(norm, Norm), "nothing else has weights there"
    W_U, b_U = model.W_U.double(), model.b_U.double()
    readout = Unembedding(model.config.readout.d_vocab_out, bias=True)
    folded.config = dataclasses.replace(model.config, readout=readout, tied_embedding=False)
    unembed = Unembed(folded.config, bias=True).to(model.W_U.device, model.W_U.dtype).train(model.training)
    unembed.W_U.copy_(w.double()[:, None] * W_U)
    unembed.b_U.copy_(b_U if b is None else b_U + b.double() @ W_U)
    folded.unembed = unembed
    w.fill_(1.0)
    if b is not None:
        b.zero_()
    folded.setup()
    return folded
