"""Speeds of the analysis, as ratios within one interleaved run on one thread: ``make bench``.

Every ratio is a median of pairs measured next to each other. The patch sweep is compared with transformer-lens' loop,
one full forward pass a site; where the whole loop takes too long, a random sample of its sites is timed. The floor is
the arithmetic strictly downstream of the patches, as a share of the loop's: matrix products of the positions and layers
that a patch can change, of those examples in which it writes something else than was there.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import pandas as pd
import torch
from torch import Tensor
from transformer_lens.patching import generic_activation_patch

from analysis import Graph, Pair, attribute_edges, find_sites, patch, split_gradient
from analysis.metrics import logit_difference
from circuits import HookedStreamTransformer, ModelConfig, icl_config, variants
from circuits.config.layers import MLP
from circuits.config.parts import ReluStack, TokenInputs, Unembedding
from circuits.sites import Site
from experiments.tasks.in_context.task import ICLTask
from tests.benchmarks.models import row

torch.set_num_threads(1)
SAMPLE = 120
"""Sites of the loop that are timed in a round."""
NAMES = {"own": "v", "residual": "v_residual", "mixed": "v_mixed", "z": "z"}


def token_config(**changes: Any) -> ModelConfig:
    """A GPT-2-like model of 3 million parameters, with a value stream."""
    n_layers = changes.get("n_layers", 6)
    fields: dict[str, Any] = {"n_heads": 8, "d_model": 192, "n_ctx": 20, "mlp": MLP(768), "normalization": "LN"}
    fields |= {
        "inputs": TokenInputs(1000),
        "readout": Unembedding(1000),
        "streams": variants.streams("value", n_layers),
    }
    return ModelConfig(**{"n_layers": n_layers, **fields, **changes})


def token_pair(n: int, n_pos: int, everywhere: bool = False) -> Pair:
    """Random tokens, of which two are exchanged in the corrupt input; or all others, so that no patch is idle."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(1000, (n, n_pos), generator=generator)
    corrupt = (clean + torch.randint(1, 1000, clean.shape, generator=generator)) % 1000
    if not everywhere:
        places = torch.rand(clean.shape, generator=generator).argsort(1)[:, :2]
        corrupt = clean.scatter(1, places, clean.gather(1, places.flip(1)))
    answers = torch.arange(n)
    return Pair(clean, corrupt, answers, answers + n, {})


def sweep_sites(model: HookedStreamTransformer, n_pos: int) -> list[Site]:
    """All layers x positions x heads x {own, residual, mixed, z}."""
    values = find_sites(model, ["v"], ["own", "residual", "mixed"], heads="each", positions=range(n_pos))
    return values + find_sites(model, ["z"], heads="each", positions=range(n_pos))


def _kind(site: Site) -> str:
    return site.route if site.component == "v" else site.component


@torch.no_grad()
def loop(model: HookedStreamTransformer, pair: Pair, sites: Sequence[Site], clean: Any) -> Tensor:
    """transformer-lens' own loop over the sites: a full forward pass with one hook each."""

    def setter(activation: Tensor, index: Sequence[int], clean_activation: Any) -> Tensor:
        _, position, head = index
        activation[:, position, head] = clean_activation[:, position, head]
        return activation

    found: dict[Site, Tensor] = {}
    for kind, name in NAMES.items():
        of = [site for site in sites if _kind(site) == kind]
        index = pd.DataFrame([{"layer": s.layer, "pos": s.position, "head": s.head} for s in of])
        if of:
            metric: Any = lambda logits: logit_difference(logits, pair)  # noqa: E731 # as short as a metric can be
            patched = generic_activation_patch(
                model, pair.corrupt, clean, metric, setter, name, index_df=index, reduce="none"
            )
            found |= dict(zip(of, patched.values, strict=True))
    return torch.stack([found[site] for site in sites])


