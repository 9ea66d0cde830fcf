"""The fast path: the in-context classifier's logits at the last position, by exact algebra and nothing else.

Only the last position is read, so most of the arithmetic of the all-positions forward is never needed. With x the
input, P the first layer's pattern, one query q at the last position, and the second layer's mixed weights split into
what acts on h (``E``) and, through a stream, on x (``F``):

    h_j = x_j + sum_i P_ji x_i W_V          (the first layer's outputs: never formed, except at the last position)
    score_j = h_j . (E_K q) + x_j . (F_K q) = x_j . (E_K q + F_K q) + sum_i P_ji x_i . (W_V E_K q)
    output  = (sum_j p_j h_j) E_V + (sum_j p_j x_j) F_V,   sum_j p_j h_j = X'p + W_V' X'(P'p)

The first layer's scores x_i W_Q W_K' x_j are linear in A = W_Q W_K', which is formed anew at every step, so both
factors get their own gradients. In x A, one-hot positions are rows of A, label tokens a table of few rows; only the
noisy items are multiplied. No parameter is folded into another: the same parameters, the same gradients, the same
updates. What is left of the work is thin products with x; they are bounded by memory, so each is a single pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, Carrier
from circuits.model import HookedStreamTransformer
from circuits.products import plus_product, product
from circuits.streams.mixing import scaled

Weight = Float[Tensor, "d_model d_head"]


@dataclass(frozen=True)
class SplitTokens:
    """Input sequences with one-hot positions, and their parts, by how cheaply a weight is multiplied with them.

    Tokens are held in the order [items, labels] rather than in sequence; ``place`` says where in the sequence each
    stands. The last item is the last token of the sequence. Attention does not care about the order, given its mask.
    """

    x: Float[Tensor, "batch token d_model"]
    """The whole input vectors: first the one-hot position, then the content."""
    items: Float[Tensor, "batch item d_content"]
    """The items' contents again, in one piece."""
    labels: Int[Tensor, "batch label"]
    """Of every label token, the row of ``table`` that is its content."""
    table: Float[Tensor, "entry d_content"]
    positions: Int[Tensor, "batch token"]
    """The one-hot position of every token."""
    place: Int[Tensor, " token"]

    @staticmethod
    def join(
        n_ctx: int,
        items: Float[Tensor, "batch item d_content"],
        labels: Int[Tensor, "batch label"],
        table: Float[Tensor, "entry d_content"],
        positions: Int[Tensor, "batch token"],
        place: Int[Tensor, " token"],
    ) -> SplitTokens:
        """Return the tokens with their input vectors put together, over ``n_ctx`` one-hot positions."""
        batch, n_items, d_content = items.shape
        x = items.new_zeros(*positions.shape, n_ctx + d_content)
        x[..., :n_ctx].scatter_(2, positions[..., None], 1.0)
        x[:, :n_items, n_ctx:] = items
        x[:, n_items:, n_ctx:] = table.index_select(0, labels.flatten()).view(batch, -1, d_content)
        return SplitTokens(x, items, labels, table, positions, place)

    @property
    def n_ctx(self) -> int:
        """The number of one-hot positions."""
        return self.x.shape[-1] - self.table.shape[-1]

    @property
    def n_items(self) -> int:
        """The number of item tokens."""
        return self.items.shape[1]

    @cached_property
    def mask(self) -> Float[Tensor, "token token"]:
        """0 where the token of a row may attend to that of a column, minus infinity elsewhere; added to the scores."""
        allowed = self.place[:, None] >= self.place[None, :]
        return torch.where(allowed, 0.0, -torch.inf).to(self.x.dtype)

    @cached_property
    def x_columns(self) -> Float[Tensor, "batch d_model token"]:
        """``x`` again, with a token a column: so it stands in memory as the largest product wants it."""
        return self.x.mT.contiguous()

    @property
    def last(self) -> Float[Tensor, "batch d_model"]:
        """The input vector at the last position of every sequence."""
        return self.x[:, self.n_items - 1]

    def dots(self, *vectors: Float[Tensor, "batch d_model"]) -> tuple[Float[Tensor, "batch token"], ...]:
        """Return x_j . v for every token j and each of the vectors."""
        # With the few vectors to the left, x is read once and in order.
        return torch.bmm(torch.stack(vectors, 1), self.x.mT).unbind(1)

    def sums(self, *weights: Float[Tensor, "batch token"]) -> tuple[Float[Tensor, "batch d_model"], ...]:
        """Return sum_j a_j x_j for each of the weightings a."""
        return torch.bmm(torch.stack(weights, 1), self.x).unbind(1)


