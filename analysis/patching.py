"""Activation patching over layers, heads, positions, components and routes, many patched copies in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import psutil
import torch
from einops import repeat
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.patching import PatchingResult

from analysis.drawing import draw
from analysis.evalmode import require_eval_mode
from analysis.pairs import Metric, Pair, evaluate, metric_named
from analysis.sites import check_sites
from circuits.errors import known
from circuits.model import HookedStreamTransformer, State
from circuits.sites import PATTERN, Site

Direction = Literal["denoise", "noise"]
DIRECTIONS: dict[str, str] = {
    "denoise": "the corrupt run with clean activations patched in; effect 1 = the clean metric is restored",
    "noise": "the clean run with corrupt activations patched in; effect 1 = the metric falls to the corrupt one's",
}
MOST_EXAMPLES = 2048
"""In one forward, however much memory there is: larger batches fall out of the cache and gain nothing."""


@dataclass
class PatchResult(PatchingResult):
    """transformer-lens' per-example result, with its sites, both baselines and the normalised effect.

    ``values`` is (site, example). ``baseline`` is the metric of the run that was patched, ``target`` that of the run
    that the activations came from. The effect of a site is mean(patched - baseline) / mean(target - baseline): 0 where
    the patch did nothing, 1 where it carried the whole difference.
    """

    sites: list[Site] = field(default_factory=list)
    target: Tensor = field(default_factory=lambda: torch.zeros(0))
    direction: str = "denoise"

    def normalised_effect(self) -> Float[Tensor, " site"]:
        """Return the effect of every site."""
        return self.effect().mean(-1) / self._gap().mean()

    def _gap(self) -> Float[Tensor, " example"]:
        assert self.baseline is not None, "patch() always stores a baseline"
        return self.target - self.baseline

    def interval(self, confidence: float = 0.95, n_resamples: int = 1000, seed: int = 0) -> Float[np.ndarray, "2 site"]:
        """Return low and high ends of the effect's percentile bootstrap interval over examples."""
        result = stats.bootstrap(
            (self.effect().double().numpy(), np.broadcast_to(self._gap().double().numpy(), self.values.shape)),
            lambda moved, gap, axis: moved.mean(axis) / gap.mean(axis),
            paired=True,
            axis=-1,
            n_resamples=n_resamples,
            confidence_level=confidence,
            method="percentile",
            batch=50,
            rng=np.random.default_rng(seed),
        )
        return np.stack([result.confidence_interval.low, result.confidence_interval.high])

    def to_frame(self) -> pd.DataFrame:
        """Return one row a site: where it is, the mean patched metric, effect, interval, p, and the convention.

        ``p`` is transformer-lens' sign-flip permutation test that the mean change is zero (no correction for the number
        of sites).
        """
        low, high = self.interval()
        frame = self.index_df.assign(
            effect=self.normalised_effect().numpy(),
            low=low,
            high=high,
            p=self.permutation_pvalue().numpy(),
            patched=self.mean().numpy(),
        )
        clean, corrupt = (self.target, self.baseline) if self.direction == "denoise" else (self.baseline, self.target)
        return frame.assign(
            clean=float(torch.as_tensor(clean).mean()),
            corrupt=float(torch.as_tensor(corrupt).mean()),
            n=self.values.shape[-1],
            metric=self.metric_names[0],
            direction=self.direction,
        )

    def figure(self) -> Any:
        """Return the heat map of the effects (a plotly figure)."""
        return draw("patch", self.to_frame())


@torch.no_grad()
def patch(
    model: HookedStreamTransformer,
    pair: Pair,
    sites: Sequence[Site],
    metric: str | Metric = "logit_difference",
    direction: Direction = "denoise",
    max_memory: int | None = None,
    progress: bool = False,
) -> PatchResult:
    """Return the effect of patching each site by itself, one result for all of them.

    ``max_memory`` bounds the bytes of activations of one forward pass (default: a quarter of what is free).

    Raises:
        ValueError: for a model in training mode, a site that the model or the pair does not have, a metric that does
            not return one finite number an example, a pair whose clean and corrupt metric are equal, or a bound smaller
            than one copy of the pair.

    Source: Meng et al., arXiv 2202.05262; Zhang & Nanda, arXiv 2309.16042 (directions and normalisation).
    """
    require_eval_mode(model, "patching")
    known("direction", direction, DIRECTIONS)
    wanted = check_sites(model, sites)
    if not wanted:
        raise ValueError("there is no site to patch; analysis.find_sites(model, ...) makes a list of them")
    name, function = metric_named(metric)
    _check_positions(wanted, pair)
    source, base = (pair.clean, pair.corrupt) if direction == "denoise" else (pair.corrupt, pair.clean)
    baseline = evaluate(function, name, model(base), pair)
    target = evaluate(function, name, model(source), pair)
    if float((target - baseline).mean().abs()) <= 1e-6 * float(target.abs().mean() + baseline.abs().mean()):
        raise ValueError(
            f"clean and corrupt {name} are equal on average ({float(target.mean()):.4g}), so no effect can be measured "
            f"against their difference; choose a pair that the metric tells apart"
        )
    patcher = _Patcher(model, pair, source, base)
    copies = _copies(model, pair, max_memory)
    rows: dict[int, Tensor] = {}
    with tqdm(total=len(wanted), unit=" sites", disable=not progress, leave=False, delay=2) as bar:
        for chunk in _chunks(wanted, copies):
            logits = patcher.run([wanted[i] for i in chunk])
            for i, part in zip(chunk, logits.split(len(pair)), strict=True):
                rows[i] = evaluate(function, name, part, pair)
            bar.update(len(chunk))
    return PatchResult(
        values=torch.stack([rows[i] for i in range(len(wanted))]),
        axis_names=[],
        index_df=_frame_of(wanted),
        metric_names=[name],
        reduced=False,
        baseline=baseline,
        sites=wanted,
        target=target,
        direction=direction,
    )


