"""A training step of a small model of another make against plain PyTorch of the same mathematics, and its questions.

Rotary positions, shared heads, SwiGLU and RMS norms, without a stream and with nanochat's value embeddings; and by how
many forward-backwards every edge of nanochat's parts is scored. Ratios of steps measured next to each other on one
thread, memory of processes of their own. Run ``python -m tests.benchmarks.other_makes``; nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis import Graph, Pair
from analysis.gap import WeakPairWarning
from circuits import (
    MLP,
    Backout,
    HookedStreamTransformer,
    ModelConfig,
    QKNorm,
    ResidualScalars,
    Rotary,
    Smear,
    lm_config,
)
from tests.benchmarks.analysis import in_passes
from tests.benchmarks.language_models import BATCH, LENGTH, batches, plain_loss, resident, row, step

torch.set_num_threads(1)
WANTED = {"classic": 0.95, "nanochat": 0.92}
KINDS = [f"{who} {variant}" for variant in WANTED for who in ("plain", "ours")]


def config_of(variant: str, **more: Any) -> ModelConfig:
    """Return a model of 3 million parameters as Llama's, with the streams of a variant."""
    parts: dict[str, Any] = {
        "positions": "none",
        "rotary": Rotary(),
        "n_key_value_heads": 4,
        "normalization": "RMS",
        "biases": False,
        "mlp": MLP(512, "silu", gated=True, biases=False),
    }
    return lm_config("3m", variant, **parts | more)


