"""A training step of a small language model against plain PyTorch of the same mathematics, eager and compiled.

Every figure is a median of ratios of steps measured next to each other on one thread, because a machine's speed drifts.
Memory is by how much a few steps raise the resident size of a process of their own. Run ``python -m
tests.benchmarks.language_models``;
nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuits import HookedStreamTransformer, ModelConfig, attention, lm_config
from circuits.products import compile_without_python, has_onednn, through_onednn
from circuits.streams import mixing as streams
from circuits.transformerlens.hooks import fork
from experiments.questions.ioi_tables import summary
from experiments.questions.prompts import every_prompt
from experiments.runs.config import lm_run
from experiments.tasks.stories import StoriesTask
from experiments.training.engines import calibrated, compiles, step_products

torch.set_num_threads(1)
BATCH, LENGTH = 32, 96
KINDS = ("plain", "classic", "value")
WANTED = {"classic": 0.95, "value": 0.92}


def plain_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean next-token loss as one writes it by hand."""
    targets = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], -100)], 1)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class PlainBlock(nn.Module):
    """A GPT-2 block as one writes it by hand: fused projections, fused attention, nothing to hook."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, hidden = config.d_model, 4 * config.d_model
        self.heads = config.n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after the block."""
        batch, pos, d = x.shape
        q, k, v = (t.view(batch, pos, self.heads, -1).transpose(1, 2) for t in self.qkv(self.ln1(x)).split(d, dim=2))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).reshape(batch, pos, d))
        return x + self.down(F.gelu(self.up(self.ln2(x))))

    def take(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of a block of :class:`circuits.HookedStreamTransformer`, by their names in it."""
        qkv = torch.cat([weights[f"attn.W_{c}"].transpose(0, 1).flatten(1) for c in "QKV"], 1)
        pairs = {
            self.qkv: (qkv, torch.cat([weights[f"attn.b_{c}"].flatten() for c in "QKV"])),
            self.out: (weights["attn.W_O"].flatten(0, 1), weights["attn.b_O"]),
            self.up: (weights["mlp.W_in"], weights["mlp.b_in"]),
            self.down: (weights["mlp.W_out"], weights["mlp.b_out"]),
        }
        for linear, (weight, bias) in pairs.items():
            linear.weight.copy_(weight.T)
            linear.bias.copy_(bias)
        for name, norm in (("ln1", self.ln1), ("ln2", self.ln2)):
            norm.weight.copy_(weights[f"{name}.w"])
            norm.bias.copy_(weights[f"{name}.b"])


class PlainGPT(nn.Module):
    """The classic model of a configuration of :func:`circuits.lm_config` in plain PyTorch."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.readout.d_vocab_out, config.d_model)
        self.positions = nn.Embedding(config.n_ctx, config.d_model)
        self.list_of_blocks = [PlainBlock(config) for _ in range(config.n_layers)]
        self.blocks = nn.ModuleList(self.list_of_blocks)
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean next-token loss."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.list_of_blocks:
            x = block(x)
        return plain_loss(F.linear(self.norm(x), self.tokens.weight), tokens)

    @torch.no_grad()
    def take(self, model: HookedStreamTransformer) -> PlainGPT:
        """Take the weights of a classic model."""
        weights = model.state_dict()
        self.tokens.weight.copy_(weights["embed.W_E"])
        self.positions.weight.copy_(weights["pos_embed.W_pos"])
        self.norm.weight.copy_(weights["ln_final.w"])
        self.norm.bias.copy_(weights["ln_final.b"])
        for i, block in enumerate(self.list_of_blocks):
            start = f"blocks.{i}."
            block.take({name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)})
        return self


def batches(n: int = 4) -> list[Tensor]:
    """Return token batches."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(600, (BATCH, LENGTH), generator=generator) for _ in range(n)]


def losses(compiled: bool) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """Return every kind's model and its loss as a function of tokens."""
    found = {kind: build(kind) for kind in KINDS}
    return {kind: (model, torch.compile(loss) if compiled else loss) for kind, (model, loss) in found.items()}


