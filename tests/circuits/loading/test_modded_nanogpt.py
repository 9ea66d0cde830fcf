"""modded-nanogpt of November 2024 against its formulas, written here once more without a module of the model's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits import load_pretrained
from circuits.config.gains import FixedGain

VOCABULARY = 40
FIRST = "self.lamb = 0.5\nsequence_length : int = 64\nmodel = GPT(GPTConfig(vocab_size=num_vocab, n_head={heads}))"
SECOND = (
    FIRST.replace("= 0.5", "= nn.Parameter(torch.tensor(0.5))") + "\nlogits = 30 * torch.tanh(logits / 30) # capped"
)
CASES = {"6 November": (FIRST, 3, 2, 24), "8 November": (SECOND, 2, 2, 16), "8 November, deeper": (SECOND, 4, 3, 24)}


def saved(case: str, folder: Path, **more: Any) -> dict[str, Tensor]:
    code, n, heads, d = CASES[case]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (VOCABULARY, d), "lm_head.weight": (VOCABULARY, d)}
    for i in range(n):
        h = f"transformer.h.{i}"
        shapes |= {f"{h}.attn.c_{part}.weight": (d, d) for part in ("q", "k", "v", "proj")}
        shapes |= {f"{h}.mlp.c_fc.weight": (4 * d, d), f"{h}.mlp.c_proj.weight": (d, 4 * d)}
        shapes |= {f"{h}.attn.lamb": (), f"{h}.lambdas": (2,)} if code is SECOND else {}
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.4 * torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}
    state = {f"_orig_mod.{name}": weight for name, weight in weights.items()} | more
    optimizers = [{"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}]
    log = {"step": 125, "code": code.format(heads=heads), "model": state, "optimizers": optimizers}
    torch.save(log, folder / "state_step000125.pt")
    return weights


def root_mean_square(x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 2.0**-52).sqrt()


def turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2]).double()[:, None] * 10_000.0 ** (-torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()], -1)


def formulas(case: str, w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    code, n, heads, d = CASES[case]
    x = start = root_mean_square(w["transformer.wte.weight"][tokens])
    later = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    first = x
    for i in range(n):
        h = f"transformer.h.{i}"
        if code is SECOND:
            x = w[f"{h}.lambdas"][0] * x + w[f"{h}.lambdas"][1] * start
        y = root_mean_square(x)
        q, k, v = (
            (y @ w[f"{h}.attn.c_{c}.weight"].T).view(*tokens.shape, heads, d // heads).transpose(1, 2)
            for c in ("q", "k", "v")
        )
        first = v if i == 0 else first
        share = w[f"{h}.attn.lamb"] if code is SECOND else 0.5
        v = (1 - share) * v + share * first
        scores = turned(root_mean_square(q)) @ turned(root_mean_square(k)).transpose(-2, -1) / math.sqrt(d // heads)
        z = (scores.masked_fill(later, -math.inf).softmax(-1) @ v).transpose(1, 2).flatten(-2)
        x = x + z @ w[f"{h}.attn.c_proj.weight"].T
        inner = (root_mean_square(x) @ w[f"{h}.mlp.c_fc.weight"].T).clamp_min(0) ** 2
        x = x + inner @ w[f"{h}.mlp.c_proj.weight"].T
    logits = root_mean_square(x) @ w["lm_head.weight"].T
    return 30 * torch.tanh(logits / 30) if code is SECOND else logits


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_the_formulas(case: str, tmp_path: Path) -> None:
    weights = saved(case, tmp_path)
    model = load_pretrained(tmp_path, dtype=torch.float64)
    assert model.config.n_ctx == 64
    tokens = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    theirs = [f"transformer.h.{i}.attn.c_v.weight" for i in range(model.config.n_layers)]
    for name in theirs:
        weights[name].requires_grad_()
    wanted, found = formulas(case, weights, tokens), model(tokens)
    assert torch.allclose(found, wanted, atol=1e-5)
    a = torch.autograd.grad(found.log_softmax(-1)[..., 3].sum(), [block.attn.W_V for block in model.layers])
    b = torch.autograd.grad(wanted.log_softmax(-1)[..., 3].sum(), [weights[name] for name in theirs])
    for ours, other in zip(a, b, strict=True):
        assert (ours.transpose(1, 2).flatten(0, 1) - other).abs().max() <= 1e-5 * other.abs().max()


CAPPED = "logits = 30 * torch.tanh(logits / 30) # capped"


def with_code(folder: Path, change: tuple[str, str]) -> None:
    file = folder / "state_step000125.pt"
    held = torch.load(file, weights_only=True)
    assert change[0] in held["code"]
    torch.save(held | {"code": held["code"].replace(*change)}, file)


@pytest.mark.parametrize(
    ("written", "cap"),
    [
        ("logits = 15*torch.tanh(logits/15)", 15.0),
        ("logits = 12.5 * F.tanh(logits / 12.5)\n    logits = logits.float()", 12.5),
        ("logits = tanh( logits / 20.0 ) * 20", 20.0),
        ("logits = 9.0 * torch.tanh(logits / 9)\nlogits = 9 * torch.tanh(logits / 9.0)", 9.0),
        ("# logits = 30 * torch.tanh(logits / 30)", None),
    ],
)
def test_a_cap_is_read_however_it_is_written(written: str, cap: float | None, tmp_path: Path) -> None:
    saved("8 November", tmp_path)
    with_code(tmp_path, (CAPPED, written))
    assert load_pretrained(tmp_path).config.logit_softcap == cap


@pytest.mark.parametrize(
    "written",
    [
        "logits = 15 * torch.tanh(logits / 30)",
        "logits = cap * torch.tanh(logits / cap)",
        "logits = 15 * torch.tanh(logits / 7.5) + logits",
        "logits = 15 * torch.tanh(logits / 15)\nlogits = 20 * torch.tanh(logits / 20)",
        "x = torch.tanh(x)",
    ],
)
def test_a_tanh_that_is_not_read_is_refused(written: str, tmp_path: Path) -> None:
    saved("8 November", tmp_path)
    with_code(tmp_path, (CAPPED, written))
    with pytest.raises(ValueError, match="has a tanh that is not read as a cap of all logits"):
        load_pretrained(tmp_path)


def test_numbers_are_whole_expressions_of_code_that_runs(tmp_path: Path) -> None:
    saved("6 November", tmp_path)
    with_code(tmp_path, ("int = 64", "int = 2*32 # 1024"))
    assert load_pretrained(tmp_path).config.n_ctx == 64
    with_code(tmp_path, ("self.lamb = 0.5", "# self.lamb = 0.25\nself.lamb = 0.75"))
    assert load_pretrained(tmp_path).config.streams[0].gain == FixedGain(0.25, 0.75)
    with_code(tmp_path, ("self.lamb = 0.75", "self.lamb = 3/4"))
    with pytest.raises(ValueError, match=r"has no self\.lamb"):
        load_pretrained(tmp_path)


def test_later_records_are_refused_for_their_skips(tmp_path: Path) -> None:
    saved("8 November", tmp_path, skip_weights=torch.ones(1))
    with pytest.raises(ValueError, match=r"U-Net skips \(skip_weights\): hidden states of early layers"):
        load_pretrained(tmp_path)


def test_code_that_says_no_numbers_is_refused(tmp_path: Path) -> None:
    saved("8 November", tmp_path)
    file = tmp_path / "state_step000125.pt"
    held = torch.load(file, weights_only=True)
    for code, sentence in ((None, "does not hold the code"), ("import torch", "does not say n_head")):
        torch.save(held | {"code": code}, file)
        with pytest.raises(ValueError, match=sentence):
            load_pretrained(file)
    torch.save(held | {"model": held["model"] | {"transformer.h.1.attn.gate": torch.zeros(1)}}, file)
    with pytest.raises(ValueError, match="has no place for: transformer.h.1.attn.gate"):
        load_pretrained(file)
    torch.save({"step": 3}, file)
    with pytest.raises(ValueError, match="holds no dictionary of tensors"):
        load_pretrained(file)