class FastRun(NamedTuple):
    """What the fast path computes; patterns are over tokens in the order of :class:`SplitTokens`."""

    logits: Float[Tensor, "batch d_vocab_out"]
    first_pattern: Float[Tensor, "batch token token"]
    """The first layer's attention, from every token."""
    last_pattern: Float[Tensor, "batch token"]
    """The second layer's attention, from the last position."""


def why_not(config: ModelConfig) -> str | None:
    """Return why the fast path does not apply to an architecture, or ``None`` where it does."""
    wants: dict[str, bool] = {
        "two layers": config.n_layers == 2,
        "one head": config.n_heads == 1,
        "attention only": config.attn_only,
        "plain input vectors with one-hot positions": config.positions == "one-hot" and not config.inputs.project,
        "no output matrix": not config.output_matrix,
        "no biases": not config.biases,
        "no layer norm": config.normalization is None,
        "no dropout": config.dropout == 0,
        "a ReLU stack": config.readout.is_stack,
        "gains that do not depend on the token or the channel": not any(
            s.gain.depends_on_input or s.gain.is_of_channels for s in config.streams
        ),
        "no rotary positions, norms of queries and keys, windows or caps": not any(
            (config.rotary, config.qk_norm, config.windows, config.score_softcap, config.logit_softcap)
        ),
        "no scalars on the residual stream": not any((config.residual_scalars, config.smear, config.backout)),
        "no tables": not config.tables,
        "full gates and gradients within a layer": all(
            # There what is read is made of h, whose gradient no rule on weights can cut.
            s.gate == "full" and not s.gate_rules and s.gradient == 1
            for s in config.streams
            if s.topology.within_layer
        ),
    }
    lacking = [want for want, holds in wants.items() if not holds]
    return f"the fast path needs {', '.join(lacking)}" if lacking else None


def _pair_products(A: Weight, tokens: SplitTokens) -> Float[Tensor, "batch token token"]:
    """x A x' for every sequence: positions are rows of A, labels rows of a table, only items are multiplied."""
    x, n, n_ctx, positions = tokens.x, tokens.n_items, tokens.n_ctx, tokens.positions
    rows = A.index_select(0, positions.flatten()).view(*positions.shape, -1)
    rows[:, :n] += product(tokens.items.flatten(0, 1), A[n_ctx:]).view(len(x), n, -1)
    rows[:, n:] += product(tokens.table, A[n_ctx:]).index_select(0, tokens.labels.flatten()).view(len(x), -1, len(A))
    return torch.bmm(rows, tokens.x_columns)


def _pair_gradient(d_scores: Float[Tensor, "batch token token"], tokens: SplitTokens) -> Weight:
    """The gradient of A behind :func:`_pair_products`: the sum over sequences of x' d_scores x."""
    x, n = tokens.x, tokens.n_items
    d_model = x.shape[-1]
    rows = torch.bmm(d_scores, x)
    items, labels = rows[:, :n].reshape(-1, d_model), rows[:, n:].reshape(-1, d_model)
    by_label = x.new_zeros(len(tokens.table), d_model).index_add_(0, tokens.labels.flatten(), labels)
    by_position = x.new_zeros(tokens.n_ctx, d_model).index_add_(0, tokens.positions.flatten(), rows.flatten(0, 1))
    by_content = plus_product(product(tokens.table.mT, by_label), tokens.items.flatten(0, 1).mT, items)
    return torch.cat([by_position, by_content])