def build(kind: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return one kind's model and its loss as a function of tokens."""
    config = lm_config("3m", "value" if kind == "value" else "classic")
    ours = HookedStreamTransformer(config).train()
    if kind == "plain":
        plain = PlainGPT(config).take(ours)
        return plain, plain
    return ours, lambda tokens: ours(tokens, "loss")


def step(model: nn.Module, loss: Callable[[Tensor], Tensor], tokens: Tensor) -> None:
    """Make one step without its update."""
    model.zero_grad(set_to_none=True)
    loss(tokens).backward()


def interleaved(rounds: int, compiled: bool) -> dict[str, list[float]]:
    """Return CPU seconds of one step of every kind in every round; which goes first changes from round to round."""
    kinds, data = losses(compiled), batches()
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for i in range(-2, rounds):
        for j in range(len(KINDS)):
            kind = KINDS[(i + j) % len(KINDS)]
            start = time.process_time()
            step(*kinds[kind], data[i % len(data)])
            if i >= 0:
                times[kind].append(time.process_time() - start)
    return times


def check_losses() -> float:
    """Return how far the classic model's loss is from the plain one's, at most, and raise if that is more than 1e-5."""
    kinds = losses(compiled=False)
    with torch.no_grad():
        gaps = [abs(float(kinds["plain"][1](x) - kinds["classic"][1](x))) for x in batches()]
    assert max(gaps) < 1e-5, gaps
    return max(gaps)


def peak(kind: str) -> float:
    """Return by how many MB three steps of one kind raise the highest resident size of a process of their own."""
    # With every large tensor mapped by itself: what malloc keeps and cannot use again would drown the difference.
    command, variables = (
        [sys.executable, "-m", "tests.benchmarks.language_models", "--peak", kind],
        {"MALLOC_MMAP_THRESHOLD_": "100000"},
    )
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | variables)
    return float(ran.stdout)


def print_peak(kind: str) -> None:
    """Make three steps and print by how many MB they raise this process's highest resident size."""
    before = resident()
    model, loss = build(kind)
    for tokens in batches(3):
        step(model, loss, tokens)
    print(resident() - before)


def resident() -> float:
    """Return this process's highest resident size in MB; not ``getrusage``'s, which starts from the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def row(what: str, found: str, asked: str = "") -> None:
    """Print a line of the table."""
    print(f"{what:<66} {found:>16}   {asked}", flush=True)


def report_speed(rounds: int, compiled: bool) -> None:
    """Print every kind's speed, and over that of the plain model."""
    how, times = "compiled" if compiled else "eager", interleaved(rounds, compiled)
    for kind, values in times.items():
        row(f"tokens a second, {kind}, {how}", f"{BATCH * LENGTH / median(values):.0f}")
    for kind, wanted in WANTED.items():
        ratios = [plain / ours for plain, ours in zip(times["plain"], times[kind], strict=True)]
        row(f"tokens a second, {kind} / plain, {how}", f"{median(ratios):.3f} x", f">= {wanted} x")


def report_products(rounds: int, compiled: bool) -> None:
    """Print how much faster a step of the 3m model is with all larger products by oneDNN, turn by turn."""
    config, how = lm_run("3m", "stories", "value"), "compiled" if compiled else "eager"
    products = step_products(config)
    task, model = StoriesTask(), HookedStreamTransformer(config.model).train()
    tokens = task.sample(config.training.batch_size).tokens
    # A function each, as each has compiled code of its own.
    kinds = {kind: partial(model, return_type="loss") for kind in ((), tuple(products))}
    kinds = {kind: torch.compile(loss) if compiled else loss for kind, loss in kinds.items()}
    ratios = []
    for i in range(-2, rounds):
        seconds = {}
        for kind, loss in kinds.items():
            with through_onednn(kind):
                start = time.process_time()
                step(model, loss, tokens)
                seconds[kind] = time.process_time() - start
        ratios += [seconds[()] / seconds[tuple(products)]] if i >= 0 else []
    asked = ">= 1.4 x where oneDNN's are twice as fast"
    row(f"step, default products / by oneDNN, value, 3m, {how}", f"{median(ratios):.2f} x", asked)
    taken = calibrated(products, how)
    row(f"larger products of a step that a calibration takes, 3m, {how}", f"{len(taken)} of {len(products)}")


