"""What transformer-lens' tools ask of a model besides running it: flags, text, weights under their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import FactoredMatrix

from circuits.common.errors import require
from circuits.transformerlens.hooks import Fusing, bridge_config
from circuits.transformerlens.text import TextSurface


def _stacked(part: str, name: str, shared: bool = False) -> property:
    def get(self: ToolSurface) -> Tensor:
        parts = [getattr(block, part) for block in self.blocks]
        each = [getattr(one, name) for one in parts]
        return torch.stack([one.per_query_head(x, 0) for one, x in zip(parts, each, strict=True)] if shared else each)

    repeated = ", for every head of queries" if shared else ""
    return property(get, doc=f"{name} of all layers{repeated}, stacked (layer first).")


_ONE_SPLIT = "use_attn_in and use_split_qkv_input are mutually exclusive: hook_attn_in is silent beside hook_q_input"


class ToolSurface(TextSurface):
    """The parts of HookedTransformer's surface that its tools rely on."""

    blocks: nn.ModuleList
    embed: nn.Module
    pos_embed: nn.Module | None
    readout: nn.ModuleList
    unembed: nn.Module

    _bank: Tensor | None = None
    _stream_blind_allowed = False

    W_Q = _stacked("attn", "W_Q")
    W_K = _stacked("attn", "W_K", shared=True)
    W_V = _stacked("attn", "W_V", shared=True)
    W_O = _stacked("attn", "W_O")
    b_Q = _stacked("attn", "b_Q")
    b_K = _stacked("attn", "b_K", shared=True)
    b_V = _stacked("attn", "b_V", shared=True)
    b_O = _stacked("attn", "b_O")
    W_in = _stacked("mlp", "W_in")
    b_in = _stacked("mlp", "b_in")
    W_out = _stacked("mlp", "W_out")
    b_out = _stacked("mlp", "b_out")

    def set_use_attn_result(self, use: bool) -> None:
        """Compute every head's own addition to the residual stream, at ``hook_result``."""
        self.cfg.use_attn_result = use

    def set_use_split_qkv_input(self, use: bool) -> None:
        """Give every head its own copy of each projection's input, at ``hook_q_input`` and its like for k and v.

        Raises:
            ValueError: on a model with a stream, unless :meth:`allow_stream_blind_tools` was called; while the copies
                of :meth:`set_use_attn_in` are on.
        """
        require(not (use and self.cfg.use_attn_in), f"{_ONE_SPLIT}; call model.set_use_attn_in(False) first")
        if use and self.config.streams and not self._stream_blind_allowed:
            raise ValueError(
                "split inputs are what edge attribution, faithfulness and direct path patching of transformer-lens "
                "work on; on a model with a stream they draw every edge through the residual stream and miss the "
                "others. If "
                "you know that, call model.allow_stream_blind_tools() first"
            )
        self.cfg.use_split_qkv_input = use

    def set_use_attn_in(self, use: bool) -> None:
        """Give every head its own copy of the attention input, at ``hook_attn_in``.

        Raises:
            ValueError: while the copies of :meth:`set_use_split_qkv_input` are on; where heads of queries share keys
                and values, so that there is no one number of copies.
        """
        off = "call model.set_use_split_qkv_input(False) first"
        require(not (use and self.cfg.use_split_qkv_input), f"{_ONE_SPLIT}; {off}")
        heads, shared = self.config.n_heads, self.config.heads_of("v")
        require(
            not use or heads == shared,
            f"hook_attn_in has a copy a head for queries, keys and values alike, and this model has {heads} heads of "
            f"queries and {shared} of keys and values; call model.set_use_split_qkv_input(True), which has copies of "
            f"each",
        )
        self.cfg.use_attn_in = use

    def set_use_hook_mlp_in(self, use: bool) -> None:
        """Fork the residual stream before the MLP, at ``hook_mlp_in``."""
        self.cfg.use_hook_mlp_in = use

    def set_use_fused_evaluation(self, use: bool) -> None:
        """Use torch's fused attention and norms in evaluation mode as in training: faster, in less memory.

        Off by default, so that a run that is watched equals one that is not bit by bit; with it they agree to rounding,
        as fused calls take over wherever nothing listens at scores, pattern or a norm's scale.
        """
        for module in self.modules():
            if isinstance(module, Fusing):
                module.fuse_in_evaluation = use

    def allow_stream_blind_tools(self) -> None:
        """Acknowledge that transformer-lens' edge tools do not see the stream's edges, and let them run."""
        self._stream_blind_allowed = True

    def tokens_to_residual_directions(self, tokens: str | int | Tensor) -> Tensor:
        """Return the direction of the residual stream that raises each token's logit (d_model last).

        Raises:
            ValueError: where no such direction exists: a final norm with weights (:meth:`fold_layer_norm` takes them
                away), or a readout that is not linear; for what is no token.
        """
        why = self.why_not_linear()
        require(why is None, f"direct logit attribution needs a linear readout, but {why}")
        if not isinstance(tokens, Tensor):
            tokens = torch.tensor(self.to_single_token(tokens))
        are_numbers = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
        require(are_numbers, f"token numbers are whole numbers, got a tensor of {tokens.dtype}; call .long() on it")
        n, tokens = self.W_U.shape[1], tokens.long()
        inside = bool(((tokens >= 0) & (tokens < n)).all())
        require(inside, f"token numbers lie between 0 and {n - 1}, got {tokens.flatten().tolist()[:10]}")
        # Of one token it would be a part of the weights, and who normalises it in place would change the model.
        return self.W_U.T[tokens].clone()

    def why_not_linear(self) -> str | None:
        """Return what stands between the normalised residual stream and W_U, and what to do; ``None``: nothing."""
        if self.readout:
            return "a ReLU stack stands before W_U; patch or ablate instead"
        if self.config.logit_softcap is not None:
            return (
                "a cap stands after W_U, and what adds up are the logits before it; ask a model of the same weights "
                "and of dataclasses.replace(config, logit_softcap=None)"
            )
        norm = self.get_submodule("ln_final")
        weights = [getattr(norm, "w", None), getattr(norm, "b", None)]
        plain = all(x is None or bool((x == start).all()) for x, start in zip(weights, (1, 0), strict=True))
        if plain:
            return None
        return "a final norm with learned weights stands before W_U; ask model.fold_layer_norm(), which has none"

    def tl_parameters(self) -> dict[str, Tensor]:
        """Return all weights by HookedTransformer's names, a tied unembedding and what is not learned among them."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers()), "unembed.W_U": self.W_U}

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Tensor:
        """Return the sum of all biases (d_model) written to the residual stream before ``layer``.

        Raises:
            ValueError: for a layer that is not between 0 and n_layers, which is the end.
        """
        n = self.config.n_layers
        require(0 <= layer <= n, f"layer = {layer}: this model has {n}, numbered from 0, and {n} stands for the end")
        total = self.b_O[: layer + int(mlp_input)].sum(0)
        return total + self.b_out[:layer].sum(0) if include_mlp_biases and self.config.mlp else total

    def blocks_with(self, name: str) -> list[tuple[int, nn.Module]]:
        """Return (layer, block) for every block that has the submodule ``name``."""
        return [(i, block) for i, block in enumerate(self.blocks) if getattr(block, name, None) is not None]

    @contextmanager
    def bind_inputs(self, vectors: Float[Tensor, "batch pos d_input"]) -> Iterator[Tensor]:
        """Yield numbers (batch pos) that stand for input vectors, so that tools made for tokens run on vectors.

        Inside another such block the numbers of both stand for what they stood for.
        """
        outer, rows = self._bank, rearrange(vectors, "batch pos d_input -> (batch pos) d_input")
        self._bank = rows if outer is None else torch.cat([outer, rows])
        ids = torch.arange(len(self._bank) - len(rows), len(self._bank), device=vectors.device)
        try:
            yield rearrange(ids, "(batch pos) -> batch pos", batch=len(vectors))
        finally:
            self._bank = outer

    def bound(self, inputs: Tensor) -> Tensor:
        """Return the vectors that numbers stand for inside :meth:`bind_inputs`; everything else as it is."""
        return inputs if self._bank is None or inputs.is_floating_point() else self._bank[inputs]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> ToolSurface:
        super()._apply(fn, recurse)
        self.cfg.device, self.cfg.dtype = str(self.W_U.device), self.W_U.dtype
        self.cfg.eps = bridge_config(self.config, self.W_U.device, self.W_U.dtype).eps
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_U.device

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the weights."""
        return self.W_U.dtype

    @property
    def W_E(self) -> Tensor:
        """The embedding matrix."""
        return self.embed.W_E  # type: ignore[return-value] # absent, with torch's AttributeError, on plain vector inputs

    @property
    def W_pos(self) -> Tensor:
        """The learned positions (n_ctx d_model)."""
        return self.pos_embed.W_pos  # type: ignore[union-attr] # as above, where positions are not learned

    @property
    def W_U(self) -> Tensor:
        """The unembedding (d_model d_vocab_out)."""
        return self.unembed.W_U  # type: ignore[return-value] # a parameter of Unembed

    @property
    def b_U(self) -> Tensor:
        """The unembedding's bias (d_vocab_out)."""
        return self.unembed.b_U  # type: ignore[return-value] # a parameter or a buffer of Unembed

    @property
    def OV(self) -> FactoredMatrix:
        """All own OV circuits (layer head d_model d_model) as a FactoredMatrix; the stream's part is not in them."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """All own QK circuits (layer head d_model d_model) as a FactoredMatrix."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))
