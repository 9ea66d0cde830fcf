"""nanochat against its formulas, written here once more without a module of the model's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits import load_pretrained
from tests.circuits.loading.test_pretrained import ranks

Weights = dict[str, Tensor]
CASES: dict[str, dict[str, Any]] = {
    "four layers": {"n_layer": 4, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "window_pattern": "SSSL"},
    "three layers, one value head": {"n_layer": 3, "n_head": 2, "n_kv_head": 1, "n_embd": 24, "window_pattern": "SL"},
    "equal heads, no window": {"n_layer": 2, "n_head": 3, "n_kv_head": 3, "n_embd": 24},
    "march": {"n_layer": 3, "n_head": 2, "n_kv_head": 2, "n_embd": 24, "window_pattern": "SL"},
    "january": {"n_layer": 3, "n_head": 2, "n_kv_head": 2, "n_embd": 40, "window_pattern": "SL"},
    "october": {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 24},
}
VOCABULARY, CONTEXT = 70, 520
NEEDED = ("smear_gate.weight", "smear_lambda", "backout_lambda")


def channels(case: str) -> int:
    return 32 if case == "january" else 12


def random_weights(case: str) -> Weights:
    config = CASES[case]
    d, n, kv = config["n_embd"], config["n_layer"], config["n_kv_head"] * config["n_embd"] // config["n_head"]
    rows = VOCABULARY if case == "october" else 128
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, d), "lm_head.weight": (rows, d)}
    if case != "october":
        shapes |= {"resid_lambdas": (n,), "x0_lambdas": (n,)}
    if case not in ("october", "january", "march"):
        shapes |= {"smear_gate.weight": (1, 24), "smear_lambda": (1,), "backout_lambda": (1,)}
    for i in range(n):
        h = f"transformer.h.{i}"
        shapes |= {f"{h}.attn.c_q.weight": (d, d), f"{h}.attn.c_proj.weight": (d, d)}
        shapes |= {f"{h}.attn.c_k.weight": (kv, d), f"{h}.attn.c_v.weight": (kv, d)}
        shapes |= {f"{h}.mlp.c_fc.weight": (4 * d, d), f"{h}.mlp.c_proj.weight": (d, 4 * d)}
        if i % 2 == (n - 1) % 2 and case != "october":
            shapes |= {f"{h}.attn.ve_gate.weight": (config["n_kv_head"], channels(case))}
            shapes |= {f"value_embeds.{i}.weight": (rows, kv)}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}


def saved(case: str, folder: Path, weights: Weights, step: int = 50, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({f"_orig_mod.{name}": w for name, w in weights.items()}, folder / f"model_{step:06d}.pt")
    given = CASES[case] | {"sequence_len": CONTEXT, "vocab_size": VOCABULARY} | fields
    config = {name: value for name, value in given.items() if value != "gone"}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps({"step": step, "model_config": config, "val_bpb": 1.0}))
    return folder


def root_mean_square(x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 2.0**-52).sqrt()


def turned(x: Tensor, base: float) -> Tensor:
    """By minus the angle: (a, b) at position t becomes a cos + b sin, b cos - a sin."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2]).double()[:, None] * base ** (-torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()], -1)


