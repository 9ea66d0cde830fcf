"""Numbers of the pages on TransformerLens and on traps that two language models give: 0.2 million parameters, trained
on sentences about indirect objects, seed 0; one without a stream, one with it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch, faithfulness

from analysis import METRICS, Graph, Pair, attribute_logits, find_paths, patch_paths
from circuits import HookedStreamTransformer
from experiments import Run as TrainedRun
from experiments import RunConfig, TokenTraining, lm_run

STEPS = 2_000


def language_models() -> list[RunConfig]:
    """Return the runs that are measured: classic and value."""
    return [lm_run("0.2m", "ioi", variant, 0, TokenTraining(steps=STEPS)) for variant in ("classic", "value")]


def of_language_models(classic: TrainedRun, value: TrainedRun) -> dict[str, float]:
    """Return the numbers that the two runs of :func:`language_models` give, by name."""
    found: dict[str, float] = {}
    for name, run in (("classic", classic), ("value", value)):
        model, pair = run.load_model().double(), run.task().pairs(32)
        of_one = {
            "probability": _of_answers(model(pair.clean), pair),
            "training_mode": _in_training_mode(model, pair),
            "head_missed": _head_missed(model, pair),
            **_folded(model, pair),
            **_edges(model, pair),
            **_direct_paths(model, pair),
        }
        found |= {f"{name}_{what}": number for what, number in of_one.items()}
        if name == "value":
            found |= _without_the_stream(model, pair) | _logits(model, pair)
    return found


@torch.no_grad()
def _of_answers(logits: Tensor, pair: Pair) -> float:
    """The probability of the right answer, where it is read."""
    at = logits[torch.arange(len(pair)), pair.reads].softmax(-1)
    return float(at[torch.arange(len(pair)), pair.answers].mean())


@torch.no_grad()
def _head_missed(model: HookedStreamTransformer, pair: Pair) -> float:
    """The relative error of taking heads of the last layer for their pattern times their layer's own values."""
    _, cache = model.run_with_cache(pair.clean)
    last = model.config.n_layers - 1
    z, own = cache["z", last], torch.einsum("bhqk,bkhd->bqhd", cache["pattern", last], cache["v", last])
    return float((z - own).norm() / z.norm())


@torch.no_grad()
def _without_the_stream(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """The probability of the right answer from the residual stream before layer 1 alone, and with a cache that keeps a
    layer's own values of earlier tokens instead of those that attention used."""
    points = [f"blocks.{layer}.attn.hook_v_residual" for layer in range(1, model.config.n_layers)]

    def silent(t: Tensor, hook: object) -> Tensor:
        return torch.zeros_like(t)

    def own_of_earlier(t: Tensor, hook: object) -> Tensor:
        earlier = torch.arange(t.shape[1])[None, :] < pair.reads[:, None]
        return t.masked_fill(earlier[..., None, None], 0)

    started = model.run_with_hooks(pair.clean, fwd_hooks=[(points[0], silent)])
    cached = model.run_with_hooks(pair.clean, fwd_hooks=[(point, own_of_earlier) for point in points])
    return {"value_later_start": _of_answers(started, pair), "value_own_cache": _of_answers(cached, pair)}


def _logits(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """The stream's share of what heads write to the logit difference, in absolute values."""
    parts = attribute_logits(model, pair).to_frame()
    by_route = parts[parts["head"] != ""].groupby("route")["value"].agg(lambda values: values.abs().sum())
    return {"logits_by_stream": float(by_route["stream"] / by_route.sum())}


@torch.no_grad()
def _in_training_mode(model: HookedStreamTransformer, pair: Pair) -> float:
    """The probability of the right answer with dropout of a tenth at work, mean over ten runs."""
    other = HookedStreamTransformer(replace(model.config, dropout=0.1)).double()
    other.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    other.train()
    return sum(_of_answers(other(pair.clean), pair) for _ in range(10)) / 10


@torch.no_grad()
def _folded(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """By how much log probabilities change where biases of values are folded into the output's, and another way: with
    what the stream passes on of them."""
    before = model(pair.clean).log_softmax(-1)
    found = {}
    for name, passed_on in (("folded_biases", False), ("folded_biases_by_route", True)):
        folded = HookedStreamTransformer(model.config).double().eval()
        folded.load_state_dict(model.state_dict())
        weights = dict(folded.named_parameters())
        for layer in range(model.config.n_layers):
            ahead = model.b_V[layer] + (model.b_V[layer - 1] if passed_on and layer and model.config.streams else 0)
            weights[f"blocks.{layer}.attn.b_O"] += torch.einsum("hd,hdm->m", ahead, model.W_O[layer])
            weights[f"blocks.{layer}.attn.b_V"].zero_()
        found[name] = float((folded(pair.clean).log_softmax(-1) - before).abs().max())
    return found


def _edges(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """How many edges the graph has; how far the sums of TransformerLens' scores of edges are from its scores of nodes;
    and what its faithfulness says of a circuit that no path of its graph leads through, the mean over eight pairs: all
    edges before layer 1 and all after, but none from one to the other."""
    model.allow_stream_blind_tools()
    config = EdgeAttributionConfig(granularity="edge")
    recovered, sum_errors = list[float](), list[float]()
    for row in range(8):
        clean, corrupt = pair.clean[row : row + 1], pair.corrupt[row : row + 1]
        where, answer, wrong = (int(x[row]) for x in (pair.reads, pair.answers, pair.wrong))

        def metric(logits: Tensor, at: int = where, answer: int = answer, wrong: int = wrong) -> Tensor:
            return logits[0, at, answer] - logits[0, at, wrong]

        scores = attribution_patch(model, clean, corrupt, metric, config)
        leaving: dict[Any, float] = defaultdict(float)
        for (source, _), score in scores.edge_scores.items():
            leaving[source] += float(score)
        sum_errors += [abs(leaving[node] - float(score)) for node, score in scores.node_scores.items()]
        circuit = [edge for edge in scores.edge_scores if _late(edge[0]) == _late(edge[1])]
        recovered.append(float(faithfulness(model, clean, corrupt, metric, circuit).recovered))
    return {
        "edges": len(Graph(model).edges),
        "no_path_recovers": sum(recovered) / len(recovered),
        "their_sum_error": max(sum_errors),
    }


def _late(node: Any) -> bool:
    """Whether a node comes after layer 0."""
    return node.kind == "logits" or bool(node.layer)


def _direct_paths(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """The largest difference, among paths from heads of layer 0 to the values of heads of layer 1, of TransformerLens'
    direct path patching from what the receiver itself makes of the path, as a share of the largest such effect."""
    _, clean = model.run_with_cache(pair.clean)
    _, corrupt = model.run_with_cache(pair.corrupt)
    receivers = [f"L1H{head}.v" for head in range(model.config.n_heads)]
    off, largest = 0.0, 0.0

    def metric(logits: Tensor) -> Tensor:
        return METRICS["logit_difference"](logits, pair).mean()

    for head in range(model.config.n_heads):
        with torch.no_grad():
            theirs = patching.get_act_patch_direct_path(
                model, pair.corrupt, clean, corrupt, metric, 0, head, "v", verbose=False
            )
        exact = patch_paths(model, pair, find_paths(model, [(0, head)], receivers, ["residual"])).to_frame()
        patched = exact.set_index("receiver").patched[receivers]
        off = max(off, float(np.abs(theirs[1].double().cpu().numpy() - patched).max()))
        largest = max(largest, float((patched - exact.corrupt.iloc[0]).abs().max()))
    return {"direct_path_off": off / largest}