class PlainBlock(nn.Module):
    """A block as one writes it by hand, with a gated table of value embeddings where ``table`` is given."""

    def __init__(self, config: ModelConfig, table: bool):
        super().__init__()
        d, hidden = config.d_model, 512
        self.heads, self.shared, self.width = config.n_heads, config.heads_of("v"), config.d_head
        self.w1, self.w2 = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.q, self.out = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.k, self.v = (nn.Linear(d, self.shared * self.width, bias=False) for _ in range(2))
        self.gate, self.up = nn.Linear(d, hidden, bias=False), nn.Linear(d, hidden, bias=False)
        self.down = nn.Linear(hidden, d, bias=False)
        self.table = nn.Embedding(config.inputs.rows, self.shared * self.width) if table else None
        self.by_table = nn.Linear(12, self.shared, bias=False) if table else None

    def forward(self, x: Tensor, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the residual stream after the block."""
        batch, pos, d = x.shape
        n = F.rms_norm(x, (d,), self.w1, 1e-5)
        q = self.q(n).view(batch, pos, self.heads, self.width)
        k, v = (linear(n).view(batch, pos, self.shared, self.width) for linear in (self.k, self.v))
        if self.table is not None and self.by_table is not None:
            rows = self.table(tokens).view(batch, pos, self.shared, self.width)
            v = v + 3 * torch.sigmoid(self.by_table(n[..., :12]))[..., None] * rows
        q, k = (self.turned(t, cos, sin).transpose(1, 2) for t in (q, k))
        z = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True)
        x = x + self.out(z.transpose(1, 2).reshape(batch, pos, d))
        n = F.rms_norm(x, (d,), self.w2, 1e-5)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))

    @staticmethod
    def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return queries or keys turned by their positions."""
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def take(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a block of :class:`circuits.HookedStreamTransformer`, by their names in it."""
        by_name = {"q": "attn.W_Q", "k": "attn.W_K", "v": "attn.W_V", "gate": "mlp.W_gate", "up": "mlp.W_in"}
        for name, theirs in by_name.items():
            weight = weights[theirs]
            weight = weight.transpose(0, 1).flatten(1) if weight.ndim == 3 else weight
            self.get_submodule(name).get_parameter("weight").copy_(weight.T)
        self.out.weight.copy_(weights["attn.W_O"].flatten(0, 1).T)
        self.down.weight.copy_(weights["mlp.W_out"].T)
        self.w1.copy_(weights["ln1.w"])
        self.w2.copy_(weights["ln2.w"])
        if self.by_table is not None:
            self.by_table.weight.copy_(weights["attn.mix.v.W_gain"].T)


class PlainModel(nn.Module):
    """The model of a configuration of :func:`config_of` in plain PyTorch."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.inputs.rows, config.d_model)
        self.list_of_blocks = [PlainBlock(config, layer in config.tables) for layer in range(config.n_layers)]
        self.blocks = nn.ModuleList(self.list_of_blocks)
        self.norm = nn.Parameter(torch.ones(config.d_model))
        half = config.d_head // 2
        turn = torch.arange(config.n_ctx)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", turn.cos()[None, :, None])
        self.register_buffer("sin", turn.sin()[None, :, None])

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean next-token loss."""
        x, n = self.tokens(tokens), tokens.shape[1]
        for block in self.list_of_blocks:
            x = block(x, tokens, self.cos[:, :n], self.sin[:, :n])
        return plain_loss(F.linear(F.rms_norm(x, x.shape[-1:], self.norm, 1e-5), self.tokens.weight), tokens)

    @torch.no_grad()
    def take(self, model: HookedStreamTransformer) -> PlainModel:
        """Take the weights of a model."""
        weights = model.state_dict()
        self.tokens.weight.copy_(weights["embed.W_E"])
        self.norm.copy_(weights["ln_final.w"])
        for i, block in enumerate(self.list_of_blocks):
            start = f"blocks.{i}."
            block.take({name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)})
            if block.table is not None:
                block.table.weight.copy_(weights[f"value_embeds.{i}.W_VE"])
        return self


def build(kind: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return one kind's model and its loss as a function of tokens."""
    who, variant = kind.split()
    ours = HookedStreamTransformer(config_of(variant)).train()
    if who == "plain":
        plain = PlainModel(ours.config).take(ours)
        return plain, plain
    return ours, partial(ours, return_type="loss")


def report_speed(rounds: int) -> None:
    """Print every kind's speed over that of its plain model, turn by turn."""
    kinds, data = {kind: build(kind) for kind in KINDS}, batches()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for i in range(-2, rounds):
        for j in range(len(KINDS)):
            kind = KINDS[(i + j) % len(KINDS)]
            start = time.process_time()
            step(*kinds[kind], data[i % len(data)])
            if i >= 0:
                times[kind].append(time.process_time() - start)
    for variant, wanted in WANTED.items():
        with torch.no_grad():
            gap = max(abs(float(kinds[f"plain {variant}"][1](x) - kinds[f"ours {variant}"][1](x))) for x in data)
        row(f"largest difference of losses, {variant}", f"{gap:.1e}", "< 1e-5")
        ratios = [a / b for a, b in zip(times[f"plain {variant}"], times[f"ours {variant}"], strict=True)]
        speed = BATCH * LENGTH / median(times[f"ours {variant}"])
        row(f"tokens a second, {variant}, eager", f"{speed:.0f}")
        row(f"tokens a second, {variant} / plain of the same mathematics", f"{median(ratios):.3f} x", f">= {wanted} x")


def report_edges(rounds: int) -> None:
    """Print by how many forward-backwards every edge of a model with nanochat's parts is scored."""
    more = {
        "qk_norm": QKNorm(after_rotary=True, scale=1.2),
        "residual_scalars": ResidualScalars((1.1, 1.0), (0.2, 0.1)),
        "smear": Smear(gain=0.3),
        "backout": Backout(3),
        "logit_softcap": 15.0,
    }
    model = HookedStreamTransformer(config_of("nanochat", **more)).eval()
    clean, corrupt = (x[:16, :20] for x in batches(2))
    answers = torch.arange(16)
    pair = Pair(clean, corrupt, answers, answers + 1)
    warnings.simplefilter("ignore", WeakPairWarning)
    row(
        f"EAP of {len(Graph(model)):,} edges, nanochat's parts",
        f"{in_passes(model, pair, rounds)['edges']:.2f} x",
        "<= 6 x",
    )


def peak(kind: str) -> float:
    """Return by how many MB three steps of one kind raise the highest resident size of a process of their own."""
    command = [sys.executable, "-m", "tests.benchmarks.other_makes", "--peak", kind]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds, of a step of each kind")
    parser.add_argument("--peak", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        before = resident()
        model, loss = build(options.peak)
        for tokens in batches(3):
            step(model, loss, tokens)
        print(resident() - before)
        return
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread, 3m, {BATCH} x {LENGTH}"
    )
    report_speed(options.rounds)
    report_edges(max(3, options.rounds // 3))
    for variant in WANTED:
        ours, plain = (median(peak(f"{who} {variant}") for _ in range(3)) for who in ("ours", "plain"))
        row(f"memory of a step, {variant} / plain", f"{ours / plain:.3f} x", "<= 1.05 x")


if __name__ == "__main__":
    main()
