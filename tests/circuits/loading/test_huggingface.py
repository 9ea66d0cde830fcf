"""Llama, Mistral, Qwen2 and Qwen3 against transformers: equal logits, equal gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from circuits import HookedStreamTransformer, load_pretrained

SIZES: dict[str, Any] = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, rms_norm_eps=1e-2),
    "llama, shared heads, tied, wide heads": LlamaConfig(
        **SIZES, num_key_value_heads=2, tie_word_embeddings=True, head_dim=6
    ),
    "llama, biases, linear positions": LlamaConfig(
        **SIZES,
        attention_bias=True,
        mlp_bias=True,
        hidden_act="gelu",
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0},
    ),
    "llama, stretched": LlamaConfig(**SIZES, num_key_value_heads=1, rope_parameters=LLAMA3),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=3),
    "mistral, no window": MistralConfig(**SIZES, num_key_value_heads=4, sliding_window=None, head_dim=8),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2, windows": Qwen2Config(
        **SIZES, num_key_value_heads=1, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8),
    "qwen3, biases, windows": Qwen3Config(
        **SIZES,
        num_key_value_heads=4,
        head_dim=4,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}


def stored(name: str, folder: Path, shards: bool = False) -> Any:
    """Their model of random weights, norms and biases included, and its folder."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(CASES[name], dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(folder, max_shard_size="8KB" if shards else "5GB")
    return theirs


def tokens() -> Tensor:
    return torch.randint(29, (2, 11), generator=torch.Generator().manual_seed(1))


def value_gradients(model: Any, weights: list[Tensor], logits: Tensor) -> list[Tensor]:
    loss = logits.log_softmax(-1)[..., 3].sum()
    return list(torch.autograd.grad(loss, weights))


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_are_theirs(name: str, tmp_path: Path) -> None:
    theirs = stored(name, tmp_path, shards="shared" in name)
    assert (tmp_path / "model.safetensors.index.json").is_file() == ("shared" in name)
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(ours, HookedStreamTransformer)
    assert not ours.training
    x = tokens()
    wanted, found = theirs(x).logits, ours(x)
    assert torch.allclose(found, wanted, atol=1e-5)
    kv = ours.config.heads_of("v")
    values = [layer.self_attn.v_proj.weight for layer in theirs.model.layers]
    for one, other in zip(
        value_gradients(theirs, values, wanted),
        value_gradients(ours, [block.attn.W_V for block in ours.layers], found),
        strict=True,
    ):
        own = other.transpose(1, 2).reshape(kv * ours.config.d_head, -1)
        assert (own - one).abs().max() <= 1e-5 * one.abs().max()
    assert load_pretrained(tmp_path, family=CASES[name].model_type).config == ours.config


def test_of_two_models_in_a_folder_the_one_that_transformers_opens(tmp_path: Path) -> None:
    """The single file comes first, whichever was written last; without it the index is followed."""
    stored("llama", tmp_path, shards=True)
    index, parts = "model.safetensors.index.json", [*tmp_path.glob("model-*")]
    kept = {file.name: file.read_bytes() for file in (tmp_path / index, *parts)}
    sharded = load_pretrained(tmp_path)(tokens())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        theirs.lm_head.weight.mul_(2.0)
    theirs.save_pretrained(tmp_path)
    for name, data in kept.items():
        (tmp_path / name).write_bytes(data)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(tokens()).logits
    assert torch.allclose(load_pretrained(tmp_path)(tokens()), opened, atol=1e-4)
    assert not torch.allclose(sharded, opened, atol=1e-1)
    for part in parts:
        part.unlink()
    assert torch.allclose(load_pretrained(tmp_path)(tokens()), opened, atol=1e-4), "an index of nothing"
    for name, data in kept.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(load_pretrained(tmp_path)(tokens()), sharded)


