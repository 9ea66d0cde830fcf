"""x-transformers against the package itself, where it is installed; and what is refused of its arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from circuits import load_pretrained

SIZES = {"num_tokens": 23, "max_seq_len": 16}
DECODER = {"dim": 16, "depth": 3, "heads": 4, "attn_dim_head": 8, "verbose": False}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "learned mix": ({"emb_dropout": 0.1}, {"add_value_residual": True}),
    "half mix, tied": (
        {"tie_embedding": True},
        {
            "add_value_residual": True,
            "learned_value_residual_mix": False,
            "attn_kv_heads": 2,
            "attn_qk_rmsnorm": True,
        },
    ),
    "rotary, roots, swiglu": (
        {"tie_embedding": True, "tie_embedding_scale": 0.5},
        {
            "rotary_pos_emb": True,
            "use_rmsnorm": True,
            "ff_glu": True,
            "ff_swish": True,
            "ff_no_bias": True,
            "attn_qk_rmsnorm": True,
            "add_value_residual": True,
        },
    ),
    "simple roots, one head of values": (
        {"tie_embedding": True, "use_abs_pos_emb": False},
        {"use_simple_rmsnorm": True, "attn_one_kv_head": True, "ff_relu_squared": True, "ff_no_bias": True},
    ),
    "cosines": (
        {"post_emb_norm": True},
        {
            "rotary_pos_emb": True,
            "rotary_emb_dim": 8,
            "rotary_base_rescale_factor": 3.0,
            "rotary_interpolation_factor": 2.0,
            "attn_qk_norm": True,
            "attn_qk_norm_scale": 7,
            "ff_glu": True,
        },
    ),
    "learned cosines, windows, clamped": (
        {},
        {
            "attn_qk_norm": True,
            "attn_qk_norm_dim_scale": True,
            "attn_max_attend_past": 3,
            "attn_softclamp_logits": True,
            "attn_logit_softclamp_value": 2.0,
            "norm_add_unit_offset": False,
        },
    ),
    "attention alone, one head": ({}, {"only_attn": True, "heads": 1, "attn_dim_head": 16, "add_value_residual": True}),
}


def described(folder: Path, wrapper: dict[str, Any], decoder: dict[str, Any]) -> None:
    arguments = {"TransformerWrapper": SIZES | wrapper, "Decoder": DECODER | decoder}
    (folder / "x_transformers.json").write_text(json.dumps(arguments))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_the_package(case: str, tmp_path: Path) -> None:
    theirs = pytest.importorskip("x_transformers", reason="x-transformers is not installed: make peers")
    wrapper, decoder = CASES[case]
    described(tmp_path, wrapper, decoder)
    torch.manual_seed(0)
    layers = theirs.Decoder(**DECODER | decoder)
    model = theirs.TransformerWrapper(**SIZES | wrapper, attn_layers=layers).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    if "mix" in case:
        model = theirs.AutoregressiveWrapper(model)
        torch.save(model.state_dict(), tmp_path / "model.pt")
        model = model.net
    else:
        save_file(model.state_dict(), tmp_path / "model.safetensors")
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    tokens = torch.randint(23, (2, 12), generator=torch.Generator().manual_seed(1))
    wanted, found = model(tokens), ours(tokens)
    assert torch.allclose(found, wanted, atol=1e-5)
    per_block = 1 if decoder.get("only_attn") else 2
    values = [model.attn_layers.layers[per_block * layer][1].to_v.weight for layer in range(3)]
    a = torch.autograd.grad(wanted.log_softmax(-1)[..., 3].sum(), values)
    b = torch.autograd.grad(found.log_softmax(-1)[..., 3].sum(), [block.attn.W_V for block in ours.layers])
    for one, other in zip(a, b, strict=True):
        # Their softmax runs in single precision.
        assert (other.transpose(1, 2).flatten(0, 1) - one).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.parametrize(
    ("wrapper", "decoder", "sentence"),
    [
        ({}, {"num_residual_streams": 4}, "num_residual_streams = 4 .*hyper-connections keep several residual streams"),
        ({}, {"attn_aggregated_residuals": True}, "attention residuals mix hidden states"),
        ({}, {"integrate_layers": True}, "it mixes hidden states of earlier layers"),
        ({}, {"unet_skips": True}, "it adds hidden states of earlier layers"),
        ({}, {"depth_scale_residual": 0.5}, "depth_scale_residual = 0.5"),
        ({}, {"alibi_pos_bias": True}, "unknown field.*alibi_pos_bias = True"),
        ({"looped": True}, {}, "unknown field.*looped = True"),
        ({"emb_frac_gradient": 0.1}, {}, "gradients of embeddings are whole here"),
        ({"post_emb_norm": True}, {}, "cannot be loaded with learned positions"),
        ({}, {"add_value_residual": True, "attn_kv_heads": 2}, "its values have fewer heads"),
        ({}, {"attn_qk_norm": True, "attn_qk_rmsnorm": True}, "one norm can be loaded"),
        ({}, {}, "has no tensor 'token_emb.emb.weight'"),
    ],
)
def test_arguments_that_cannot_be_had_are_named(
    wrapper: dict[str, Any], decoder: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    described(tmp_path, wrapper, decoder)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=sentence):
        load_pretrained(tmp_path)
    (tmp_path / "x_transformers.json").write_text(json.dumps({"Decoder": DECODER, "TransformerWrapper": 1}))
    with pytest.raises(ValueError, match="TransformerWrapper in .* must hold fields, got 1"):
        load_pretrained(tmp_path)