def _check_positions(wanted: Sequence[Site], pair: Pair) -> None:
    for site in wanted:
        if isinstance(site.position, str):
            known("position role", site.position, pair.positions)
        elif site.position is not None and not -pair.n_pos <= site.position < pair.n_pos:
            raise ValueError(f"{site}: the pair has {pair.n_pos} positions")


def _frame_of(wanted: Sequence[Site]) -> pd.DataFrame:
    rows = [
        {
            "layer": site.layer,
            "component": site.component,
            "route": site.route if site.component in "qkv" else "-",
            "head": "all" if site.head is None else str(site.head),
            "position": "all" if site.position is None else str(site.position),
        }
        for site in wanted
    ]
    return pd.DataFrame(rows)


def _chunks(wanted: Sequence[Site], copies: int) -> Iterator[list[int]]:
    """Indices of sites that go into one forward: states of one layer, or anything else, in order of layers."""
    by_kind: dict[Any, list[int]] = {}
    for i, site in enumerate(wanted):
        by_kind.setdefault(site.layer if site.component == "state" else "hooks", []).append(i)
    for indices in by_kind.values():
        yield from (indices[start : start + copies] for start in range(0, len(indices), copies))


def _copies(model: HookedStreamTransformer, pair: Pair, max_memory: int | None) -> int:
    _, cache = model.run_with_cache(pair.clean[:1])
    one = len(pair) * sum(tensor.numel() * tensor.element_size() for tensor in cache.values())
    bound = free_memory(pair.clean.device) // 4 if max_memory is None else max_memory
    if bound < one:
        raise ValueError(
            f"max_memory = {bound:,} bytes is less than one copy of the pair needs, about {one:,}; allow more, or "
            f"patch fewer examples at a time (pair[:n])"
        )
    return max(1, min(bound // one, MOST_EXAMPLES // len(pair)))


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


class _Patcher:
    """Runs the base inputs once for every site of a list, each copy with its site taken from the source run."""

    def __init__(self, model: HookedStreamTransformer, pair: Pair, source: Tensor, base: Tensor):
        self.model, self.pair, self.source, self.base = model, pair, source, base
        self.cached: dict[str, Tensor] = {}

    def run(self, chunk: Sequence[Site]) -> Float[Tensor, "copies_batch pos d_vocab_out"]:
        if chunk[0].component == "state":
            return self._run_states(chunk)
        rows: dict[str, list[tuple[int, Site]]] = {}
        for copy, site in enumerate(chunk):
            rows.setdefault(site.hook_name, []).append((copy, site))
        self._cache([name for name in rows if name not in self.cached])
        inputs = _tiled(self.base, len(chunk))
        return self.model.run_with_hooks(inputs, fwd_hooks=[(name, self._setter(at)) for name, at in rows.items()])

    def _cache(self, names: list[str]) -> None:
        if names:
            _, cache = self.model.run_with_cache(self.source, names_filter=names, return_cache_object=False)
            self.cached |= cache

    def _setter(self, rows: list[tuple[int, Site]]) -> Any:
        def set_rows(activation: Tensor, hook: Any) -> Tensor:
            patched = activation.clone()
            for copy, site in rows:
                part = patched[copy * len(self.pair) : (copy + 1) * len(self.pair)]
                self._set(part, self.cached[hook.name], site)
            return patched

        return set_rows

    def _run_states(self, chunk: Sequence[Site]) -> Tensor:
        layer, n = chunk[0].layer, len(self.pair)
        base, source = self.model.state(self.base, layer), self.model.state(self.source, layer)
        residual = _tiled(base.residual, len(chunk))
        outgoing = {key: _tiled(tensor, len(chunk)) for key, tensor in base.outgoing.items()}
        for copy, site in enumerate(chunk):
            rows = slice(copy * n, (copy + 1) * n)
            for patched, clean in [(residual, source.residual), *((outgoing[k], source.outgoing[k]) for k in outgoing)]:
                self._set(patched[rows], clean, site)
        return self.model.run_state(State(layer, residual, outgoing))

    def _set(self, into: Tensor, source: Tensor, site: Site) -> None:
        """Write the site's part of ``source`` into ``into``, both one copy of the pair."""
        into, source = _position_first(into, site), _position_first(source, site)
        heads = slice(None) if site.head is None else site.head
        if site.position is None:
            into[:, :, heads] = source[:, :, heads]
            return
        batch = torch.arange(len(self.pair), device=into.device)[:, None]
        places = self._places(site.position).to(into.device)
        into[batch, places, heads] = source[batch, places, heads]

    def _places(self, position: int | str) -> Int[Tensor, "batch place"]:
        if isinstance(position, str):
            return self.pair.positions[position]
        return torch.full((len(self.pair), 1), position)


def _position_first(tensor: Tensor, site: Site) -> Tensor:
    """The tensor as (batch pos head ...) or (batch pos d_model), whichever component it is; a view."""
    return tensor.transpose(1, 2) if site.component in PATTERN else tensor


def _tiled(tensor: Tensor, copies: int) -> Tensor:
    return repeat(tensor, "batch ... -> (copies batch) ...", copies=copies)