# --- the floor --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Multiplications of one example's parts of a forward pass, by their shapes."""

    config: ModelConfig
    n_pos: int

    @property
    def head(self) -> int:
        """What one head writes, at one position."""
        return self.config.d_head * self.config.d_model if self.config.output_matrix else 0

    @property
    def projection(self) -> int:
        """One of queries, keys and values, at one position."""
        return self.config.d_model * self.config.d_head * self.config.n_heads

    @property
    def attention(self) -> int:
        """One query: its scores, and what it gathers."""
        return 2 * self.n_pos * self.config.d_head * self.config.n_heads

    @property
    def mlp(self) -> int:
        """The MLP at one position."""
        return 2 * self.config.d_model * self.config.mlp.d_mlp if self.config.mlp else 0

    @property
    def readout(self) -> int:
        """The logits of one position."""
        readout, width = self.config.readout, self.config.d_model
        depth = readout.depth if isinstance(readout, ReluStack) else 0
        return depth * width**2 + width * readout.d_vocab_out

    @property
    def after_attention(self) -> int:
        """All that follows attention in a block, at one position."""
        return self.config.n_heads * self.head + self.mlp

    @property
    def whole(self) -> int:
        """A forward pass."""
        block = 3 * self.projection + self.attention + self.after_attention
        return self.n_pos * (self.config.n_layers * block + self.readout)

    def downstream(self, site: Site) -> int:
        """All that a patch of one head's values or output at one position can change, before the last one is read."""
        assert isinstance(site.position, int)
        last, reach = self.config.n_layers - 1, self.n_pos - site.position
        values = site.component == "v"
        if site.layer == last:
            at_the_end = self.head + self.mlp + self.readout
            return at_the_end + values * self.config.d_head if values or reach == 1 else 0
        changed = reach if values else 1
        total = changed * (self.head + self.mlp) + values * reach * self.config.d_head
        for _ in range(site.layer + 1, last):
            total += changed * 3 * self.projection + reach * (self.attention + self.after_attention)
            changed = reach
        return total + (2 * changed + 1) * self.projection + self.attention + self.after_attention + self.readout


@torch.no_grad()
def floor(model: HookedStreamTransformer, pair: Pair, sites: Sequence[Site]) -> float:
    """The arithmetic downstream of the patches as a share of that of the loop."""
    _, clean = model.run_with_cache(pair.clean)
    _, corrupt = model.run_with_cache(pair.corrupt)
    work = Work(model.config, pair.n_pos)
    total = 0.0
    for site in sites:
        there = (slice(None), site.position, site.head)
        active = (clean[site.hook_name][there] != corrupt[site.hook_name][there]).any(-1)
        total += float(active.double().mean()) * work.downstream(site)
    return total / (len(sites) * work.whole)


# --- the rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """What one comparison of the sweep with the loop found."""

    sites: int
    sampled: int
    ours: float
    """CPU seconds of the whole sweep."""
    ratio: float
    difference: float
    """The largest between the two results."""


def compare(model: HookedStreamTransformer, pair: Pair, rounds: int) -> Sweep:
    """Time the sweep and the loop in turn; the loop on other random sites in every round."""
    sites = sweep_sites(model, pair.n_pos)
    with torch.no_grad():
        _, clean = model.run_with_cache(pair.clean)
    generator = torch.Generator().manual_seed(0)
    ours, ratios, differences = [], [], []
    patch(model, pair, sites[:SAMPLE])
    for _ in range(rounds):
        chosen = torch.randperm(len(sites), generator=generator)[:SAMPLE].tolist()
        start = time.process_time()
        found = patch(model, pair, sites)
        middle = time.process_time()
        looped = loop(model, pair, [sites[i] for i in chosen], clean)
        end = time.process_time()
        ours.append(middle - start)
        ratios.append((end - middle) / len(chosen) * len(sites) / (middle - start))
        differences.append(float((found.values[chosen] - looped).abs().max()))
    return Sweep(len(sites), min(SAMPLE, len(sites)), median(ours), median(ratios), max(differences))


