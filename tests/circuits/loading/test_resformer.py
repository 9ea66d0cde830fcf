"""ResFormer and SVFormer against their formulas, written here once more without a module of the model's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from circuits import load_pretrained

VOCABULARY, WIDE = 31, 24
SHAPES = {"two layers": (2, 16, 2, 2), "three layers, shared heads": (3, 24, 4, 2), "one value head": (4, 16, 4, 1)}
CONFIG: dict[str, Any] = {
    "_name_or_path": "",
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "intermediate_size": WIDE,
    "max_position_embeddings": 20,
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0",
    "use_cache": False,
    "vocab_size": VOCABULARY,
}


def saved(folder: Path, shape: str, own_values: bool) -> dict[str, Tensor]:
    n, d, heads, kv_heads = SHAPES[shape]
    kv = kv_heads * d // heads
    sizes = {"num_hidden_layers": n, "hidden_size": d, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    (folder / "config.json").write_text(json.dumps(CONFIG | sizes))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, d),
        "lm_head.weight": (VOCABULARY, d),
    }
    shapes |= {"model.norm.weight": (d,)}
    for i in range(n):
        at, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        shapes |= {f"{at}.q_proj.weight": (d, d), f"{at}.k_proj.weight": (kv, d), f"{at}.o_proj.weight": (d, d)}
        shapes |= {f"{at}.v_proj.weight": (kv, d)} if own_values or i == 0 else {}
        shapes |= {f"{mlp}.gate_proj.weight": (WIDE, d), f"{mlp}.up_proj.weight": (WIDE, d)}
        shapes |= {f"{mlp}.down_proj.weight": (d, WIDE)}
        shapes |= {f"model.layers.{i}.{norm}_layernorm.weight": (d,) for norm in ("input", "post_attention")}
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.4 * torch.randn(size, generator=generator).double() for name, size in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return weights


def normed(x: Tensor, w: Tensor) -> Tensor:
    return w * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2]).double()[:, None] * 10_000.0 ** (-torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def formulas(shape: str, w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    n, d, heads, kv_heads = SHAPES[shape]
    width, group = d // heads, torch.arange(heads) // (heads // kv_heads)
    x = w["model.embed_tokens.weight"][tokens]
    later = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    first = x
    for i in range(n):
        layer = f"model.layers.{i}"
        at, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        y = normed(x, w[f"{layer}.input_layernorm.weight"])
        mine = y @ w[f"{at}.v_proj.weight"].T if f"{at}.v_proj.weight" in w else None
        values = first if mine is None else mine if i == 0 else 0.5 * first + 0.5 * mine
        first = values if i == 0 else first
        q, k, v = (
            part.view(*tokens.shape, -1, width).transpose(1, 2)
            for part in (y @ w[f"{at}.q_proj.weight"].T, y @ w[f"{at}.k_proj.weight"].T, values)
        )
        scores = turned(q) @ turned(k)[:, group].transpose(-2, -1) / math.sqrt(width)
        z = scores.masked_fill(later, -math.inf).softmax(-1) @ v[:, group]
        x = x + z.transpose(1, 2).flatten(-2) @ w[f"{at}.o_proj.weight"].T
        y = normed(x, w[f"{layer}.post_attention_layernorm.weight"])
        gate = y @ w[f"{mlp}.gate_proj.weight"].T
        x = x + (gate * gate.sigmoid() * (y @ w[f"{mlp}.up_proj.weight"].T)) @ w[f"{mlp}.down_proj.weight"].T
    return normed(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["resformer", "svformer"])
def test_logits_and_gradients_are_those_of_the_formulas(family: str, shape: str, tmp_path: Path) -> None:
    weights = saved(tmp_path, shape, own_values=family == "resformer")
    model = load_pretrained(tmp_path, family if family == "resformer" else None, dtype=torch.float64)
    tokens = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    theirs = [name for name in weights if name.endswith("v_proj.weight")]
    for name in theirs:
        weights[name].requires_grad_()
    wanted, found = formulas(shape, weights, tokens), model(tokens)
    assert torch.allclose(found, wanted, atol=1e-5)
    own = [model.layers[int(name.split(".")[2])].attn.W_V for name in theirs]
    a = torch.autograd.grad(found.log_softmax(-1)[..., 3].sum(), own)
    b = torch.autograd.grad(wanted.log_softmax(-1)[..., 3].sum(), [weights[name] for name in theirs])
    for ours, other in zip(a, b, strict=True):
        assert (ours.transpose(1, 2).flatten(0, 1) - other).abs().max() <= 1e-5 * other.abs().max()


def test_resformer_must_be_named_and_svformer_is_told_by_its_tensors(tmp_path: Path) -> None:
    tokens = torch.randint(VOCABULARY, (2, 12))
    saved(tmp_path, "two layers", own_values=True)
    assert load_pretrained(tmp_path).config.streams == ()
    named = load_pretrained(tmp_path, "resformer")
    assert not torch.allclose(named(tokens), load_pretrained(tmp_path)(tokens)), "the rule of values matters"
    with pytest.raises(ValueError, match="has no place for: model.layers.1.self_attn.v_proj.weight"):
        load_pretrained(tmp_path, "svformer")
    saved(tmp_path, "two layers", own_values=False)
    assert load_pretrained(tmp_path).config == load_pretrained(tmp_path, "svformer").config
    for family in ("resformer", "llama"):
        with pytest.raises(ValueError, match="has no tensor 'model.layers.1.self_attn.v_proj.weight'"):
            load_pretrained(tmp_path, family)