def formulas(case: str, w: Weights, tokens: Tensor) -> Tensor:
    config, pos = CASES[case], tokens.shape[1]
    n, heads, kv_heads, d = (config[name] for name in ("n_layer", "n_head", "n_kv_head", "n_embd"))
    width, pattern = d // heads, config.get("window_pattern", "L")
    base, scale, gate_scale, before = {
        "march": (1e5, 1.15, 3.0, 256),
        "january": (1e4, 1.0, 2.0, 260),
        "october": (1e4, 1.0, 0.0, 520),
    }.get(case, (1e5, 1.2, 3.0, 256))
    x = root_mean_square(w["transformer.wte.weight"][tokens])
    if "smear_lambda" in w:
        gate = torch.sigmoid((x[:, 1:, :24] * w["smear_gate.weight"][0]).sum(-1, keepdim=True))
        x = torch.cat([x[:, :1], x[:, 1:] + w["smear_lambda"] * gate * x[:, :-1]], 1)
    start, middle = x, x
    distance = torch.arange(pos)[:, None] - torch.arange(pos)
    for i in range(n):
        h = f"transformer.h.{i}"
        if "resid_lambdas" in w:
            x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * start
        y = root_mean_square(x)
        q, k, v = (
            (y @ w[f"{h}.attn.c_{c}.weight"].T).view(*tokens.shape, -1, width).transpose(1, 2) for c in ("q", "k", "v")
        )
        if f"value_embeds.{i}.weight" in w:
            gate = gate_scale * torch.sigmoid(y[..., : channels(case)] @ w[f"{h}.attn.ve_gate.weight"].T)
            rows = w[f"value_embeds.{i}.weight"][tokens].view(*tokens.shape, kv_heads, width)
            v = v + (gate[..., None] * rows).transpose(1, 2)
        q, k = (scale * root_mean_square(turned(part, base)) for part in (q, k))
        group = torch.arange(heads) // (heads // kv_heads)
        scores = q @ k[:, group].transpose(-2, -1) / math.sqrt(width)
        is_short = pattern[i % len(pattern)] == "S" and i < n - 1
        hidden = (distance < 0) | (distance > (before if is_short else pos))
        z = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, group]
        x = x + z.transpose(1, 2).flatten(-2) @ w[f"{h}.attn.c_proj.weight"].T
        inner = (root_mean_square(x) @ w[f"{h}.mlp.c_fc.weight"].T).clamp_min(0) ** 2
        x = x + inner @ w[f"{h}.mlp.c_proj.weight"].T
        middle = x if i == n // 2 else middle
    if "backout_lambda" in w:
        x = x - w["backout_lambda"] * middle
    logits = (root_mean_square(x) @ w["lm_head.weight"].T)[..., :VOCABULARY]
    return 15 * torch.tanh(logits / 15)


@pytest.mark.filterwarnings("ignore:nanochat capped logits")
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_the_formulas(case: str, tmp_path: Path) -> None:
    weights = random_weights(case)
    model = load_pretrained(saved(case, tmp_path, weights), dtype=torch.float64)
    # Long enough for every window.
    tokens = torch.randint(VOCABULARY, (1, 300), generator=torch.Generator().manual_seed(1))
    for weight in weights.values():
        weight.requires_grad_()
    wanted, found = formulas(case, weights, tokens), model(tokens)
    assert torch.allclose(found, wanted, atol=1e-5)
    theirs = [name for name in weights if ".c_v." in name or "value_embeds" in name or "ve_gate" in name]
    names = [ours(name) for name in theirs]
    own = torch.autograd.grad(found.log_softmax(-1)[..., 3].sum(), [model.get_parameter(name) for name in names])
    other = torch.autograd.grad(wanted.log_softmax(-1)[..., 3].sum(), [weights[name] for name in theirs])
    for name, a, b in zip(theirs, own, other, strict=True):
        a = a.transpose(1, 2).flatten(0, 1) if ".c_v." in name else a.T if "ve_gate" in name else a
        assert (a - b[: len(a)]).abs().max() <= 1e-5 * b.abs().max(), name


def ours(name: str) -> str:
    """The name that a weight of values has here."""
    if name.startswith("value_embeds"):
        return name.replace("weight", "W_VE")
    layer = name.split(".")[2]
    return f"blocks.{layer}.attn.{'W_V' if 'c_v' in name else 'mix.v.W_gain'}"


def test_every_number_of_its_code_moves_the_logits(tmp_path: Path) -> None:
    case = "four layers"
    weights = random_weights(case)
    tokens = torch.randint(VOCABULARY, (1, 300), generator=torch.Generator().manual_seed(1))
    wanted = formulas(case, weights, tokens)
    for name in (*NEEDED, "resid_lambdas", "x0_lambdas", "value_embeds.1.weight"):
        changed = weights | {name: weights[name] + 0.5}
        assert not torch.allclose(formulas(case, changed, tokens), wanted, atol=1e-3), name
        model = load_pretrained(saved(case, tmp_path, changed), dtype=torch.float64)
        assert torch.allclose(model(tokens), formulas(case, changed, tokens), atol=1e-5), name


