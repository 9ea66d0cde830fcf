"""The parts around attention: embeddings, norms, MLP, readouts and the loss, under HookedTransformer's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuits.config.model import MLP, ModelConfig
from circuits.initial_weights import Constant, Initialised, Normal
from circuits.products import affine
from circuits.transformerlens.hooks import Fusing, fork_if_hooked

Residual = Float[Tensor, "batch pos d_model"]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


_IGNORED = -100
"""Stands where there is no target."""


class Embed(Initialised):
    """Token numbers or projected vectors into the residual stream, by ``W_E`` (d_vocab or d_input, d_model)."""

    W_E: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = config.inputs.are_tokens
        self.learn("W_E", (config.inputs.rows, config.d_model), Normal(config.weight_std("embed")))

    def forward(self, inputs: Tensor) -> Residual:
        """Return the embedding of every input."""
        return F.embedding(inputs, self.W_E) if self.tokens else inputs @ self.W_E


class PosEmbed(Initialised):
    """Learned positions ``W_pos`` (n_ctx d_model)."""

    W_pos: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.learn("W_pos", (config.n_ctx, config.d_model), Normal(config.weight_std("embed")))

    def forward(self, embedded: Residual) -> Residual:
        """Return the embedding of the positions of ``embedded``, for every example; never the weights' own storage."""
        batch, pos, _ = embedded.shape
        return self.W_pos[:pos].clone().expand(batch, -1, -1)


class Norm(Initialised, Fusing):
    """Layer norm of one of TransformerLens' kinds: LN, LNPre, RMS, RMSPre (the ``Pre`` kinds have no parameters)."""

    w: Tensor | None
    b: Tensor | None

    def __init__(self, config: ModelConfig, eps: float = 1e-5):
        super().__init__()
        kind = config.normalization or ""
        self.centred, self.eps = kind.startswith("LN"), eps
        for name, start, kinds in (("w", 1.0, ("LN", "RMS")), ("b", 0.0, ("LN",))):
            self.register_parameter(name, None)
            if kind in kinds:
                self.learn(name, (config.d_model,), Constant(start))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch pos *head d_model"]) -> Float[Tensor, "batch pos *head d_model"]:
        """Return the normalised input."""
        if self.may_fuse(self.hook_scale):
            width = x.shape[-1:]
            if self.centred:
                return self.hook_normalized(F.layer_norm(x, width, self.w, self.b, self.eps))
            return self.hook_normalized(F.rms_norm(x, width, self.w, self.eps))
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        x = x / fork_if_hooked(self.hook_scale, (x.square().mean(-1, keepdim=True) + self.eps).sqrt())
        x = x if self.w is None else x * self.w
        return self.hook_normalized(x if self.b is None else x + self.b)


class FeedForward(Initialised):
    """W_out act(W_in x + b_in) + b_out."""

    W_in: Tensor
    b_in: Tensor
    W_out: Tensor
    b_out: Tensor

    def __init__(self, config: ModelConfig, mlp: MLP):
        super().__init__()
        zero, normal = Constant(0.0), Normal(config.weight_std("mlp"))
        self.learn("W_in", (config.d_model, mlp.d_mlp), normal)
        self.learn("b_in", (mlp.d_mlp,), zero)
        self.learn("W_out", (mlp.d_mlp, config.d_model), normal)
        self.learn("b_out", (config.d_model,), zero)
        self.act_fn = ACTIVATIONS[mlp.act_fn]
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Residual) -> Residual:
        """Return what the MLP adds to the residual stream."""
        hidden = fork_if_hooked(self.hook_post, self.act_fn(self.hook_pre(affine(x, self.W_in, self.b_in))))
        return affine(hidden, self.W_out, self.b_out)


class ReluLayer(Initialised):
    """relu(z W + b) with one scalar b."""

    W: Tensor
    b: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.learn("W", (config.d_model, config.d_model), Normal(config.weight_std("stack")))
        self.learn("b", (), Normal(config.weight_std("stack-bias")))
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, z: Residual) -> Residual:
        """Return the layer's output."""
        return fork_if_hooked(self.hook_post, F.relu(self.hook_pre(z @ self.W + self.b)))


class Unembed(Initialised):
    """Logits z @ W_U + b_U; ``W_U`` (d_model d_vocab_out)."""

    W_U: Tensor
    b_U: Tensor
    has_weight = True

    def __init__(self, config: ModelConfig, bias: bool):
        super().__init__()
        out = config.readout.d_vocab_out
        if self.has_weight:
            self.learn("W_U", (config.d_model, out), Normal(config.weight_std("unembed")))
        if bias:
            self.learn("b_U", (out,), Constant(0.0))
        else:
            self.register_buffer("b_U", torch.zeros(out), persistent=False)

    def forward(self, z: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Return the logits at every position."""
        return affine(z, self.W_U, self._parameters.get("b_U"))


class TiedUnembed(Unembed):
    """Logits z @ W_U, where ``W_U`` is the transpose of an :class:`Embed`'s ``W_E`` and no parameter of its own."""

    has_weight = False

    def __init__(self, config: ModelConfig, embed: Embed):
        super().__init__(config, bias=False)
        # In a tuple, so that torch does not count the matrix as this module's, too.
        self._embed = (embed,)

    @property
    def W_U(self) -> Tensor:  # type: ignore[override] # read where Unembed has a parameter
        """The transpose of the embedding."""
        return self._embed[0].W_E.T


def next_token_loss(logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy, in nats, of predicting every token but the first from those before it."""
    # A target to ignore at the last position, instead of a copy of the logits without it.
    targets = F.pad(tokens[:, 1:].long(), (0, 1), value=_IGNORED)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED)
