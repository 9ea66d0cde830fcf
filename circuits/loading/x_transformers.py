"""x-transformers (P. Wang): a state dict, and the constructor's arguments in a json, as the package stores none.

The folder holds ``model.safetensors`` or ``model.pt`` (``model.state_dict()``, of the model or of its
``AutoregressiveWrapper``), and ``x_transformers.json``: every argument that was given, where

    TransformerWrapper(num_tokens=256, max_seq_len=64, attn_layers=Decoder(dim=128, depth=4, add_value_residual=True))

is

    {"TransformerWrapper": {"num_tokens": 256, "max_seq_len": 64},
     "Decoder": {"dim": 128, "depth": 4, "add_value_residual": true}}

Defaults are those of version 2.31.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from circuits.common.errors import require
from circuits.config.gains import FixedGain, TokenGain
from circuits.config.layers import MLP, QKNorm, Rotary
from circuits.config.model import ModelConfig
from circuits.config.parts import TokenInputs, Unembedding
from circuits.config.streams import Stream
from circuits.config.topologies import First
from circuits.loading.family import Family, Opened, Weights
from circuits.loading.fields import Fields
from circuits.loading.tensors import Tensors, read_json, safetensors, torch_file

ARGUMENTS = "x_transformers.json"
NO_EPS = 1e-24
"""In the place of the smallest length that is divided by, which no vector of a trained model has."""
IGNORED = {
    "TransformerWrapper": ("emb_dropout", "attn_z_loss_weight", "max_mem_len"),
    "Decoder": (
        *("verbose", "layer_dropout", "zero_init_branch_output", "attn_dropout", "attn_sublayer_dropout", "attn_flash"),
        *("attn_zero_init_output", "ff_dropout", "ff_sublayer_dropout", "ff_zero_init_output"),
    ),
}
"""Arguments that change nothing of what a model computes in evaluation mode."""
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_residual_streams": ((1,), "hyper-connections keep several residual streams; models here have one"),
    "attn_aggregated_residuals": ((False,), "attention residuals mix hidden states; streams here carry q, k and v"),
    "integrate_layers": (
        (False,),
        "it mixes hidden states of earlier layers; streams here carry queries, keys and values",
    ),
    "unet_skips": ((False,), "it adds hidden states of earlier layers; streams here carry queries, keys and values"),
    "reinject_input": ((False,), "it adds a projection of the input to what every layer reads"),
    "residual_attn": ((False,), "it adds scores of earlier layers; streams here carry queries, keys and values"),
    "pre_norm": ((True,), "norms stand before layers here"),
    "pre_norm_has_final_norm": ((True,), "the readout has a norm here"),
    "depth_scale_residual": (
        (False, True),
        "a number scales what is added to the residual stream, which has no scale here",
    ),
    "attn_qk_norm_groups": ((1,), "heads are normalised whole"),
}
"""Arguments of a Decoder of which only some values can be had here, and why."""


def open_folder(folder: Path, stack: ExitStack) -> Opened:
    """Return what a folder holds."""
    file = folder / ARGUMENTS
    require(file.is_file(), f"{folder} has no {ARGUMENTS}, which holds the constructor's arguments")
    both = Fields(read_json(file), str(file))
    parts = {name: Fields(both.inner(name), f"{name} of {file}") for name in IGNORED}
    both.finish()
    for name, fields in parts.items():
        fields.ignore(*IGNORED[name])
    wrapper, decoder = parts["TransformerWrapper"], parts["Decoder"]
    config = _config(wrapper, decoder, folder.name)
    head = _Head(wrapper.flag("tie_embedding"), wrapper.real("tie_embedding_scale", config.d_model**-0.5))
    offset = 1.0 if decoder.flag("norm_add_unit_offset", True) else 0.0
    for fields in parts.values():
        fields.finish()
    whole = folder / "model.safetensors"
    tensors = safetensors([whole], stack) if whole.is_file() else torch_file(folder / "model.pt")
    return Opened(config, tensors, _weights(config, tensors, head, offset))


def _config(wrapper: Fields, decoder: Fields, name: str) -> ModelConfig:
    for argument, (allowed, says) in REFUSED.items():
        decoder.needs(argument, *allowed, says=says)
    d_model, depth, heads = decoder.number("dim"), decoder.number("depth"), decoder.number("heads", default=8)
    width, vocabulary = decoder.number("attn_dim_head", default=64), wrapper.number("num_tokens")
    n_ctx = wrapper.number("max_seq_len")
    wrapper.needs("emb_dim", None, d_model, says="embeddings are as wide as the residual stream here")
    wrapper.needs("logits_dim", None, vocabulary, says="there is a logit for every token here")
    wrapper.needs("emb_frac_gradient", 1.0, 1, says="gradients of embeddings are whole here")
    wrapper.needs("num_memory_tokens", None, 0, says="sequences begin with their first token here")
    kv_heads = decoder.number("attn_kv_heads", default=heads)
    kv_heads = 1 if decoder.flag("attn_one_kv_head") else kv_heads
    rotary = _rotary(decoder, width)
    positions = wrapper.flag("use_abs_pos_emb", True) and not decoder.flag("disable_abs_pos_emb", rotary is not None)
    embedding_norm = wrapper.flag("post_emb_norm")
    require(
        not (positions and embedding_norm),
        f"post_emb_norm in {wrapper.where} cannot be loaded with learned positions, which it is of, too",
    )
    simple, rms = decoder.flag("use_simple_rmsnorm"), decoder.flag("use_rmsnorm")
    require(
        not (embedding_norm and (simple or rms)),
        f"post_emb_norm in {wrapper.where} is a layer norm, and cannot be loaded where the others are RMS norms",
    )
    window = decoder.number("attn_max_attend_past", None)
    tied = wrapper.flag("tie_embedding")
    qk_norm, scale = _qk_norm(decoder)
    clamped, cap = decoder.flag("attn_softclamp_logits"), decoder.real("attn_logit_softclamp_value", 50.0)
    return ModelConfig(
        n_layers=depth,
        n_heads=heads,
        n_key_value_heads=None if kv_heads == heads else kv_heads,
        d_model=d_model,
        d_head=width,
        n_ctx=n_ctx,
        inputs=TokenInputs(vocabulary),
        readout=Unembedding(vocabulary),
        # Without weights of the final norm there is nowhere to put the scale of tied logits.
        tied_embedding=tied and not simple,
        positions="learned" if positions else "none",
        position_scale=d_model**-0.5 if positions else 1.0,
        rotary=rotary,
        qk_norm=qk_norm,
        attention_scale=scale,
        score_softcap=cap if clamped else None,
        windows=() if window is None or window + 1 >= n_ctx else (window + 1,) * depth,
        normalization="RMSPre" if simple else "RMS" if rms else "LN",
        norm_eps=NO_EPS if simple or rms else 1e-5,
        embedding_norm="LN" if embedding_norm else None,
        mlp=_mlp(decoder, d_model),
        biases=False,
        streams=_streams(decoder, depth, heads == kv_heads),
        name=name,
    )


def _rotary(decoder: Fields, width: int) -> Rotary | None:
    turned = decoder.number("rotary_emb_dim", default=width // 2)
    rescaled = decoder.real("rotary_base_rescale_factor", 1.0)
    stretch = decoder.real("rotary_interpolation_factor", 1.0)
    if not decoder.flag("rotary_pos_emb"):
        return None
    base = 10_000.0 * (1.0 if rescaled == 1 else rescaled ** (turned / (turned - 2)))
    return Rotary(base, turned / width, adjacent_pairs=True, stretch=stretch)


def _qk_norm(decoder: Fields) -> tuple[QKNorm | None, bool | float]:
    """The norm of queries and keys, and what scores are multiplied by (True: 1 / sqrt(d_head))."""
    cosine, root = decoder.flag("attn_qk_norm"), decoder.flag("attn_qk_rmsnorm")
    learned, scale = decoder.flag("attn_qk_norm_dim_scale"), decoder.real("attn_qk_norm_scale", 10.0)
    require(not (cosine and root), f"attn_qk_norm and attn_qk_rmsnorm in {decoder.where}: one norm can be loaded")
    if root:
        return QKNorm("RMS", weights="per head", eps=NO_EPS), True
    if not cosine:
        return None, True
    return QKNorm("L2", weights="per head" if learned else "none", eps=1e-12), True if learned else scale


def _mlp(decoder: Fields, d_model: int) -> MLP | None:
    gated, swish, squared = (decoder.flag(f"ff_{name}") for name in ("glu", "swish", "relu_squared"))
    wide, no_bias = int(d_model * decoder.real("ff_mult", 4.0)), decoder.flag("ff_no_bias")
    if decoder.flag("only_attn"):
        return None
    act = "relu2" if squared else "silu" if swish else "gelu"
    # Their gated input always has biases.
    return MLP(wide, act, gated, biases=gated or not no_bias)


def _streams(decoder: Fields, depth: int, equal_heads: bool) -> tuple[Stream, ...]:
    learned = decoder.flag("learned_value_residual_mix", True)
    if not decoder.flag("add_value_residual") or depth == 1:
        return ()
    require(
        equal_heads or not learned,
        f"learned_value_residual_mix in {decoder.where} is per head of queries, and its values have fewer heads",
    )
    return (Stream("v", topology=First(), gain=TokenGain() if learned else FixedGain(0.5, 0.5)),)


class _Head(NamedTuple):
    tied: bool
    scale: float
    """What tied logits are multiplied by."""


def _weights(config: ModelConfig, tensors: Tensors, head: _Head, offset: float) -> Weights:
    """The weights under the names that they have here; ``offset`` is added to those of norms."""
    d_model, vocabulary, width = config.d_model, config.inputs.rows, config.d_head
    embedding = tensors.take("token_emb.emb.weight", vocabulary, d_model)
    yield "embed.W_E", embedding
    if config.embedding_norm:
        yield "embed.ln.w", tensors.take("post_emb_norm.gamma", d_model)
        yield "embed.ln.b", torch.zeros(d_model)
    if config.positions == "learned":
        yield "pos_embed.W_pos", tensors.take("pos_emb.emb.weight", config.n_ctx, d_model)
    tensors.pass_over("attn_layers.rotary_pos_emb.inv_freq")
    # Their head h of queries uses head h mod n of n heads of keys and values; here those that share one are neighbours.
    order = torch.arange(config.n_heads).view(-1, config.heads_of("v")).T.flatten()
    for layer in range(config.n_layers):
        ours = f"blocks.{layer}"
        first = layer * (2 if config.mlp else 1)
        attention = f"attn_layers.layers.{first}"
        yield from _norm(config, tensors, f"{ours}.ln1", f"{attention}.0.0", offset)
        for c in ("q", "k", "v"):
            name = f"{attention}.1.to_{c}.weight"
            weight = tensors.to_heads(name, config.heads_of(c), width, d_model)
            yield f"{ours}.attn.W_{c.upper()}", weight[order] if c == "q" else weight
        if config.n_heads == 1 and f"{attention}.1.to_out.weight" not in tensors:
            yield f"{ours}.attn.W_O", torch.eye(d_model)[None]
        else:
            weight = tensors.from_heads(f"{attention}.1.to_out.weight", config.n_heads, width, d_model)
            yield f"{ours}.attn.W_O", weight[order]
        if config.qk_norm and config.qk_norm.weights != "none":
            for c in ("q", "k"):
                is_root = config.qk_norm.kind == "RMS"
                name = f"{attention}.1.{c}_rmsnorm.gamma" if is_root else f"{attention}.1.qk_norm_{c}_scale"
                weight = tensors.take(name, config.heads_of(c), 1, width)[:, 0]
                weight = weight[order] if c == "q" else weight
                yield f"{ours}.attn.{c}_norm.w", weight + 1 if is_root else weight
        if config.streams and layer and isinstance(config.streams[0].gain, TokenGain):
            mix, name = f"{ours}.attn.mix.v", f"{attention}.1.to_value_residual_mix.0"
            yield f"{mix}.W_gain", tensors.linear(f"{name}.weight", config.n_heads, d_model)
            yield f"{mix}.b_gain", tensors.take(f"{name}.bias", config.n_heads)
        if config.mlp:
            inner = f"attn_layers.layers.{first + 1}"
            yield from _norm(config, tensors, f"{ours}.ln2", f"{inner}.0.0", offset)
            yield from _feed_forward(config.mlp, d_model, tensors, f"{ours}.mlp", f"{inner}.1.ff")
    final = _norm(config, tensors, "ln_final", "attn_layers.final_norm", offset)
    yield from ((name, weight * head.scale if head.tied else weight) for name, weight in final)
    if not config.tied_embedding:
        untied = None if head.tied else tensors.linear("to_logits.weight", vocabulary, d_model)
        yield "unembed.W_U", embedding.T * head.scale if untied is None else untied


def _norm(config: ModelConfig, tensors: Tensors, ours: str, theirs: str, offset: float) -> Weights:
    if config.normalization == "RMSPre":
        return
    of_root = config.normalization == "RMS"
    yield f"{ours}.w", tensors.take(f"{theirs}.{'g' if of_root else 'gamma'}", config.d_model) + offset
    if not of_root:
        yield f"{ours}.b", torch.zeros(config.d_model)


def _feed_forward(mlp: MLP, d_model: int, tensors: Tensors, ours: str, theirs: str) -> Weights:
    wide, out = mlp.d_mlp, f"{theirs}.2"
    if mlp.gated:
        weight = tensors.take(f"{theirs}.0.proj.weight", 2 * wide, d_model)
        bias = tensors.take(f"{theirs}.0.proj.bias", 2 * wide)
        for name, part in (("in", slice(0, wide)), ("gate", slice(wide, 2 * wide))):
            yield f"{ours}.W_{name}", weight[part].T
            yield f"{ours}.b_{name}", bias[part]
    else:
        yield f"{ours}.W_in", tensors.linear(f"{theirs}.0.0.weight", wide, d_model)
        if mlp.biases:
            yield f"{ours}.b_in", tensors.take(f"{theirs}.0.0.bias", wide)
    yield f"{ours}.W_out", tensors.linear(f"{out}.weight", d_model, wide)
    if mlp.biases:
        has_bias = f"{out}.bias" in tensors or not mlp.gated
        yield f"{ours}.b_out", tensors.take(f"{out}.bias", d_model) if has_bias else torch.zeros(d_model)


X_TRANSFORMERS = Family(
    "x-transformers",
    lambda folder: (folder / ARGUMENTS).is_file(),
    open_folder,
)
