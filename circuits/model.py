"""``HookedStreamTransformer``: a transformer whose attention layers may pass queries, keys and values to each other.

It stands on transformer-lens' ``HookedRootModule`` and carries HookedTransformer's parameter names, hook names and
weight properties, so that transformer-lens' tools work on it; read ``attention.py`` for what is new.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuits.attention import Attention, Residual
from circuits.common.errors import known, require, whole
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, Carrier, Gate
from circuits.initial_weights import Initialised
from circuits.layers import Embed, FeedForward, Norm, PosEmbed, ReluLayer, TiedUnembed, Unembed, next_token_loss
from circuits.streams.mixing import Outgoing
from circuits.transformerlens.hooks import bridge_config, fork_if_hooked, is_hooked, values_of
from circuits.transformerlens.tools import ToolSurface

Key = TypeVar("Key")
RETURN_TYPES = ("logits", "loss", "both")


class State(NamedTuple):
    """All that layer ``layer`` and later ones depend on: the residual stream is only a part of it."""

    layer: int
    residual: Residual
    outgoing: Outgoing


def _apart(tensors: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """The same tensors in storage of their own: whoever listens at a whole part of the model may write into them."""
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
        norm = (lambda: Norm(config)) if config.normalization else nn.Identity
        self.dropout = config.dropout
        self.ln1 = norm()
        self.attn = Attention(config, layer)
        self.mlp = FeedForward(config, config.mlp) if config.mlp else None
        names = ["resid_pre", "attn_out", "resid_post"]
        if config.mlp:
            self.ln2 = norm()
            names += ["resid_mid", "mlp_in", "mlp_out"]
        for name in names:
            self.add_module(f"hook_{name}", HookPoint())

    def forward(self, residual: Residual, earlier: Outgoing, flags: Any) -> tuple[Residual, Outgoing]:
        """Return the residual stream after the block and what its attention passes on; ``flags`` is ``model.cfg``."""
        residual = fork_if_hooked(self.hook_resid_pre, residual)
        inputs = self.attn.split_inputs(residual, flags.use_split_qkv_input, flags.use_attn_in)
        if is_hooked(self.ln1):
            # A norm that does nothing hands on what it is given.
            inputs = _apart(inputs)
        inputs = self._normalised(inputs)
        if is_hooked(self.attn):
            inputs, earlier = _apart(inputs), _apart(earlier)
        attn_out, outgoing = self.attn(inputs, earlier, flags.use_attn_result)
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


class HookedStreamTransformer(ToolSurface):
    """The model that a :class:`circuits.config.model.ModelConfig` describes.

    ``model.config`` is that description and always tells what the model does now; ``model.cfg`` is the view of it that
    transformer-lens' tools read, with their flags. Weights start from ``seed`` and their names alone.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        seed = whole("seed", seed, least=-(2**63))
        self.config = config
        self.cfg = bridge_config(config, torch.device("cpu"), torch.float32)
        self.embed = Embed(config) if config.inputs.project else nn.Identity()
        self.hook_embed = HookPoint()
        if config.positions != "none":
            self.hook_pos_embed = HookPoint()
        self.pos_embed = PosEmbed(config) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self._still_read = [frozenset(self.reads_from(layer + 1)) for layer in range(config.n_layers)]
        self.ln_final = Norm(config) if config.normalization else nn.Identity()
        self.readout = nn.ModuleList(ReluLayer(config) for _ in range(config.readout.depth))
        self.unembed = self._unembed()
        self.setup()
        self.init_weights(seed)

    def _unembed(self) -> Unembed:
        if self.config.tied_embedding and isinstance(self.embed, Embed):
            return TiedUnembed(self.config, self.embed)
        return Unembed(self.config, bias=self.config.readout.bias)

    @property
    def layers(self) -> list[Block]:
        """The blocks, as a list that knows its type."""
        return list(self.blocks)  # type: ignore[arg-type] # the ModuleList holds nothing else

    @property
    def relu_layers(self) -> list[ReluLayer]:
        """The readout's ReLU layers, as a list that knows its type."""
        return list(self.readout)  # type: ignore[arg-type] # the ModuleList holds nothing else

    def init_weights(self, seed: int) -> None:
        """Start every parameter afresh from ``seed``; parameters that two architectures share start equal."""
        if next(self.parameters()).is_meta:
            return  # shapes without values, as counting parameters needs
        for module in self.modules():
            if isinstance(module, Initialised):
                module.reset_parameters(seed)
        self._change_starts()

    @torch.no_grad()
    def _change_starts(self) -> None:
        parameters = dict(self.named_parameters())
        at_start = {
            change.add: parameters[known("weight", change.add, parameters)].clone()
            for change in self.config.starts
            if change.add
        }
        for change in self.config.starts:
            weight = parameters[known("weight", change.weight, parameters)]
            weight.mul_(change.scale)
            if change.add:
                weight.add_(at_start[change.add])

    # --- forward ------------------------------------------------------------------------------------------------

    def forward(
        self,
        inputs: Tensor | str | Sequence[str],
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        outgoing: Outgoing | None = None,
    ) -> Any:
        """Return logits (batch pos d_vocab_out), or what ``return_type`` asks for.

        ``inputs`` are (batch pos d_input) vectors, (batch pos) tokens, text if the model has a tokenizer, or with
        ``start_at_layer`` the residual stream (batch pos d_model), together with the ``outgoing`` tensors that later
        layers read. With ``stop_at_layer`` the residual stream before that layer comes back. Negative layers count
        from the end, and n_layers is the end. ``"loss"`` is the mean next-token cross-entropy in nats; ``None``
        computes all but the unembedding.

        Raises:
            ValueError: for inputs that do not fit, a layer that the model does not have, a start at a later layer
                without the tensors it reads, an unknown ``return_type``, or a loss of inputs that are not tokens.
        """
        self.check_not_compiled_with_hooks()
        if not isinstance(inputs, Tensor):
            inputs = self._tokens_to_run(inputs, return_type)
        self._check_return_type(return_type, inputs)
        start = 0 if start_at_layer is None else self._layer(start_at_layer, "start_at_layer")
        stop = self.config.n_layers if stop_at_layer is None else self._layer(stop_at_layer, "stop_at_layer")
        require(
            start_at_layer is not None or not outgoing,
            "outgoing is what earlier layers passed on, for a start at a later one: give start_at_layer too",
        )
        require(start <= stop, f"start_at_layer = {start_at_layer} comes after stop_at_layer = {stop_at_layer}")
        if start_at_layer is None:
            self._check_inputs(inputs)
            residual = self.input_residual(inputs)
        else:
            self._check_start(start, inputs, outgoing or {})
            residual, outgoing = inputs.clone(), _apart(outgoing or {})
        residual, _ = self._run(residual, outgoing or {}, range(start, stop))
        if stop_at_layer is not None:
            return residual
        if return_type is None:
            # For those that listen: what is cached without a return type has all points of the readout too.
            self._before_unembed(residual)
            return None
        logits = self.read_out(residual)
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, inputs)
        return loss if return_type == "loss" else (logits, loss)

    def _run(self, residual: Residual, outgoing: Outgoing, layers: Sequence[int]) -> tuple[Residual, Outgoing]:
        for layer in layers:
            block = self.layers[layer]
            given = (residual.clone(), _apart(outgoing)) if is_hooked(block) else (residual, outgoing)
            residual, passed = block(*given, self.cfg)
            # What nobody reads any more is let go, as it would only take memory.
            outgoing = {key: x for key, x in {**outgoing, **passed}.items() if key in self._still_read[layer]}
        return residual, outgoing

    def input_residual(self, inputs: Tensor) -> Residual:
        """Return the residual stream before the first layer: embeddings plus positions."""
        embedded = self._embedded(inputs)
        return F.dropout(embedded, self.config.dropout) if self.config.dropout and self.training else embedded

    def _embedded(self, inputs: Tensor) -> Residual:
        if self._bank is not None and not inputs.is_floating_point():
            inputs = self._bank[inputs]
        if self.config.positions == "one-hot":
            # An exact split: each component belongs to one of the two, so their sum is the input itself.
            is_position = torch.arange(self.config.d_model, device=inputs.device) < self.config.n_ctx
            content = self.hook_embed(torch.where(is_position, 0.0, inputs))
            return content + self.hook_pos_embed(torch.where(is_position, inputs, 0.0))
        # Without an embedding, these are the caller's own vectors.
        plain = isinstance(self.embed, nn.Identity) and not torch.compiler.is_compiling()
        embedded = fork_if_hooked(self.hook_embed, self.embed(inputs.clone() if plain else inputs))
        if self.pos_embed is None:
            return embedded
        return embedded + fork_if_hooked(self.hook_pos_embed, self.pos_embed(embedded))

    def read_out(self, residual: Residual) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Return the logits of a final residual stream."""
        return self.unembed(self._before_unembed(residual))

    def _before_unembed(self, residual: Residual) -> Residual:
        z = self.ln_final(residual)
        for layer in self.readout:
            z = layer(z)
        return z

    def state(self, inputs: Tensor, layer: int) -> State:
        """Return all that layers from ``layer`` on depend on, so that ``run_state`` gives what ``forward`` gives.

        The residual stream alone is not it: on a model with a stream, later layers also read earlier projections. A
        negative layer counts from the end, and n_layers is the end.

        Raises:
            ValueError: for inputs that do not fit, or a layer that the model does not have.
        """
        layer = self._layer(layer, "layer")
        self._check_inputs(inputs)
        residual, outgoing = self._run(self.input_residual(inputs), {}, range(layer))
        return State(layer, residual, {key: outgoing[key] for key in self.reads_from(layer)})

    def run_state(self, state: State, **kwargs: Any) -> Any:
        """Return ``forward``'s result from a :class:`State`."""
        return self(state.residual, start_at_layer=state.layer, outgoing=state.outgoing, **kwargs)

    def reads_from(self, layer: int) -> list[tuple[int, Carrier]]:
        """Return the (layer, carrier) of the tensors of layers before ``layer`` that it or later layers read.

        Raises:
            ValueError: for a layer that the model does not have; negative ones count from the end, n_layers is the end.
        """
        layer = self._layer(layer, "layer")
        needs = {need for block in self.layers[layer:] for need in block.attn.needs()}
        return sorted(need for need in needs if need[0] < layer)

    # --- checks at the edge ---------------------------------------------------------------------------------------

    def _layer(self, layer: int, what: str) -> int:
        n = self.config.n_layers
        require(
            isinstance(layer, Integral) and not isinstance(layer, bool) and -n <= layer <= n,
            f"{what} = {layer!r} is no layer of this model: it has {n}, numbered from 0; {n} stands for the end, and "
            f"-1 for the last one",
        )
        return int(layer) % n if layer < 0 else int(layer)

    def _check_inputs(self, inputs: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        if self._bank is not None and not inputs.is_floating_point():
            inputs = self._bank[inputs]
        want = "(batch, pos) token numbers" if self.config.inputs.are_tokens else self._vectors_wanted()
        got = f"got {tuple(inputs.shape)} of {inputs.dtype}"
        if self.config.inputs.are_tokens:
            fits = inputs.ndim == 2 and inputs.dtype in (torch.int64, torch.int32)
        else:
            fits = inputs.ndim == 3 and inputs.shape[-1] == self.config.inputs.rows
            fits = fits and inputs.dtype == self.cfg.dtype
        if not fits:
            raise ValueError(f"this model takes {want}, {got}")
        if inputs.shape[1] > self.config.n_ctx:
            raise ValueError(f"a sequence of {inputs.shape[1]} positions is longer than n_ctx = {self.config.n_ctx}")
        if not self.training:
            self._check_values(inputs)

    def _check_return_type(self, return_type: str | None, inputs: Tensor) -> None:
        if return_type is None or return_type == "logits":
            return
        known("return_type", return_type, RETURN_TYPES)
        if inputs.is_floating_point() or not self.config.inputs.are_tokens:
            raise ValueError(
                f"return_type = {return_type!r} is the loss of predicting the next token, and these inputs are not a "
                "sequence of tokens; take the logits, and the loss of your task of them"
            )

    def _vectors_wanted(self) -> str:
        width = self.config.inputs.rows
        return (
            f"(batch, pos, {width}) vectors of {self.cfg.dtype}; use inputs.to(model.cfg.dtype) for another precision"
        )

    def _check_values(self, inputs: Tensor) -> None:
        if not inputs.numel():
            raise ValueError(f"there is nothing to run: the inputs have the shape {tuple(inputs.shape)}")
        values = values_of(inputs)
        if values is None:
            return
        if self.config.inputs.are_tokens:
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= self.config.inputs.rows:
                raise ValueError(f"token numbers from {low} to {high}, but d_vocab = {self.config.inputs.rows}")
        elif not bool(torch.isfinite(values).all()):
            bad = (~torch.isfinite(values)).any(-1).nonzero()[0].tolist()
            raise ValueError(
                f"the inputs hold NaN or infinity, first at (batch, pos) = {tuple(bad)}; find where they come from"
            )

    def _check_start(self, layer: int, residual: Tensor, outgoing: Outgoing) -> None:
        if torch.compiler.is_compiling():
            return
        missing = [key for key in self.reads_from(layer) if key not in outgoing]
        if missing:
            raise ValueError(
                f"layers from {layer} on also read {[f'{c} of layer {j}' for j, c in missing]} through the stream, "
                f"which the residual stream does not hold; pass outgoing=, or use model.state(inputs, {layer}) and "
                f"model.run_state(state)"
            )
        got = f"got {tuple(residual.shape)} of {residual.dtype}"
        require(
            residual.ndim == 3 and residual.shape[-1] == self.config.d_model and residual.is_floating_point(),
            f"with start_at_layer, the input is the residual stream (batch, pos, {self.config.d_model}) before that "
            f"layer, {got}; model(inputs, stop_at_layer={layer}) gives it",
        )
        where = tuple(residual.shape[:2])
        require(
            where[1] <= self.config.n_ctx,
            f"a sequence of {where[1]} positions is longer than n_ctx = {self.config.n_ctx}",
        )
        for (source, carrier), tensor in outgoing.items():
            require(
                tuple(tensor.shape[:2]) == where,
                f"outgoing {carrier} of layer {source} is of (batch, pos) = {tuple(tensor.shape[:2])}, the residual "
                f"stream of {where}; take both from one model.state",
            )

    # --- gates ------------------------------------------------------------------------------------------------------

    def set_gate(self, gate: Gate, carrier: Carrier | None = None) -> None:
        """Set the gate of one stream, or of all; ``model.config`` follows. Gate rules are dropped where it is set.

        Raises:
            ValueError: if no such stream exists, or for an unknown gate.
        """
        fed = [stream.carrier for stream in self.config.streams]
        if not fed or (carrier is not None and carrier not in fed):
            raise ValueError(f"there is no {carrier or ''} stream to set a gate on; this model's streams feed {fed}")
        self._set_streams(
            dataclasses.replace(s, gate=gate, gate_rules=()) if carrier in (None, s.carrier) else s
            for s in self.config.streams
        )

    def _set_streams(self, streams: Any) -> None:
        self.config = dataclasses.replace(self.config, streams=tuple(streams))
        for block in self.layers:
            block.attn.set_gates(self.config)

    @contextmanager
    def gated(self, gate: Gate, carrier: Carrier | None = None) -> Iterator[HookedStreamTransformer]:
        """Set a gate for the length of a ``with`` block."""
        before = self.config.streams
        self.set_gate(gate, carrier)
        try:
            yield self
        finally:
            self._set_streams(before)

    @contextmanager
    def regated(self, change: Mapping[Gate, Gate]) -> Iterator[HookedStreamTransformer]:
        """Exchange gates, those of single connections included, for the length of a ``with`` block."""
        before = self.config.streams
        self._set_streams(
            dataclasses.replace(
                stream,
                gate=change.get(stream.gate, stream.gate),
                gate_rules=tuple(
                    dataclasses.replace(rule, gate=change.get(rule.gate, rule.gate)) for rule in stream.gate_rules
                ),
            )
            for stream in before
        )
        try:
            yield self
        finally:
            self._set_streams(before)

    # --- the final norm ---------------------------------------------------------------------------------------------

    def fold_layer_norm(self) -> HookedStreamTransformer:
        """Return a model with the same logits whose final norm has no weights; this one stays as it is.

        They are in an unembedding of its own, with a bias. So what was written to the residual stream, centred and
        divided by the final norm's scale, times W_U, plus b_U, adds up to the logits: direct logit attribution and
        logit lens are exact. Weights of the other norms, and what the stream carries, stay as they are.

        Raises:
            ValueError: for a readout that is not linear, or while hooks are attached.
        """
        from circuits.folding import with_folded_norm

        return with_folded_norm(self)

    # --- for people -------------------------------------------------------------------------------------------------

    def describe(self) -> Any:
        """Return a table (pandas) of what flows where: layer, carrier, sources, gain, transform, gate, hook names."""
        from circuits.description import flows

        return flows(self)

    def __repr__(self) -> str:
        from circuits.description import summary

        return summary(self)
