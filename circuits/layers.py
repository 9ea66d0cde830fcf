"""The parts around attention: embeddings, norms, MLP and readouts, under HookedTransformer's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuits.config.layers import MLP, Normalization, QKNorm, ResidualScalars
from circuits.config.model import ModelConfig
from circuits.initial_weights import Constant, Initialised, Normal
from circuits.products import affine
from circuits.streams.transforms import HeadTensor
from circuits.transformerlens.hooks import Fusing, fork, fork_if_hooked

Residual = Float[Tensor, "batch pos d_model"]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
}


class Scalars(Initialised):
    """A layer's two scalars on the residual stream: x becomes ``own`` x + ``x0`` x_0, read at ``hook_x0``."""

    own: Tensor
    x0: Tensor

    def __init__(self, config: ModelConfig, scalars: ResidualScalars, layer: int):
        super().__init__()
        share = layer / max(1, config.n_layers - 1)
        for name, (first, last) in (("own", scalars.own), ("x0", scalars.x0)):
            self.learn(name, (), Constant(first + share * (last - first)))
        self.hook_x0 = HookPoint()

    def forward(self, residual: Residual, start: Residual) -> Residual:
        """Return the residual stream with the start mixed in."""
        return self.own * residual + self.x0 * fork(self.hook_x0, start)


class BackoutGain(Initialised):
    """``gain``, the part of the residual stream after a middle layer that is taken off before the final norm.

    ``hook_middle`` holds that residual stream, on a fork.
    """

    gain: Tensor

    def __init__(self, start: float):
        super().__init__()
        self.learn("gain", (), Constant(start))
        self.hook_middle = HookPoint()

    def forward(self, residual: Residual, middle: Residual) -> Residual:
        """Return what the final norm is given."""
        return residual - self.gain * middle


class Norm(Initialised, Fusing):
    """Layer norm of one of TransformerLens' kinds: LN, LNPre, RMS, RMSPre (the ``Pre`` kinds have no parameters)."""

    w: Tensor | None
    b: Tensor | None

    def __init__(self, config: ModelConfig, kind: Normalization):
        super().__init__()
        self.centred, self.eps = kind.startswith("LN"), config.norm_eps
        for name, start, kinds in (("w", 1.0, ("LN", "RMS")), ("b", 0.0, ("LN",))):
            self.register_parameter(name, None)
            if kind in kinds:
                self.learn(name, (config.d_model,), Constant(start))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch pos *head d_model"]) -> Float[Tensor, "batch pos *head d_model"]:
        """Return the normalised input."""
        if self.may_fuse(self.hook_scale):
            return self.hook_normalized(self.unheard(x))
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        x = x / fork_if_hooked(self.hook_scale, self._root(x))
        x = x if self.w is None else x * self.w
        return self.hook_normalized(x if self.b is None else x + self.b)

    def unheard(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return the normalised input, of which no hook point hears."""
        width, eps = x.shape[-1:], self._eps(x)
        if self.centred:
            return F.layer_norm(x, width, self.w, self.b, eps)
        return F.rms_norm(x, width, self.w, eps)

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """Return what an input is divided by, once it is centred where it is."""
        return self._root(x - x.mean(-1, keepdim=True) if self.centred else x)

    def _root(self, centred: Tensor) -> Tensor:
        return (centred.square().mean(-1, keepdim=True) + self._eps(centred)).sqrt()

    def _eps(self, x: Tensor) -> float:
        return torch.finfo(x.dtype).eps if self.eps is None else self.eps


class HeadNorm(Initialised):
    """Queries or keys, normalised head by head; ``w`` (d_head) or (head d_head) where weights are learned."""

    w: Tensor | None

    def __init__(self, config: ModelConfig, norm: QKNorm, heads: int):
        super().__init__()
        self.norm = norm
        self.register_parameter("w", None)
        if norm.weights != "none":
            shape = (config.d_head,) if norm.weights == "shared" else (heads, config.d_head)
            self.learn("w", shape, Constant(1.0))

    def forward(self, x: HeadTensor) -> HeadTensor:
        """Return the normalised input."""
        eps = torch.finfo(x.dtype).eps if self.norm.eps is None else self.norm.eps
        if self.norm.kind == "RMS":
            x = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        else:
            x = x / x.norm(dim=-1, keepdim=True).clamp_min(eps)
        x = x if self.w is None else x * self.w
        return x if self.norm.scale == 1 else x * self.norm.scale


class FeedForward(Initialised):
    """W_out act(W_in x + b_in) + b_out; ``gated``, the activation is of W_gate x + b_gate and multiplies the other.

    ``hook_pre`` is before the activation, ``hook_pre_linear`` the other factor, ``hook_post`` what W_out is given.
    """

    W_in: Tensor
    b_in: Tensor
    W_out: Tensor
    b_out: Tensor

    def __init__(self, config: ModelConfig, mlp: MLP):
        super().__init__()
        zero, normal = Constant(0.0), Normal(config.weight_std("mlp"))
        wide, narrow = mlp.d_mlp, config.d_model
        inner = [("gate", narrow, wide)] if mlp.gated else []
        for name, width, out in (*inner, ("in", narrow, wide), ("out", wide, narrow)):
            self.learn(f"W_{name}", (width, out), normal)
            if mlp.biases:
                self.learn(f"b_{name}", (out,), zero)
            else:
                self.fix(f"b_{name}", (out,), zero)
        self.act_fn = ACTIVATIONS[mlp.act_fn]
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()
        self.hook_pre_linear = HookPoint() if mlp.gated else None

    def forward(self, x: Residual) -> Residual:
        """Return what the MLP adds to the residual stream."""
        linear = self._affine(x, "in")
        if self.hook_pre_linear is None:
            hidden = self.act_fn(self.hook_pre(linear))
        else:
            hidden = self.act_fn(self.hook_pre(self._affine(x, "gate"))) * self.hook_pre_linear(linear)
        return self._affine(fork_if_hooked(self.hook_post, hidden), "out")

    def _affine(self, x: Tensor, name: str) -> Tensor:
        return affine(x, getattr(self, f"W_{name}"), self._parameters.get(f"b_{name}"))


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


def softcapped(x: Tensor, cap: float | None) -> Tensor:
    """Return cap tanh(x / cap), or x without a cap."""
    return x if cap is None else cap * torch.tanh(x / cap)