def report_data(rounds: int) -> None:
    """Print what drawing a batch takes of a step of the smallest and the 3m model, turn by turn."""
    for size in ("0.2m", "3m"):
        config = lm_run(size, "stories", "classic")
        task, model = StoriesTask(), HookedStreamTransformer(config.model).train()
        shares = []
        for i in range(-2, rounds):
            start = time.process_time()
            batch = task.sample(config.training.batch_size, "train", seed=i + 2)
            drawn = time.process_time()
            step(model, partial(model, return_type="loss"), batch.tokens)
            if i >= 0:
                shares.append((drawn - start) / (time.process_time() - drawn))
        row(f"drawing a batch of stories / a step, {size}", f"{median(shares):.1%}", "< 10 %")


def bare(point: HookPoint, tensor: Tensor) -> Tensor:
    """A branch of a fork that shares its storage with the others."""
    return point(tensor)


def report_copies(rounds: int) -> None:
    """Print what storage of its own for every branch of a fork takes of a step in which nobody listens."""
    for variant, asked in (("value", "<= 1.02 x"), ("cumulative", "<= 1.02 x"), ("resformer-dense", ""), ("lime", "")):
        model = HookedStreamTransformer(lm_config("0.2m", variant)).train()
        loss, ratios = partial(model, return_type="loss"), []
        for i, tokens in enumerate(batches() * rounds):
            seconds = []
            for kind in (fork, bare):
                attention.fork = streams.fork = kind
                start = time.process_time()
                step(model, loss, tokens)
                seconds.append(time.process_time() - start)
            ratios += [seconds[0] / seconds[1]] if i > 1 else []
        attention.fork = streams.fork = fork
        row(f"step with copies at forks / without, {variant}, 0.2m, eager", f"{median(ratios):.3f} x", asked)


def report_generation(rounds: int, new: int = 200) -> None:
    """Print how much faster tokens follow with a cache than without, after a few tokens and after many."""
    for variant, before in (("classic", 16), ("value", 16), ("value", 200)):
        model = HookedStreamTransformer(lm_config("3m", variant, n_ctx=new + before)).eval()
        tokens, ratios = torch.cat(batches(3), 1)[:1, :before], []
        for i in range(-1, rounds):
            seconds = []
            for cached in (False, True):
                start = time.process_time()
                model.generate(tokens, new, do_sample=False, stop_at_eos=False, use_past_kv_cache=cached)
                seconds.append(time.process_time() - start)
            ratios += [seconds[0] / seconds[1]] if i >= 0 else []
        kinds = f"{new} tokens after {before}, without a cache / with one, {variant}, 3m"
        row(kinds, f"{median(ratios):.1f} x", ">= 5 x")


def report_ioi(prompts: int = 1_000) -> None:
    """Print how long indirect-object identification takes, from making the prompts to the table."""
    config = lm_run("3m", "stories", "value")
    task, model = StoriesTask().ioi, HookedStreamTransformer(config.model).eval()
    start = time.perf_counter()
    frame = every_prompt(model, task, prompts // 4).assign(variant="value", size="3m", seed=0, body="own", run="run")
    summary(frame)
    seconds, n = time.perf_counter() - start, len(frame) // frame.measure.nunique()
    row(f"indirect objects, {n:,} prompts, 3m, one thread", f"{seconds:.2f} s", "< 5 s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds, of a step of each kind")
    parser.add_argument("--peak", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--eager-only", action="store_true", help="leave out the compiled steps")
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak)
        return
    compile_without_python()
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread, 3m, {BATCH} x {LENGTH}"
    )
    row("largest difference of the classic model's loss and the plain one's", f"{check_losses():.1e}", "< 1e-5")
    for compiled in [False] if options.eager_only or not compiles() else [False, True]:
        report_speed(options.rounds, compiled)
        if has_onednn():
            report_products(options.rounds, compiled)
    report_copies(options.rounds)
    report_data(options.rounds)
    report_ioi()
    report_generation(max(1, options.rounds // 5))
    peaks = {kind: median(peak(kind) for _ in range(3)) for kind in KINDS}
    row("memory of a step, plain", f"{peaks['plain']:.0f} MB")
    for kind in WANTED:
        row(f"memory of a step, {kind} / plain", f"{peaks[kind] / peaks['plain']:.3f} x", "<= 1.05 x")


if __name__ == "__main__":
    main()