def _softmax_gradient(p: Tensor, d_p: Tensor) -> Tensor:
    return p * (d_p - (p * d_p).sum(-1, keepdim=True))


class _LastPosition(torch.autograd.Function):
    """The residual stream at the last position after both layers; the derivative is written out below the value.

    In the names, ``d_y`` is the loss's derivative with respect to ``y``. The weights on x are None without a stream.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: SplitTokens,
        A: Weight,
        V1: Weight,
        Q2: Weight,
        K2: Weight,
        V2: Weight,
        Qx: Weight | None,
        Kx: Weight | None,
        Vx: Weight | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the residual (batch d_model) and both patterns as in :class:`FastRun`."""
        last = tokens.n_items - 1
        P = (_pair_products(A, tokens) + tokens.mask).softmax(-1)
        (from_last,) = tokens.sums(P[:, last])
        h = plus_product(tokens.last, from_last, V1)
        q = product(h, Q2) if Qx is None else plus_product(product(h, Q2), tokens.last, Qx)
        u = product(q, K2.mT)
        direct, through_h = tokens.dots(u if Kx is None else plus_product(u, q, Kx.mT), product(u, V1.mT))
        p = (direct + (P * through_h[:, None]).sum(-1)).softmax(-1)
        on_x, on_attended = tokens.sums(p, (p[..., None] * P).sum(1))
        on_h = plus_product(on_x, on_attended, V1)
        z = plus_product(h, on_h, V2)
        z = z if Vx is None else plus_product(z, on_x, Vx)
        ctx.tokens = tokens
        kept = (V1, Q2, K2, V2, Qx, Kx, Vx, P, from_last, h, q, u, through_h, p, on_x, on_attended, on_h)
        ctx.save_for_backward(*kept)
        ctx.mark_non_differentiable(P, p)
        return z, P, p

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the weights, in the order of ``forward``; the tokens are data and have none."""
        V1, Q2, K2, V2, Qx, Kx, Vx, P, from_last, h, q, u, through_h, p, on_x, on_attended, on_h = ctx.saved_tensors
        d_z, tokens = gradients[0], ctx.tokens
        last = tokens.n_items - 1

        d_on_h = product(d_z, V2.mT)
        d_on_x = d_on_h if Vx is None else plus_product(d_on_h, d_z, Vx.mT)
        d_p, d_attended = tokens.dots(d_on_x, product(d_on_h, V1.mT))
        d_scores = _softmax_gradient(p, d_p + (P * d_attended[:, None]).sum(-1))
        d_P = p[..., None] * d_attended[:, None] + d_scores[..., None] * through_h[:, None]
        d_u_x, d_through = tokens.sums(d_scores, (d_scores[..., None] * P).sum(1))
        d_u = plus_product(d_u_x, d_through, V1)
        d_q = product(d_u, K2) if Kx is None else plus_product(product(d_u, K2), d_u_x, Kx)
        d_h = plus_product(d_z, d_q, Q2.mT)
        d_P[:, last] += tokens.dots(product(d_h, V1.mT))[0]

        d_V1 = plus_product(plus_product(product(from_last.mT, d_h), on_attended.mT, d_on_h), d_through.mT, u)
        return (
            None,
            _pair_gradient(_softmax_gradient(P, d_P), tokens),
            d_V1,
            product(h.mT, d_q),
            product(d_u.mT, q),
            product(on_h.mT, d_z),
            None if Qx is None else product(tokens.last.mT, d_q),
            None if Kx is None else product(d_u_x.mT, q),
            None if Vx is None else product(on_x.mT, d_z),
        )


class LastWeights(NamedTuple):
    """The weights of both layers, in the letters of the formulas above; those of the stream None where it has none."""

    A: Float[Tensor, "d_model d_model"]
    V1: Weight
    Q2: Weight
    K2: Weight
    V2: Weight
    Qx: Weight | None
    Kx: Weight | None
    Vx: Weight | None


def last_weights(model: HookedStreamTransformer) -> LastWeights:
    """Return the weights that attention uses, by what they act on: the rule of the streams, applied to weights."""
    # Mixing is linear in the projections, and the input is data. So the rule of circuits.streams.mixing, gates
    # included, acts on the weights as it acts on what they project: as if the input were the identity matrix.
    own: list[dict[Carrier, Weight]] = [
        {c: getattr(block.attn, f"W_{c.upper()}").squeeze(0) for c in CARRIERS} for block in model.layers
    ]
    raw: list[dict[Carrier, Weight]] = [
        {c: block.attn.passing_weight(c).squeeze(0) for c in block.attn.passes_own} for block in model.layers
    ]
    used: list[dict[Carrier, Weight]] = [dict(own[0]), dict(own[1])]
    on_x: dict[Carrier, Weight] = {}
    for layer, block in enumerate(model.layers):
        for c, mix in block.attn.mixes():
            stream = model.config.stream_into(c)
            passed = used if stream and stream.passes_on == "mixed" else raw
            gains = mix.gains(own[layer][c])
            as_projections = [passed[j][mix.reads][None, :, None] for j in mix.sources]  # type: ignore[index] # no table
            incoming = mix.incoming(as_projections, gains).flatten(0, 2)
            own_gain = gains[0].reshape(()) if isinstance(gains[0], Tensor) else gains[0]
            used[layer][c] = scaled(own_gain, own[layer][c])
            if layer in mix.sources:
                used[layer][c] = used[layer][c] + incoming
            else:
                on_x[c] = incoming
    if (scale := model.config.score_factor) != 1:
        for of_queries in (*used, on_x):
            if "q" in of_queries:
                of_queries["q"] = of_queries["q"] * scale
    first, on_h = used
    A = product(first["q"], first["k"].mT)
    return LastWeights(A, first["v"], *(on_h[c] for c in CARRIERS), *(on_x.get(c) for c in CARRIERS))


def run_last(model: HookedStreamTransformer, tokens: SplitTokens) -> FastRun:
    """Return the logits at the last position and the patterns that lead to them, equal to the hooked model's.

    The model must be one that :func:`why_not` accepts, without hooks attached (they would not fire).
    """
    z, first_pattern, last_pattern = _LastPosition.apply(tokens, *last_weights(model))
    for layer in model.relu_layers:
        z = plus_product(layer.b, z, layer.W).relu()
    return FastRun(product(z, model.W_U), first_pattern, last_pattern)


def last_logits(
    model: HookedStreamTransformer,
    x: Float[Tensor, "batch token d_model"],
    mask: Float[Tensor, "token token"],
    last: int,
) -> Float[Tensor, "batch d_vocab_out"]:
    """Return the logits of :func:`run_last` by plain products alone, which autograd and vmap can go through.

    ``last`` is the number in ``x`` of the sequence's last token; ``mask`` adds to the first layer's scores.
    """
    A, V1, Q2, K2, V2, Qx, Kx, Vx = last_weights(model)
    P = (x @ A @ x.mT + mask).softmax(-1)
    h = x[:, last] + (P[:, last, None] @ x)[:, 0] @ V1
    q = h @ Q2 if Qx is None else h @ Q2 + x[:, last] @ Qx
    u = q @ K2.mT
    on_x = u if Kx is None else u + q @ Kx.mT
    direct, through_h = (torch.stack([on_x, u @ V1.mT], 1) @ x.mT).unbind(1)
    p = (direct + (P @ through_h[..., None])[..., 0]).softmax(-1)
    on_tokens, attended = (torch.stack([p, (p[:, None] @ P)[:, 0]], 1) @ x).unbind(1)
    added = (on_tokens + attended @ V1) @ V2
    z = h + (added if Vx is None else added + on_tokens @ Vx)
    for layer in model.relu_layers:
        z = torch.relu(z @ layer.W + layer.b)
    return z @ model.W_U
