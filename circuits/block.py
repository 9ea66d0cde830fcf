"""One layer of the model: attention and, where there is one, an MLP, each adding to the residual stream."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuits.attention import Attention
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, Carrier
from circuits.layers import FeedForward, Norm, Residual, Scalars
from circuits.places import Places
from circuits.streams.mixing import Outgoing
from circuits.transformerlens.hooks import fork_if_hooked, is_hooked

Key = TypeVar("Key")


def apart(tensors: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """Return the same tensors in storage of their own: who listens at a whole part of the model may write into them."""
    return {key: tensor.clone() for key, tensor in tensors.items()}


class Block(nn.Module):
    """Attention and, where there is one, an MLP, each adding to the residual stream."""

    hook_out_is_single_residual_stream = True
    hook_resid_pre: HookPoint
    hook_attn_out: HookPoint
    hook_resid_mid: HookPoint
    hook_mlp_in: HookPoint
    hook_mlp_out: HookPoint
    hook_resid_post: HookPoint
    ln2: nn.Module

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        kind = config.normalization
        norm = (lambda: Norm(config, kind)) if kind else nn.Identity
        self.dropout = config.dropout
        self.scalars = Scalars(config, config.residual_scalars, layer) if config.residual_scalars else None
        self.ln1 = norm()
        self.attn = Attention(config, layer)
        self.mlp = FeedForward(config, config.mlp) if config.mlp else None
        names = ["resid_pre", "attn_out", "resid_post"]
        if config.mlp:
            self.ln2 = norm()
            names += ["resid_mid", "mlp_in", "mlp_out"]
        for name in names:
            self.add_module(f"hook_{name}", HookPoint())

    def forward(
        self, residual: Residual, earlier: Outgoing, flags: Any, places: Places | None = None
    ) -> tuple[Residual, Outgoing]:
        """Return the residual stream after the block and what its attention passes on; ``flags`` is ``model.cfg``."""
        residual = fork_if_hooked(self.hook_resid_pre, residual)
        inputs = self.attn.split_inputs(residual, flags.use_split_qkv_input, flags.use_attn_in)
        if is_hooked(self.ln1):
            # A norm that does nothing hands on what it is given.
            inputs = apart(inputs)
        inputs = self._normalised(inputs)
        if is_hooked(self.attn):
            inputs, earlier = apart(inputs), apart(earlier)
        attn_out, outgoing = self.attn(inputs, earlier, flags.use_attn_result, places)
        return self.finish(residual, attn_out, flags), outgoing

    def finish(self, residual: Residual, attn_out: Residual, flags: Any) -> Residual:
        """Return the residual stream after the block, from that before it and what attention adds."""
        residual = residual + self.hook_attn_out(self._dropped(attn_out))
        if self.mlp is not None:
            residual = self.hook_resid_mid(residual)
            mlp_in = self.hook_mlp_in(residual.clone()) if flags.use_hook_mlp_in else residual
            mlp_in = mlp_in.clone() if is_hooked(self.ln2) or is_hooked(self.mlp) else mlp_in
            residual = residual + self.hook_mlp_out(self._dropped(self.mlp(self.ln2(mlp_in))))
        return self.hook_resid_post(residual)

    def _dropped(self, addition: Residual) -> Residual:
        return F.dropout(addition, self.dropout) if self.dropout and self.training else addition

    def _normalised(self, inputs: dict[Carrier, Tensor]) -> dict[Carrier, Tensor]:
        if inputs["q"] is inputs["k"] and inputs["k"] is inputs["v"]:
            normalised = self.ln1(inputs["q"])
            return {c: normalised for c in CARRIERS}
        return {carrier: self.ln1(x) for carrier, x in inputs.items()}
