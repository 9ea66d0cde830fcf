"""Llama, Mistral, Qwen2 and Qwen3, as Hugging Face's transformers stores them: one layout, four sets of fields."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from circuits.common.errors import require
from circuits.config.layers import MLP, Llama3Rotary, QKNorm, Rotary, Rotation
from circuits.config.model import ModelConfig
from circuits.config.parts import TokenInputs, Unembedding
from circuits.loading.family import Family, Opened, Weights
from circuits.loading.fields import Fields
from circuits.loading.tensors import Tensors, read_json, safetensors, sharded, torch_file

CONFIG = "config.json"
Parts = dict[str, Any]
"""Fields of a ModelConfig."""
CHANGE_NOTHING = (
    *("model_type", "transformers_version", "_name_or_path", "name_or_path", "torch_dtype", "dtype", "use_bfloat16"),
    *("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("initializer_range", "attention_dropout", "pretraining_tp", "chunk_size_feed_forward", "torchscript"),
    *("output_attentions", "output_hidden_states", "return_dict", "problem_type", "id2label", "label2id"),
    *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "tokenizer_class", "prefix"),
    *("is_decoder", "finetuning_task", "task_specific_params", "keys_to_ignore_at_inference", "is_llama_config"),
    *("transformers.js_config", "unsloth_version", "unsloth_fixed"),
    # Of generation, which older versions kept here.
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *(
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "output_scores",
        "begin_suppress_tokens",
    ),
    *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "suppress_tokens"),
)
"""Fields that change nothing of what a model computes in evaluation mode."""
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "relu2": "relu2",
}


def has_type(folder: Path, model_type: str) -> bool:
    """Return whether a folder's config.json is of that model type."""
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("model_type") == model_type


ONE, INDEX, OLD = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


def has_weights(folder: Path) -> bool:
    """Return whether a folder has weights of this layout."""
    return any((folder / name).is_file() for name in (ONE, INDEX, OLD))


def open_weights(folder: Path, stack: ExitStack) -> Tensors:
    """Return the tensors of a folder that ``save_pretrained`` wrote, in one file or several.

    Raises:
        ValueError: if there are none, or they cannot be read.
    """
    require(has_weights(folder), f"{folder} has no weights: there is no {ONE}, no {INDEX} and no {OLD}; copy it whole")
    # In the order of transformers: a folder that was written to twice may hold more than one of them.
    if (folder / ONE).is_file():
        return safetensors([folder / ONE], stack)
    return sharded(folder / INDEX, stack) if (folder / INDEX).is_file() else torch_file(folder / OLD)


def open_fields(folder: Path) -> Fields:
    """Return the fields of a folder's config.json, without those that change nothing.

    Raises:
        ValueError: for a class that is no language model, weights in a special form, or code of the model's own.
    """
    file = folder / CONFIG
    require(file.is_file(), f"{folder} has no {CONFIG}, which says what the model is; copy the whole folder")
    fields = Fields(read_json(file), str(file))
    fields.ignore(*CHANGE_NOTHING)
    classes = fields.get("architectures", None) or []
    require(isinstance(classes, list), f"architectures in {file} must be a list, got {classes!r}")
    strange = [name for name in classes if not str(name).endswith("ForCausalLM")]
    require(not strange, f"{file} is of {strange}; only language models (ForCausalLM) can be loaded")
    fields.needs("quantization_config", None, says="weights are quantised, and are loaded as numbers only")
    fields.needs("auto_map", None, says="the model has code of its own")
    for name in ("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder", "use_mrope", "rope_interleaved"):
        fields.needs(name, False)
    fields.needs("cross_attention_hidden_size", None)
    fields.needs("pruned_heads", {}, None)
    return fields


