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
updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.config import ModelConfig, ReluStack, VectorInputs
from circuits.model import HookedStreamTransformer
from circuits.stream_config import CARRIERS, Carrier, TokenGain, WithinLayer
from circuits.streams import scaled

Weight = Float[Tensor, "d_model d_head"]


@dataclass(frozen=True)
class SplitTokens:
    """Input sequences with one-hot positions, whose tokens are kept apart by how cheap they are.

    Tokens are held in the order [items, labels] rather than in sequence; ``place`` says where in the sequence each
    stands. The last item is the last token of the sequence. Attention does not care about the order, given its mask.
    """

    x: Float[Tensor, "batch token d_model"]
    """The whole input vectors, in the order [items, labels]."""
    items: Float[Tensor, "batch item d_content"]
    """Contents that occur once."""
    labels: Int[Tensor, "batch label"]
    """Rows of ``table``."""
    table: Float[Tensor, "entry d_content"]
    positions: Int[Tensor, "batch token"]
    """The one-hot position of every token."""
    place: Int[Tensor, " token"]

    @cached_property
    def mask(self) -> Float[Tensor, "token token"]:
        """0 where the token of a row may attend to that of a column, minus infinity elsewhere; added to the scores."""
        return torch.where(self.place[:, None] >= self.place[None, :], 0.0, -torch.inf).to(self.x.dtype)


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
        "plain input vectors with one-hot positions": config.positions == "one-hot"
        and isinstance(config.inputs, VectorInputs)
        and not config.inputs.project,
        "no output matrix": not config.output_matrix,
        "no biases": not config.biases,
        "no layer norm": config.normalization is None,
        "a ReLU stack": isinstance(config.readout, ReluStack),
        "gains that do not depend on the token": not any(isinstance(s.gain, TokenGain) for s in config.streams),
        "full gates within a layer": all(
            s.gate == "full" and not s.gate_rules for s in config.streams if isinstance(s.topology, WithinLayer)
        ),
    }
    lacking = [want for want, holds in wants.items() if not holds]
    return f"the fast path needs {', '.join(lacking)}" if lacking else None


class _Scores(torch.autograd.Function):
    """x A x' for every sequence. It is linear in A, so nothing of the forward need be kept."""

    @staticmethod
    def forward(
        ctx: Any, A: Tensor, x: Tensor, items: Tensor, labels: Tensor, table: Tensor, positions: Tensor
    ) -> Tensor:
        """Return the scores (batch token token)."""
        ctx.save_for_backward(x, items, labels, table, positions)
        (batch, n_items, d_content), d_model = items.shape, len(A)
        content = A[d_model - d_content :]
        rows = A.index_select(0, positions.reshape(-1)).view(batch, -1, d_model)
        rows[:, :n_items] += (items.reshape(-1, d_content) @ content).view(batch, n_items, d_model)
        rows[:, n_items:] += (table @ content).index_select(0, labels.reshape(-1)).view(batch, -1, d_model)
        return torch.bmm(rows, x.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of A: sum over sequences of x' (gradient of the scores) x."""
        x, items, labels, table, positions = ctx.saved_tensors
        d_model, d_content, n_items = x.shape[-1], items.shape[-1], items.shape[1]
        rows = torch.bmm(gradients[0], x)
        at_items, at_labels = rows[:, :n_items].reshape(-1, d_model), rows[:, n_items:].reshape(-1, d_model)
        by_label = x.new_zeros(len(table), d_model).index_add_(0, labels.reshape(-1), at_labels)
        gradient = x.new_zeros(d_model, d_model).index_add_(0, positions.reshape(-1), rows.reshape(-1, d_model))
        content = torch.addmm(table.mT @ by_label, items.reshape(-1, d_content).mT, at_items)
        gradient[d_model - d_content :] = content
        return gradient, None, None, None, None, None


class _Weights(NamedTuple):
    first: dict[Carrier, Weight]
    """On x, in the first layer."""
    on_h: dict[Carrier, Weight]
    """On the first layer's output, in the second layer."""
    on_x: dict[Carrier, Weight]
    """On x, in the second layer: what the stream carries."""


def _mixed_weights(model: HookedStreamTransformer) -> _Weights:
    # Mixing is linear in the projections, and the input is data. So the rule of circuits.streams, gates included,
    # acts on the weights as it acts on what they project: as if the input were the identity matrix.
    own: list[dict[Carrier, Weight]] = [
        {c: getattr(block.attn, f"W_{c.upper()}")[0] for c in CARRIERS} for block in model.layers
    ]
    used: list[dict[Carrier, Weight]] = [dict(own[0]), dict(own[1])]
    on_x: dict[Carrier, Weight] = {}
    for layer, block in enumerate(model.layers):
        for c, mix in block.attn.mixes():
            stream = model.config.stream_into(c)
            passed = used if stream and stream.passes_on == "mixed" else own
            gains = mix.gains(own[layer][c])
            incoming = mix.incoming([_as_projection(passed[j][mix.reads]) for j in mix.sources], gains)[0, :, 0]
            kept = scaled(_number(gains[0]), own[layer][c])
            within = layer in mix.sources
            used[layer][c] = kept + incoming if within else kept
            if not within:
                on_x[c] = incoming
    return _Weights(used[0], used[1], on_x)


def _as_projection(weight: Weight) -> Float[Tensor, "1 d_model 1 d_head"]:
    return weight[None, :, None]


def _number(gain: Tensor | float) -> Tensor | float:
    return gain.reshape(()) if isinstance(gain, Tensor) else gain


def run_last(model: HookedStreamTransformer, tokens: SplitTokens) -> FastRun:
    """Return the logits at the last position and the patterns that lead to them, equal to the hooked model's.

    The model must be one that :func:`why_not` accepts, without hooks attached (they would not fire).
    """
    first, on_h, on_x = _mixed_weights(model)
    x = tokens.x
    if model.config.attention_scale:
        scale = model.config.d_head**-0.5
        first, on_h = {**first, "q": first["q"] * scale}, {**on_h, "q": on_h["q"] * scale}
        on_x = {c: weight * scale if c == "q" else weight for c, weight in on_x.items()}
    scores = _Scores.apply(first["q"] @ first["k"].mT, x, tokens.items, tokens.labels, tokens.table, tokens.positions)
    pattern = (scores + tokens.mask).softmax(-1)
    last = tokens.items.shape[1] - 1
    x_last = x[:, last]

    h = torch.addmm(x_last, (pattern[:, last : last + 1] @ x)[:, 0], first["v"])
    q = h @ on_h["q"]
    if "q" in on_x:
        q = torch.addmm(q, x_last, on_x["q"])
    by_h = q @ on_h["k"].mT
    by_x = torch.addmm(by_h, q, on_x["k"].mT) if "k" in on_x else by_h
    dots = torch.stack([by_x, by_h @ first["v"].mT], 1) @ x.mT
    p = (dots[:, 0] + (pattern * dots[:, 1, None]).sum(-1)).softmax(-1)

    sums = torch.stack([p, (p[..., None] * pattern).sum(1)], 1) @ x
    attended_h = torch.addmm(sums[:, 0], sums[:, 1], first["v"])
    z = torch.addmm(h, attended_h, on_h["v"])
    if "v" in on_x:
        z = torch.addmm(z, sums[:, 0], on_x["v"])
    for layer in model.relu_layers:
        z = torch.addmm(layer.b, z, layer.W).relu()
    return FastRun(z @ model.W_U, pattern, p)