def test_old_checkpoints_lack_keys(tmp_path: Path) -> None:
    case = "four layers"
    weights = random_weights(case)
    tokens = torch.randint(VOCABULARY, (1, 300), generator=torch.Generator().manual_seed(1))
    weights |= {"x0_lambdas": torch.zeros(4).double()}
    wanted = formulas(case, weights, tokens)
    lacking = {name: weight for name, weight in weights.items() if name != "x0_lambdas"}
    model = load_pretrained(saved(case, tmp_path, lacking), dtype=torch.float64)
    assert torch.allclose(model(tokens), wanted, atol=1e-5)
    full = load_pretrained(saved(case, tmp_path, weights, window_pattern="gone"), dtype=torch.float64)
    assert full.config.windows == ()
    with pytest.warns(UserWarning, match="capped logits at 15, and from 2 to 8 March 2026 at 20"):
        load_pretrained(saved("january", tmp_path / "january", random_weights("january")))


def test_the_last_step_is_taken_or_that_of_a_file(tmp_path: Path) -> None:
    case = "equal heads, no window"
    first, second = random_weights(case), random_weights(case)
    second["transformer.wte.weight"] += 1
    # Rounded as they are stored on a GPU.
    first["transformer.wte.weight"] = first["transformer.wte.weight"].bfloat16()
    saved(case, tmp_path, first, step=50)
    saved(case, tmp_path, second, step=1000)
    (tmp_path / "optim_001000_rank0.pt").write_bytes(b"not read")
    last, named = load_pretrained(tmp_path), load_pretrained(tmp_path / "model_000050.pt")
    assert torch.equal(last.W_E, second["transformer.wte.weight"].float()[:VOCABULARY])
    assert torch.equal(named.W_E, first["transformer.wte.weight"].float()[:VOCABULARY])
    assert named.W_U.shape == (24, VOCABULARY)


def test_a_tokenizer_has_exactly_its_tokens(tmp_path: Path) -> None:
    case = "equal heads, no window"
    weights = random_weights(case)
    for name, weight in weights.items():
        if weight.shape[0] == 128:
            weights[name] = torch.randn(320, weight.shape[1])
    file = ranks(tmp_path)
    model = load_pretrained(saved(case, tmp_path, weights, vocab_size=270), tokenizer=file)
    assert model.to_tokens("ab 1").tolist() == [[261, 256, 32, ord("1")]]
    assert model.to_string([261, 256]) == "<|bos|>ab"
    with pytest.raises(ValueError, match="has 270 tokens and the model 269: it is of another vocabulary"):
        load_pretrained(saved(case, tmp_path, weights, vocab_size=269), tokenizer=file)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_experts": 4}, "unknown field.*n_experts = 4"),
        ({"window_pattern": "SML"}, "window_pattern = 'SML'"),
        ({"n_embd": "gone"}, "has no field 'n_embd'"),
        ({"n_layer": 2}, "has the shape|has no place for"),
        ({"vocab_size": 129}, r"has the shape \(128, 32\), and the configuration says \(192, 32\)"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    case = "four layers"
    with pytest.raises(ValueError, match=sentence):
        load_pretrained(saved(case, tmp_path, random_weights(case), **fields))


def test_missing_and_strange_tensors_are_named(tmp_path: Path) -> None:
    case = "four layers"
    weights = random_weights(case)
    with pytest.raises(ValueError, match="has no place for: engram.weight"):
        load_pretrained(saved(case, tmp_path, weights | {"engram.weight": torch.zeros(3)}))
    for name in ("smear_lambda", "value_embeds.1.weight", "transformer.h.2.attn.c_v.weight"):
        lacking = {n: weight for n, weight in weights.items() if n != name}
        with pytest.raises(ValueError, match=f"has no tensor '{name}'"):
            load_pretrained(saved(case, tmp_path, lacking))
    (tmp_path / "meta_000050.json").unlink()
    with pytest.raises(ValueError, match="has no meta_000050.json beside it"):
        load_pretrained(tmp_path)