def sizes(fields: Fields, name: str) -> Parts:
    """Return what the configurations of all models of this layout have in common, as fields of a ModelConfig.

    Raises:
        ValueError: for a field that is missing, or asks for what no model here has.
    """
    heads, vocabulary = fields.number("num_attention_heads"), fields.number("vocab_size")
    act = str(fields.get("hidden_act"))
    require(act in ACTIVATIONS, f"hidden_act = {act!r} in {fields.where} cannot be loaded; known: {list(ACTIVATIONS)}")
    kv_heads = fields.number("num_key_value_heads", default=heads)
    tied = fields.flag("tie_word_embeddings")
    return {
        "n_layers": fields.number("num_hidden_layers"),
        "n_heads": heads,
        "n_key_value_heads": None if kv_heads == heads else kv_heads,
        "d_model": fields.number("hidden_size"),
        "n_ctx": fields.number("max_position_embeddings"),
        "inputs": TokenInputs(vocabulary),
        "readout": Unembedding(vocabulary),
        "tied_embedding": tied,
        "positions": "none",
        "rotary": rotary(fields),
        "normalization": "RMS",
        "norm_eps": fields.real("rms_norm_eps"),
        "mlp": MLP(fields.number("intermediate_size"), ACTIVATIONS[act], gated=True, biases=False),  # type: ignore[arg-type] # names of ours
        "biases": False,
        "name": name,
    }


def rotary(fields: Fields) -> Rotation:
    """Return the rotary positions that old and new fields say.

    Raises:
        ValueError: for a kind of scaling that is not known, naming it.
    """
    base, new, old = fields.real("rope_theta", 10_000.0), fields.inner("rope_parameters"), fields.inner("rope_scaling")
    # Where both are given, transformers takes nothing of the new ones.
    rope = Fields(old or new, f"the rotary positions of {fields.where}")
    base, kind = rope.real("rope_theta", base), rope.get("type", None)
    kind = rope.get("rope_type", None) or kind or "default"
    for place in (fields, rope):
        place.needs("partial_rotary_factor", 1.0, None, says="models of these families turn whole heads")
    if kind == "default":
        made: Rotation = Rotary(base)
    elif kind == "linear":
        made = Rotary(base, stretch=rope.real("factor"))
    elif kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        made = Llama3Rotary(base, *(rope.real(name) for name in names))
    else:
        raise ValueError(
            f"rotary positions with {kind!r} scaling ({fields.where}) cannot be loaded; known are 'default', 'linear' "
            f"and 'llama3'"
        )
    rope.finish()
    return made


def window(fields: Fields) -> int | None:
    """Return the width of a sliding window; null is none."""
    if fields.get("sliding_window", 4096) is None:
        return None
    return fields.number("sliding_window", 4096)


def windows(fields: Fields, n_layers: int, n_ctx: int) -> tuple[int | None, ...]:
    """Return Qwen's windows by layer: of sliding attention, or all.

    Raises:
        ValueError: for layers of another kind of attention, or sliding ones without a window.
    """
    given, in_use = window(fields), fields.flag("use_sliding_window")
    width = given if in_use else None
    first = fields.get("max_window_layers", 28)
    require(isinstance(first, int), f"max_window_layers in {fields.where} must be a whole number, got {first!r}")
    kinds = fields.get("layer_types", None)
    slides = "sliding_attention"
    if kinds is None:
        kinds = [slides if width and layer >= first else "full_attention" for layer in range(n_layers)]
    known = isinstance(kinds, list) and len(kinds) == n_layers
    known = known and all(kind in (slides, "full_attention") for kind in kinds)
    require(known, f"layer_types = {kinds} in {fields.where}: wanted {slides!r} or 'full_attention' for each layer")
    require(slides not in kinds or bool(width), f"{fields.where} has layers of {slides!r}, and no window is in use")
    return _reached([width if kind == slides else None for kind in kinds], n_ctx)


def _reached(found: list[int | None], n_ctx: int) -> tuple[int | None, ...]:
    """Windows, without those that no sequence reaches."""
    shorter = tuple(width if width and width < n_ctx else None for width in found)
    return shorter if any(shorter) else ()


