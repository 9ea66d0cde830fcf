"""Attention whose queries, keys and values may mix with those of other layers before they are used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens import FactoredMatrix
from transformer_lens.hook_points import HookPoint

from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, Carrier
from circuits.initial_weights import Constant, EyeOfHeads, Initialised, Normal
from circuits.layers import HeadNorm, Residual, softcapped
from circuits.places import Places, turned
from circuits.products import affine
from circuits.streams.mixing import Key, Mix, Outgoing, scaled
from circuits.streams.transforms import ByCarrier, HeadTensor
from circuits.transformerlens.hooks import Fusing, fork, fork_if_hooked

HeadInput = Float[Tensor, "batch pos *head d_model"]


def _projected(
    x: HeadInput, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"] | None = None
) -> HeadTensor:
    if x.ndim == 4:
        y = einsum(x, weight, "batch pos head d_model, head d_model d_head -> batch pos head d_head")
        return y if bias is None else y + bias
    if x.shape[1] == 1:
        # A next token alone: to bring the weights into one matrix would take longer than the product.
        y = torch.matmul(x.transpose(0, 1), weight).permute(1, 0, 2)[:, None]
        return y if bias is None else y + bias
    rows = rearrange(weight, "head d_model d_head -> (head d_head) d_model")
    y = affine(x, rows.T, None if bias is None else bias.flatten())
    return rearrange(y, "batch pos (head d_head) -> batch pos head d_head", head=len(weight))


def _per_head(residual: Residual, heads: int) -> Float[Tensor, "batch pos head d_model"]:
    return repeat(residual, "batch pos d_model -> batch pos head d_model", head=heads).clone()


class Attention(Initialised, Fusing):
    """One attention layer.

    Hook points, for every carrier c in q, k, v (each batch pos head d_head), only where they can fire:
    ``hook_c`` the layer's own projection; ``hook_c_residual`` what comes in past the gate; ``hook_c_mixed`` what
    attention uses (in a model with a c stream: at every layer); ``hook_c_stream`` what the layer passes on. Then
    ``hook_rot_q`` and ``hook_rot_k``, queries and keys past rotary positions and norms of theirs, where there are any;
    ``hook_attn_scores`` and ``hook_pattern`` (batch head query key), ``hook_z``, ``hook_result``. Keys and values have
    ``config.n_key_value_heads`` heads.
    """

    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor
    b_Q: Tensor
    b_K: Tensor
    b_V: Tensor
    b_O: Tensor

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.window = config, layer, config.window(layer)
        heads, width, d_model = config.n_heads, config.d_head, config.d_model
        self.own: list[Carrier] = [c for c in CARRIERS if config.has_own(layer, c)]
        self.mixed: list[Carrier] = [c for c in CARRIERS if config.stream_into(c)]
        read: dict[Carrier, str] = {
            c: next(s.passes_on for s in config.streams if s.reads == c) for c in CARRIERS if config.readers(layer, c)
        }
        # The carriers that some layer reads from this one.
        self.passes_own: list[Carrier] = [c for c in read if read[c] == "own"]
        self.passes_mixed: list[Carrier] = [c for c in read if read[c] == "mixed"]
        # Of what is passed on raw, that which is the layer's own projection itself: only here does a change of the
        # projection go down the stream.
        self.carries_own: list[Carrier] = [c for c in self.passes_own if config.extra_weights(c) == "own"]
        for c in CARRIERS:
            name, n = c.upper(), config.heads_of(c)
            self._weight(f"W_{name}", (n, d_model, width), learned=c in self.own)
            self._weight(f"b_{name}", (n, width), learned=config.biases and c in self.own)
        self._weight("W_O", (heads, width, d_model), learned=config.output_matrix)
        self._weight("b_O", (d_model,), learned=config.biases and config.output_bias)
        # Where a stream does not carry the layer's own projections, what makes them has weights of its own.
        for c in self.passes_own:
            name, kind = f"W_{c.upper()}_stream", config.extra_weights(c)
            if kind == "untied":
                self._weight(name, (config.heads_of(c), d_model, width), learned=True)
            elif kind == "initial":
                self.register_buffer(name, torch.empty(config.heads_of(c), d_model, width))
        self.mix = nn.ModuleDict(
            {s.carrier: Mix(config, s, layer) for s in config.streams if s.topology.sources(layer)}
        )
        carriers = [*self.own, *(f"{c}_residual" for c in self.mix), *(f"{c}_mixed" for c in self.mixed)]
        carriers += [f"{c}_stream" for c in (*self.passes_own, *self.passes_mixed)]
        inputs = ["attn_in", "q_input", "k_input", "v_input"]
        # Where what is compared is not what was mixed.
        self.compares_other = config.rotary is not None or config.qk_norm is not None
        compared = ["rot_q", "rot_k"] if self.compares_other else []
        if config.qk_norm:
            self.q_norm, self.k_norm = (HeadNorm(config, config.qk_norm, config.heads_of(c)) for c in CARRIERS[:2])
        for name in (*inputs, *carriers, *compared, "attn_scores", "pattern", "z", "result"):
            self.add_module(f"hook_{name}", HookPoint())

    def _weight(self, name: str, shape: tuple[int, ...], learned: bool) -> None:
        # What an architecture lacks is a zero (or, for W_O, the identity) that no state_dict holds, so that every tool
        # that asks for a weight by its TransformerLens name is told the truth about what the layer computes.
        if learned:
            std = self.config.weight_std("attention")
            self.learn(name, shape, Constant(0.0) if name.startswith("b") else Normal(std))
        else:
            self.fix(name, shape, EyeOfHeads() if name == "W_O" else Constant(0.0))

    def reset_parameters(self, seed: int | None = None) -> None:
        """Start all own parameters afresh, and with them what keeps their initial values."""
        super().reset_parameters(seed)
        for c in self.passes_own:
            if self.config.extra_weights(c) == "initial":
                self.passing_weight(c).copy_(getattr(self, f"W_{c.upper()}").detach())

    def passing_weight(self, carrier: Carrier) -> Tensor:
        """Return the weight that makes what this layer passes on of ``carrier`` (head d_model d_head)."""
        own = self.config.extra_weights(carrier) == "own"
        return getattr(self, f"W_{carrier.upper()}" if own else f"W_{carrier.upper()}_stream")

    def per_query_head(self, tensor: Tensor, axis: int) -> Tensor:
        """Return what there is for every head of keys and values for every head of queries that uses it."""
        shared = self.config.n_heads // self.config.heads_of("v")
        return tensor if shared == 1 else tensor.repeat_interleave(shared, axis)

    @property
    def OV(self) -> FactoredMatrix:
        """The layer's own OV circuit as a FactoredMatrix (head d_model d_model); the stream's part is not in it."""
        return FactoredMatrix(self.per_query_head(self.W_V, 0), self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """The layer's own QK circuit as a FactoredMatrix (head d_model d_model)."""
        return FactoredMatrix(self.W_Q, self.per_query_head(self.W_K, 0).transpose(-2, -1))

    def point(self, name: str) -> HookPoint:
        """Return the hook point ``hook_<name>``."""
        return self.get_submodule(f"hook_{name}")  # type: ignore[return-value] # every such submodule is a HookPoint

    def split_inputs(self, residual: Residual, split: bool, shared: bool) -> dict[Carrier, Tensor]:
        """Return the input of every carrier, a copy per head where a flag asks for it (batch pos head d_model)."""
        if not (split or shared):
            return {c: residual for c in CARRIERS}
        if split:
            copies = {c: _per_head(residual, self.config.heads_of(c)) for c in CARRIERS}
            return {c: self.point(f"{c}_input")(copies[c]) for c in CARRIERS}
        shared_input = self.point("attn_in")(_per_head(residual, self.config.n_heads))
        return {c: shared_input for c in CARRIERS}

    def forward(
        self,
        inputs: dict[Carrier, Tensor],
        earlier: Outgoing,
        use_attn_result: bool = False,
        places: Places | None = None,
    ) -> tuple[Residual, Outgoing]:
        """Return what the layer adds to the residual stream, and what it passes on to other layers.

        ``inputs`` holds (batch pos d_model) or per-head (batch pos head d_model) inputs of the three projections;
        ``earlier`` must hold all that this layer reads (:meth:`needs`).
        """
        used, outgoing = self.mix_in(self.project(inputs), inputs, earlier)
        return self.output(self.attend(used, places), use_attn_result), outgoing

    def project(self, inputs: dict[Carrier, Tensor], carriers: Sequence[Carrier] = CARRIERS) -> ByCarrier:
        """Return the layer's own queries, keys and values, those of ``carriers`` that it has."""
        return {c: self.point(c)(self.project_one(inputs[c], c)) for c in self.own if c in carriers}

    def mix_in(
        self,
        own: ByCarrier,
        inputs: dict[Carrier, Tensor],
        earlier: Outgoing,
        carriers: Sequence[Carrier] = CARRIERS,
    ) -> tuple[ByCarrier, Outgoing]:
        """Return the queries, keys and values that attention uses (``carriers`` of them), and what the layer passes on.

        ``own`` must hold what :meth:`needed_own` names. Each position is mixed by itself, so the tensors may be of some
        positions only.
        """
        outgoing: Outgoing = {}
        for c in self.passes_own:
            if c in own:
                carried = c in self.carries_own
                passing = own[c] if carried else _projected(inputs[c], self.passing_weight(c))
                outgoing[(self.layer, c)] = fork(self.point(f"{c}_stream"), passing)
        used: ByCarrier = {c: own[c] for c in carriers if c not in self.mixed}
        available = {**earlier, **outgoing}
        used |= {c: self._mixed(c, own.get(c), inputs[c], available) for c in self.mixed if c in carriers}
        for c in self.passes_mixed:
            if c in used:
                outgoing[(self.layer, c)] = fork(self.point(f"{c}_stream"), used[c])
        return used, outgoing

    def needed_own(self, carriers: Sequence[Carrier]) -> list[Carrier]:
        """Return the own projections that mixing ``carriers`` takes, with those of within-layer connections."""
        within = {mix.reads for c, mix in self.mixes() if c in carriers and len(mix.needs) < len(mix.sources)}
        return [c for c in self.own if c in carriers or c in within]

    def attend(self, used: ByCarrier, places: Places | None = None) -> HeadTensor:
        """Return every head's output, before the output matrix; without ``places``, of a whole sequence.

        With a cache in ``places``, keys and values are those of the new tokens, and what it holds stands before them.

        In training mode, where nothing listens at scores and pattern, they are never formed: torch's fused attention
        takes their place. Its derivative cannot be derived again; for second derivatives in training mode run the model
        inside ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
        """
        places = places or Places.whole(used["k"].shape[1], used["k"].device)
        q, k = self.compared(used["q"], used["k"], places)
        v = used["v"]
        if places.cache is not None:
            k, v = places.cache.extended(self.layer, k, v)
        dropout = self.config.dropout if self.training else 0.0
        if self.config.score_softcap is None and self.may_fuse(self.point("attn_scores"), self.point("pattern")):
            scale = None if self.config.attention_scale is True else self.config.score_factor
            causal = places.are_whole and self.window is None
            seen = None if causal else ~places.hidden(self.window)
            shared = self.config.heads_of("v") < self.config.n_heads
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            z = F.scaled_dot_product_attention(q, k, v, seen, dropout, causal, scale=scale, enable_gqa=shared)
            return fork_if_hooked(self.point("z"), z.transpose(1, 2))
        pattern = self.pattern(q, k, places)
        pattern = F.dropout(pattern, dropout) if dropout else pattern
        v = self.per_query_head(v, 2)
        return self.point("z")(einsum(pattern, v, "batch head q k, batch k head d_head -> batch q head d_head"))

    def compared(
        self, q: Float[Tensor, "batch q head d_head"], k: Float[Tensor, "batch k kv_head d_head"], places: Places
    ) -> tuple[HeadTensor, Float[Tensor, "batch k kv_head d_head"]]:
        """Return queries and keys as they are compared: turned by rotary positions and normalised, in their order."""
        if not self.compares_other:
            return q, k
        return self._compared("q", q, places.queries), self._compared("k", k, places.keys[:, -k.shape[1] :])

    def _compared(self, carrier: Carrier, x: HeadTensor, at: Int[Tensor, "row pos"]) -> HeadTensor:
        rotary, norm = self.config.rotary, self.config.qk_norm
        if norm and not norm.after_rotary:
            x = self.get_submodule(f"{carrier}_norm")(x)
        x = turned(x, at, rotary) if rotary else x
        if norm and norm.after_rotary:
            x = self.get_submodule(f"{carrier}_norm")(x)
        return fork_if_hooked(self.point(f"rot_{carrier}"), x)

    def project_one(self, x: HeadInput, carrier: Carrier) -> HeadTensor:
        """Return the queries, keys or values of an input."""
        bias = getattr(self, f"b_{carrier.upper()}") if self.config.biases else None
        return _projected(x, getattr(self, f"W_{carrier.upper()}"), bias)

    def _mixed(self, c: Carrier, own: HeadTensor | None, x: HeadInput, available: Outgoing) -> HeadTensor:
        if own is not None and c not in self.mix:
            return fork(self.point(f"{c}_mixed"), own)
        mix = dict(self.mixes())[c]
        gains = mix.gains(x)
        incoming = mix.incoming([available[(layer, mix.reads)] for layer in mix.sources], gains)
        incoming = fork_if_hooked(self.point(f"{c}_residual"), incoming)
        if own is None:
            return fork(self.point(f"{c}_mixed"), incoming)
        return self.point(f"{c}_mixed")(scaled(gains[0], own) + incoming)

    def pattern(
        self,
        q: Float[Tensor, "batch q head d_head"],
        k: Float[Tensor, "batch k kv_head d_head"],
        places: Places,
    ) -> Float[Tensor, "batch head q k"]:
        """Return the attention of every query to every key that it sees, both as they are compared."""
        k = self.per_query_head(k, 2)
        scores = einsum(q, k, "batch q head d_head, batch k head d_head -> batch head q k")
        if self.config.attention_scale is True:
            scores = scores / math.sqrt(self.config.d_head)
        elif self.config.score_factor != 1:
            scores = scores * self.config.score_factor
        scores = softcapped(scores, self.config.score_softcap)
        scores = self.point("attn_scores")(scores.masked_fill(places.hidden(self.window), -torch.inf))
        return fork_if_hooked(self.point("pattern"), scores.softmax(-1))

    def output(self, z: HeadTensor, use_attn_result: bool = False) -> Residual:
        """Return what the layer adds to the residual stream."""
        if use_attn_result:
            result = self.point("result")(einsum(z, self.W_O, "b pos head width, head width out -> b pos head out"))
            return result.sum(-2) + self.b_O
        joined = rearrange(z, "batch pos head width -> batch pos (head width)")
        if not self.config.output_matrix:
            # Never the same storage as z, which a setter at hook_attn_out would edit.
            return joined.clone() if self.bias is None else joined + self.bias
        return affine(joined, self.W_O.flatten(0, 1), self.bias)

    @property
    def bias(self) -> Float[Tensor, " d_model"] | None:
        """What is added to the heads' outputs, if anything is."""
        return self._parameters.get("b_O")

    def needs(self) -> list[Key]:
        """Return whose tensors, of other layers or of tables, this layer reads."""
        return [need for _, mix in self.mixes() for need in mix.needs]

    def set_gates(self, config: ModelConfig) -> None:
        """Take the gates of ``config``, which differs from the present configuration in nothing else."""
        self.config = config
        for stream in config.streams:
            for carrier, mix in self.mixes():
                if carrier == stream.carrier:
                    mix.set_gates(config, stream)

    def mixes(self) -> list[tuple[Carrier, Mix]]:
        """Return the carriers that something comes in for at this layer, each with its mixing rule."""
        return list(self.mix.items())  # type: ignore[return-value] # the ModuleDict holds nothing else
