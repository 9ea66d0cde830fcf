"""``HookedStreamTransformer``: a transformer whose attention layers may pass queries, keys and values to each other.

It stands on transformer-lens' ``HookedRootModule`` and carries HookedTransformer's parameter names, hook names and
weight properties, so that transformer-lens' tools work on it; read ``attention.py`` for what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuits.block import Block, apart
from circuits.cache import KeyValueCache
from circuits.common.errors import require, whole
from circuits.config.model import ModelConfig
from circuits.description import Described
from circuits.embeddings import Embed, PosEmbed, SmearGate, TiedUnembed, Unembed, ValueEmbed
from circuits.folding import with_folded_norm
from circuits.gates import Gated
from circuits.generation import Generates
from circuits.initial_weights import Initialised, change_starts
from circuits.input_checks import check_cache, check_inputs, check_return_type, check_start, checked_mask, layer_number
from circuits.layers import BackoutGain, Norm, ReluLayer, Residual, softcapped
from circuits.loss import next_token_loss
from circuits.places import Places
from circuits.streams.mixing import Key, Outgoing
from circuits.streams.registering import check_parts
from circuits.transformerlens.hooks import bridge_config, fork, fork_if_hooked, is_hooked


class State(NamedTuple):
    """All that layer ``layer`` and later ones depend on: the residual stream before it is only a part of it."""

    layer: int
    residual: Residual
    outgoing: Outgoing


class Embedded(NamedTuple):
    """What inputs become before the first layer: the residual stream, and rows of tables of value embeddings."""

    residual: Residual
    tables: Outgoing


class HookedStreamTransformer(Described, Gated, Generates):
    """The model that a :class:`circuits.config.model.ModelConfig` describes.

    ``model.config`` is that description and always tells what the model does now; ``model.cfg`` is the view of it that
    transformer-lens' tools read, with their flags. Weights start from ``seed`` and their names alone.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        seed = whole("seed", seed, None)
        self.config = config
        self.cfg = bridge_config(config, torch.device("cpu"), torch.float32)
        self.embed = Embed(config) if config.inputs.project else nn.Identity()
        self.hook_embed = HookPoint()
        if config.positions != "none":
            self.hook_pos_embed = HookPoint()
        self.pos_embed = PosEmbed(config) if config.positions == "learned" else None
        self.smear = SmearGate(config.smear) if config.smear else None
        if config.residual_scalars:
            self.hook_x0 = HookPoint()
        stream = config.token_stream
        self.value_embeds = nn.ModuleDict({str(n): ValueEmbed(config, stream) for n in config.tables} if stream else {})
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self._still_read = [frozenset(self.reads_from(layer + 1)) for layer in range(config.n_layers)]
        self.backout = BackoutGain(config.backout.gain) if config.backout else None
        self.ln_final = Norm(config, config.normalization) if config.normalization else nn.Identity()
        self.readout = nn.ModuleList(ReluLayer(config) for _ in range(config.readout.depth))
        if config.tied_embedding and isinstance(self.embed, Embed):
            self.unembed = TiedUnembed(config, self.embed)
        else:
            self.unembed = Unembed(config, bias=config.readout.bias)
        self.setup()
        self.init_weights(seed)
        if not next(self.parameters()).is_meta:
            check_parts(config, (mix for block in self.layers for _, mix in block.attn.mixes()))

    @property
    def relu_layers(self) -> list[ReluLayer]:
        """The readout's ReLU layers, as a list that knows its type."""
        return list(self.readout)  # type: ignore[arg-type] # the ModuleList holds nothing else

    def init_weights(self, seed: int) -> None:
        """Start every parameter afresh from ``seed``; parameters that two architectures share start equal.

        Raises:
            ValueError: if ``seed`` is not a whole number, before any parameter is changed.
        """
        seed = whole("seed", seed, None)
        if next(self.parameters()).is_meta:
            return  # shapes without values, as counting parameters needs
        for module in self.modules():
            if isinstance(module, Initialised):
                module.reset_parameters(seed)
        change_starts(dict(self.named_parameters()), self.config.starts)

    # --- forward ------------------------------------------------------------------------------------------------

    def forward(
        self,
        inputs: Tensor | str | Sequence[str],
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        outgoing: Outgoing | None = None,
        attention_mask: Tensor | None = None,
        prepend_bos: bool | None = None,
        loss_per_token: bool = False,
        past_kv_cache: KeyValueCache | None = None,
    ) -> Any:
        """Return logits (batch pos d_vocab_out), or what ``return_type`` asks for.

        ``inputs`` are (batch pos d_input) vectors, (batch pos) tokens, text if the model has a tokenizer, or with
        ``start_at_layer`` the residual stream (batch pos d_model), together with the ``outgoing`` tensors that later
        layers read. With ``stop_at_layer`` the residual stream before that layer comes back. Negative layers count
        from the end, and n_layers is the end. ``"loss"`` is the mean next-token cross-entropy in nats, or with
        ``loss_per_token`` each by itself (batch pos - 1); ``None`` computes all but the unembedding.

        ``attention_mask`` (batch pos) is 0 at padding, on either side: no token sees it, none is counted from it, and
        it is in no loss. ``prepend_bos`` says whether text is opened, by default ``model.cfg.default_prepend_bos``.
        With ``past_kv_cache`` the inputs follow on those that it holds, and are added to it once the pass has ended.

        Raises:
            ValueError: for inputs that do not fit, or not to the cache, a layer that the model does not have, a start
                at a later layer without the tensors it reads, a part of the layers with a cache, an unknown
                ``return_type``, or a loss of inputs that are not tokens, or of which no token is a next one.
        """
        self.check_not_compiled_with_hooks()
        if not isinstance(inputs, Tensor):
            inputs, attention_mask = self._tokens_to_run(inputs, return_type, prepend_bos, attention_mask)
        is_token = None if attention_mask is None else checked_mask(attention_mask, inputs)
        check_return_type(self.config, return_type, inputs)
        start = 0 if start_at_layer is None else layer_number(self.config, start_at_layer, "start_at_layer")
        end = self.config.n_layers
        stop = end if stop_at_layer is None else layer_number(self.config, stop_at_layer, "stop_at_layer")
        require(
            start_at_layer is not None or not outgoing,
            "outgoing is what earlier layers passed on, for a start at a later one: give start_at_layer too",
        )
        require(start <= stop, f"start_at_layer = {start_at_layer} comes after stop_at_layer = {stop_at_layer}")
        if start_at_layer is None:
            check_inputs(self, inputs)
        elif not torch.compiler.is_compiling():
            check_start(self.config, start, self.reads_from(start), inputs, outgoing or {})
        if past_kv_cache is not None:
            check_cache(self.config, past_kv_cache, inputs, start_at_layer is None and stop == end)
        places = self._places(inputs, is_token, past_kv_cache)
        if start_at_layer is None:
            state = self.start(inputs, places)
        else:
            state = State(start, inputs.clone(), apart(outgoing or {}))
        residual = self._run(state, stop, places).residual
        asked: Any = residual
        if stop_at_layer is None and return_type is None:
            # For those that listen: what is cached without a return type has all points of the readout too.
            self._before_unembed(residual)
            asked = None
        elif stop_at_layer is None:
            asked = logits = self.read_out(residual)
            if return_type != "logits":
                loss = next_token_loss(logits, inputs, is_token, loss_per_token)
                asked = loss if return_type == "loss" else (logits, loss)
        if past_kv_cache is not None and places is not None and places.cache is not None:
            # Not before: a pass that was interrupted can be run again.
            past_kv_cache.take(places.cache)
        return asked

    def _places(self, inputs: Tensor, is_token: Tensor | None, cache: KeyValueCache | None) -> Places | None:
        if cache is None:
            return None if is_token is None else Places.padded(is_token)
        return Places.following(cache, is_token, inputs)

    def _run(self, state: State, stop: int, places: Places | None = None) -> State:
        _, residual, outgoing = state
        for layer in range(state.layer, stop):
            block = self.layers[layer]
            given = (residual.clone(), apart(outgoing)) if is_hooked(block) else (residual, outgoing)
            residual, passed = block(*given, self.cfg, places)
            residual, outgoing = self.passed_on(layer, residual, {**outgoing, **passed})
        return State(stop, residual, outgoing)

    def passed_on(self, layer: int, residual: Residual, outgoing: Outgoing) -> tuple[Residual, Outgoing]:
        """Return what the next layer (or the readout) is given: the residual stream after ``layer`` past scalars, and
        those of ``outgoing`` that are still read."""
        if self.backout is not None and self.config.backout and layer == self.config.backout.layer:
            outgoing = {**outgoing, (layer, "middle"): fork(self.backout.hook_middle, residual)}
        residual = self.entering(layer + 1, residual, outgoing)
        # What nobody reads any more is let go, as it would only take memory.
        return residual, {key: x for key, x in outgoing.items() if key in self._still_read[layer]}

    def entering(self, layer: int, residual: Residual, outgoing: Outgoing) -> Residual:
        """Return the residual stream before a layer (n_layers: before the final norm), from that after the last."""
        if layer < self.config.n_layers:
            scalars = self.layers[layer].scalars
            return residual if scalars is None else scalars(residual, outgoing[0, "x0"])
        if self.backout is None or self.config.backout is None:
            return residual
        return self.backout(residual, outgoing[self.config.backout.layer, "middle"])

    def start(self, inputs: Tensor, places: Places | None = None) -> State:
        """Return all that the first layer and later ones depend on."""
        return self.begin(self.embedded(inputs, places))

    def begin(self, embedded: Embedded) -> State:
        """Return :meth:`start` of inputs that are embedded already."""
        residual, outgoing = embedded.residual, dict(embedded.tables)
        if self.config.residual_scalars:
            outgoing[0, "x0"] = fork(self.hook_x0, residual)
        return State(0, self.entering(0, residual, outgoing), outgoing)

    def embedded(self, inputs: Tensor, places: Places | None = None) -> Embedded:
        """Return what inputs become before the first layer."""
        residual = self.input_residual(inputs, places)
        return Embedded(residual, self.value_embeddings(inputs, residual))

    def value_embeddings(self, inputs: Tensor, start: Residual) -> Outgoing:
        """Return the rows of every table of value embeddings, or the projections of ``start``, the residual stream at
        the start (batch pos head d_head)."""
        return {(int(name), "token"): table(inputs, start) for name, table in self.value_embeds.items()}

    def input_residual(self, inputs: Tensor, places: Places | None = None) -> Residual:
        """Return the residual stream at the start: embeddings plus positions."""
        embedded = self._embedded(inputs, places)
        embedded = embedded if self.smear is None else self.smear(embedded, places)
        return F.dropout(embedded, self.config.dropout) if self.config.dropout and self.training else embedded

    def _embedded(self, inputs: Tensor, places: Places | None) -> Residual:
        inputs = self.bound(inputs)
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
        return embedded + fork_if_hooked(self.hook_pos_embed, self.pos_embed(embedded, places))

    def read_out(self, residual: Residual) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Return the logits of a final residual stream."""
        return softcapped(self.unembed(self._before_unembed(residual)), self.config.logit_softcap)

    def _before_unembed(self, residual: Residual) -> Residual:
        z = self.ln_final(residual)
        for layer in self.readout:
            z = layer(z)
        return z

    def input_to_embed(
        self,
        inputs: Tensor | str | Sequence[str],
        prepend_bos: bool | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Residual, Tensor]:
        """Return the residual stream at the start, and the inputs that it is of: text as its tokens.

        Raises:
            ValueError: for inputs that do not fit.
        """
        if not isinstance(inputs, Tensor):
            inputs = self.to_tokens(inputs, prepend_bos)
        check_inputs(self, inputs)
        is_token = None if attention_mask is None else checked_mask(attention_mask, inputs)
        return self.input_residual(inputs, self._places(inputs, is_token, None)), inputs

    def state(self, inputs: Tensor, layer: int) -> State:
        """Return all that layers from ``layer`` on depend on, so that ``run_state`` gives what ``forward`` gives.

        The residual stream alone is not it: on a model with a stream, later layers also read earlier projections. A
        negative layer counts from the end, and n_layers is the end.

        Raises:
            ValueError: for inputs that do not fit, or a layer that the model does not have.
        """
        layer = layer_number(self.config, layer, "layer")
        check_inputs(self, inputs)
        return self._run(self.start(inputs), layer)

    def run_state(self, state: State, **kwargs: Any) -> Any:
        """Return ``forward``'s result from a :class:`State`."""
        return self(state.residual, start_at_layer=state.layer, outgoing=state.outgoing, **kwargs)

    def reads_from(self, layer: int) -> list[Key]:
        """Return whose tensors, beside the residual stream before ``layer``, it and what follows read.

        Raises:
            ValueError: for a layer that the model does not have; negative ones count from the end, n_layers is the end.
        """
        layer = layer_number(self.config, layer, "layer")
        needs = {need for block in self.layers[layer:] for need in block.attn.needs()}
        needs |= {need for later in range(layer + 1, self.config.n_layers + 1) for need in self.enters(later)}
        return sorted(need for need in needs if need[0] < layer or need[1] in ("token", "x0"))

    def enters(self, layer: int) -> list[Key]:
        """Return what :meth:`entering` a layer, or the readout, takes beside the residual stream."""
        if layer < self.config.n_layers:
            return [(0, "x0")] if self.config.residual_scalars else []
        return [(self.config.backout.layer, "middle")] if self.config.backout else []

    def point_of(self, key: Key) -> str:
        """Return the name of the hook point of what is passed on beside the residual stream."""
        number, what = key
        if what in ("x0", "middle"):
            return "hook_x0" if what == "x0" else "backout.hook_middle"
        stream = self.config.token_stream
        if what == "token" and stream:
            return f"value_embeds.{number}.hook_{stream.carrier}_stream"
        return f"blocks.{number}.attn.hook_{what}_stream"

    # --- the final norm ---------------------------------------------------------------------------------------------

    def fold_layer_norm(self) -> HookedStreamTransformer:
        """Return a model with the same logits whose final norm has no weights; this one stays as it is.

        A norm of token embeddings goes into the embedding.

        They are in an unembedding of its own, with a bias. So what was written to the residual stream, centred and
        divided by the final norm's scale, times W_U, plus b_U, adds up to the logits: direct logit attribution and
        logit lens are exact. Weights of the other norms, and what the stream carries, stay as they are.

        Raises:
            ValueError: for a readout that is not linear, or while hooks are attached.
        """
        return with_folded_norm(self)