def edited(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


def test_a_field_left_out_would_be_seen(tmp_path: Path) -> None:
    """Each of these fields is read: another value gives other logits."""
    stored("mistral", tmp_path)
    wanted = load_pretrained(tmp_path, dtype=torch.float64)(tokens())
    rope = {"rope_theta": 50.0, "rope_type": "default"}
    for changed in ({"rms_norm_eps": 0.5}, {"sliding_window": 2}, {"rope_parameters": rope}, {"hidden_act": "gelu"}):
        before = (tmp_path / "config.json").read_text()
        edited(tmp_path, **changed)
        assert not torch.allclose(load_pretrained(tmp_path, dtype=torch.float64)(tokens()), wanted), changed
        (tmp_path / "config.json").write_text(before)


def test_fields_of_older_versions_say_the_same(tmp_path: Path) -> None:
    stored("llama, biases, linear positions", tmp_path)
    wanted = load_pretrained(tmp_path)
    scaling = {"type": "linear", "factor": 3.0}
    edited(
        tmp_path, rope_parameters="gone", rope_theta=500.0, rope_scaling=scaling, torch_dtype="float32", head_dim="gone"
    )
    assert load_pretrained(tmp_path).config == wanted.config


@pytest.mark.parametrize(
    "beside",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 5.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 90.0}, "rope_theta": 700.0},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 700.0},
        {"rope_scaling": {}, "rope_theta": 700.0},
        {"rope_scaling": None},
    ],
)
def test_of_old_and_new_rotary_fields_those_that_transformers_takes(beside: dict[str, Any], tmp_path: Path) -> None:
    stored("llama, biases, linear positions", tmp_path)
    new = load_pretrained(tmp_path).config
    edited(tmp_path, **beside)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert (ours.config == new) == (not beside["rope_scaling"])
    assert torch.allclose(ours(tokens()), theirs(tokens()).logits, atol=1e-5)


def test_no_value_of_a_field_ends_in_another_error(tmp_path: Path) -> None:
    """Whatever stands in a configuration, it is read or refused by a sentence."""
    stored("qwen2, windows", tmp_path)
    file = tmp_path / "config.json"
    given = json.loads(file.read_text())
    refused = 0
    for name in given:
        for value in ("false", [1], {"a": 1}, -1, 1.5, None):
            file.write_text(json.dumps(given | {name: value}))
            try:
                load_pretrained(tmp_path)
            except ValueError:
                refused += 1
    assert refused > 80


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"value_residual": True}, "unknown field.*value_residual = True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = .* weights are quantised"),
        ({"auto_map": {"AutoModel": "x.y"}}, "code of its own"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "only language models"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "'yarn' scaling"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mscale": 2.0}}, "unknown field.*mscale"),
        ({"partial_rotary_factor": 0.5}, "turn whole heads"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings in .* must be true or false, got 'false'"),
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
        ({"hidden_size": "gone"}, "has no field 'hidden_size'"),
        ({"hidden_size": 16.5}, "hidden_size in .* must be a whole number"),
        ({"num_hidden_layers": 2}, "has no place for: model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 4}, "has no tensor 'model.layers.3.self_attn.q_proj.weight'"),
        ({"intermediate_size": 20}, r"has the shape \(24, 16\), and the configuration says \(20, 16\)"),
        (
            {"model_type": "gpt_neox"},
            "the type 'gpt_neox', a family that is not known here; known are .*llama, mistral",
        ),
        ({"model_type": "rwkv7"}, "RWKV's values run through a recurrence"),
        ({"model_type": "muddpythia"}, "MUDD connections mix earlier hidden states"),
        ({"model_type": "x", "architectures": ["DenseFormerForCausalLM"]}, "DenseFormer mixes hidden states"),
        ({"model_type": "x", "attention_residuals": True}, "attention residuals mix hidden states"),
        ({"model_type": "x", "num_hyper_connections": 4}, "hyper-connections keep several residual streams"),
    ],
)
def test_what_is_not_known_is_refused(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    stored("llama", tmp_path)
    edited(tmp_path, **fields)
    with pytest.raises(ValueError, match=sentence):
        load_pretrained(tmp_path)