def patch_sweeps(rounds: int) -> None:
    """Print the sweep against the loop, for every model that a goal was set for."""
    classifier = HookedStreamTransformer(icl_config("value", "paper")).eval()
    tokens = HookedStreamTransformer(token_config()).eval()
    task = ICLTask("paper")
    cases = [
        ("in-context model, 8 pairs", classifier, task.pairs(8, "labels"), rounds, ">= 8 x"),
        ("in-context model, 128 pairs", classifier, task.pairs(128, "labels"), rounds, ">= 4 x"),
        ("token model, 16 pairs of 20, two tokens exchanged", tokens, token_pair(16, 20), 3, ">= 8 x"),
        ("token model, 16 pairs of 20, every token another", tokens, token_pair(16, 20, True), 3, ""),
    ]
    for name, model, pair, times, asked in cases:
        found, least = compare(model, pair, times), floor(model, pair, sweep_sites(model, pair.n_pos))
        row(f"patch sweep, {name}: loop / ours", f"{found.ratio:.2f} x", asked)
        timed = "all" if found.sampled == found.sites else f"a random {found.sampled} timed"
        row(f"    of {found.sites} sites ({timed}); ours takes", f"{found.ours:.3f} s", "")
        row("    largest difference of the results", f"{found.difference:.1e}", "<= 1e-5")
        row(
            "    floor: arithmetic downstream / the loop's; fraction reached",
            f"{least:.1%}; {least * found.ratio:.0%}",
            "",
        )


def cost_table(rounds: int) -> None:
    """Print what a patched site costs in small models, one size varied at a time."""
    standard = {"layers": 3, "heads": 4, "positions": 12, "examples": 8}
    varied = {"layers": (2, 4, 6), "heads": (2, 8), "positions": (6, 24), "examples": (2, 32)}
    settings = [standard] + [standard | {name: size} for name, sizes in varied.items() for size in sizes]
    rows = []
    for sizes in settings:
        layers, heads, positions, examples = sizes.values()
        changes = {"n_layers": layers, "n_heads": heads, "d_model": 64, "n_ctx": positions, "mlp": MLP(256)}
        model = HookedStreamTransformer(token_config(**changes)).eval()
        found = compare(model, token_pair(examples, positions), rounds)
        rows.append(
            sizes | {"sites": found.sites, "ms a site": 1e3 * found.ours / found.sites, "loop / ours": found.ratio}
        )
    print("\npatch sweep of token models of width 64, two tokens exchanged:")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))


def gradient_questions(rounds: int) -> None:
    """Print what edge attribution and the split of a gradient cost, in plain forward and backward passes."""
    classifier = HookedStreamTransformer(icl_config("value", "paper")).eval()
    tokens = HookedStreamTransformer(token_config()).eval()
    cases = [
        ("in-context model, 128", classifier, ICLTask("paper").pairs(128, "labels"), "<= 6 x", "<= 2.5 x"),
        ("token model, 16", tokens, token_pair(16, 20), "<= 6 x", ""),
    ]
    for name, model, pair, edges_asked, split_asked in cases:
        n_edges = len(Graph(model))
        found = in_passes(model, pair, rounds)
        row(f"EAP over all {n_edges:,} edges / forward-backward, {name} pairs", f"{found['edges']:.2f} x", edges_asked)
        row(f"gradient split / forward-backward, {name} pairs", f"{found['split']:.2f} x", split_asked)
        row(f"    by layer pair, {name} pairs", f"{found['split by pair']:.2f} x", "")


def in_passes(model: HookedStreamTransformer, pair: Pair, rounds: int) -> dict[str, float]:
    """CPU time of each question over that of a forward and backward pass, medians of pairs measured in turn."""

    def loss(logits: Tensor) -> Tensor:
        return logit_difference(logits, pair).mean()

    def plain() -> None:
        model.zero_grad(set_to_none=True)
        loss(model(pair.corrupt)).backward()

    asked: dict[str, Callable[[], Any]] = {
        "edges": lambda: attribute_edges(model, pair, check=0),
        "split": lambda: split_gradient(model, loss, pair.corrupt),
        "split by pair": lambda: split_gradient(model, loss, pair.corrupt, by="pair"),
    }
    ratios: dict[str, list[float]] = {name: [] for name in asked}
    for i in range(-1, rounds):
        for name, question in asked.items():
            pairs = timed(plain), timed(question)
            if i >= 0:
                ratios[name].append(pairs[1] / pairs[0])
    return {name: median(values) for name, values in ratios.items()}


def timed(call: Callable[[], Any], times: int = 3) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


ROWS: list[Callable[[int], None]] = [patch_sweeps, cost_table, gradient_questions]
"""Each prints its rows, given the rounds of an interleaved comparison."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    row("what", "found", "asked")
    for rows in ROWS:
        rows(options.rounds)


if __name__ == "__main__":
    main()