def llama(fields: Fields, given: Parts) -> Parts:
    """Return what Llama's fields say beside the :func:`sizes`."""
    mlp, biases = given["mlp"], fields.flag("mlp_bias")
    return {
        "d_head": fields.number("head_dim", default=given["d_model"] // given["n_heads"]),
        "biases": fields.flag("attention_bias"),
        "mlp": MLP(mlp.d_mlp, mlp.act_fn, gated=True, biases=biases),
    }


def _mistral(fields: Fields, given: Parts) -> Parts:
    return {
        "d_head": fields.number("head_dim", default=given["d_model"] // given["n_heads"]),
        "windows": _reached([window(fields)] * given["n_layers"], given["n_ctx"]),
    }


def _qwen2(fields: Fields, given: Parts) -> Parts:
    return {
        "d_head": fields.number("head_dim", default=given["d_model"] // given["n_heads"]),
        "windows": windows(fields, given["n_layers"], given["n_ctx"]),
        "biases": True,
        "output_bias": False,
    }


def _qwen3(fields: Fields, given: Parts) -> Parts:
    return {
        "d_head": fields.number("head_dim", default=128),
        "windows": windows(fields, given["n_layers"], given["n_ctx"]),
        "biases": fields.flag("attention_bias"),
        "qk_norm": QKNorm(weights="shared", eps=given["norm_eps"]),
    }


def weights(config: ModelConfig, tensors: Tensors) -> Weights:
    """Return the weights of a model of this layout under the names that they have here."""
    d_model, width, vocabulary = config.d_model, config.d_head, config.inputs.rows
    embedding = tensors.take("model.embed_tokens.weight", vocabulary, d_model)
    yield "embed.W_E", embedding
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        for c in ("q", "k", "v"):
            if not config.has_own(layer, c):
                continue
            heads, name = config.heads_of(c), f"{theirs}.self_attn.{c}_proj"
            yield f"{ours}.attn.W_{c.upper()}", tensors.to_heads(f"{name}.weight", heads, width, d_model)
            if config.biases:
                yield f"{ours}.attn.b_{c.upper()}", tensors.take(f"{name}.bias", heads * width).view(heads, width)
        output = f"{theirs}.self_attn.o_proj"
        yield f"{ours}.attn.W_O", tensors.from_heads(f"{output}.weight", config.n_heads, width, d_model)
        if config.biases and config.output_bias:
            yield f"{ours}.attn.b_O", tensors.take(f"{output}.bias", d_model)
        if config.qk_norm:
            for c in ("q", "k"):
                yield f"{ours}.attn.{c}_norm.w", tensors.take(f"{theirs}.self_attn.{c}_norm.weight", width)
        yield f"{ours}.ln1.w", tensors.take(f"{theirs}.input_layernorm.weight", d_model)
        yield f"{ours}.ln2.w", tensors.take(f"{theirs}.post_attention_layernorm.weight", d_model)
        yield from _mlp(config, tensors, f"{ours}.mlp", f"{theirs}.mlp")
        # Older versions stored the angles, which are the configuration's.
        tensors.pass_over(f"{theirs}.self_attn.rotary_emb.inv_freq")
    yield "ln_final.w", tensors.take("model.norm.weight", d_model)
    if not config.tied_embedding:
        yield "unembed.W_U", tensors.linear("lm_head.weight", vocabulary, d_model)
    elif "lm_head.weight" in tensors:
        same = torch.equal(tensors.take("lm_head.weight", vocabulary, d_model), embedding)
        require(same, f"{tensors.says}: embedding and lm_head are tied, says the configuration, and they differ")


def _mlp(config: ModelConfig, tensors: Tensors, ours: str, theirs: str) -> Weights:
    mlp = config.mlp
    assert mlp is not None
    wide, narrow = mlp.d_mlp, config.d_model
    for name, theirs_name, out, width in (
        ("gate", "gate_proj", wide, narrow),
        ("in", "up_proj", wide, narrow),
        ("out", "down_proj", narrow, wide),
    ):
        yield f"{ours}.W_{name}", tensors.linear(f"{theirs}.{theirs_name}.weight", out, width)
        if mlp.biases:
            yield f"{ours}.b_{name}", tensors.take(f"{theirs}.{theirs_name}.bias", out)


def opened(beside: Callable[[Fields, Parts], Parts], folder: Path, stack: ExitStack) -> Opened:
    """Return what a folder holds, its architecture of the :func:`sizes` and of what ``beside`` reads."""
    fields = open_fields(folder)
    given = sizes(fields, folder.name)
    config = ModelConfig(**given | beside(fields, given))
    fields.finish()
    tensors = open_weights(folder, stack)
    return Opened(config, tensors, weights(config, tensors))


FAMILIES = tuple(
    Family(name, partial(has_type, model_type=name), partial(opened, beside))
    for name, beside in (("llama", llama), ("mistral", _mistral), ("qwen2", _qwen2), ("qwen3", _qwen3))
)
