"""Activation patching over layers, heads, positions, components and routes, many patched copies in one forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.patching import PatchingResult

from analysis.compared_runs import DIRECTIONS, Direction
from analysis.gap import Gap, measure_gap
from analysis.memory import bound_for, bytes_of
from analysis.metrics import METRICS, Metric, ReadMetric, check_finite, evaluate, metric_named, precise, read
from analysis.pairs import Pair, check_readable, is_padding
from analysis.patching.replay import Edit, Replay
from analysis.patching.site_search import check_sites
from analysis.ready import require_eval_mode, require_no_hooks
from circuits.common.errors import known, require, whole
from circuits.config.streams import CARRIERS
from circuits.model import HookedStreamTransformer, State
from circuits.sites import Site

Patched = Site | tuple[Site, ...]
"""What is patched at once: a site, or several together."""
MOST_COPIES = 1024
"""Between two steps of the progress bar."""


@dataclass
class PatchResult(PatchingResult):
    """transformer-lens' per-example result, with its sites, both baselines and the normalised effect.

    ``values`` is (site, example). ``baseline`` is the metric of the run that was patched, ``target`` that of the run
    that the activations came from. The effect of a site is mean(patched - baseline) / mean(target - baseline): 0 where
    the patch did nothing, 1 where it carried the whole difference.
    """

    sites: list[Patched] = field(default_factory=list)
    target: Tensor = field(default_factory=lambda: torch.zeros(0))
    direction: str = "denoise"
    beside: Gap | None = None
    """What stands beside every effect: the metric of both runs, the model's accuracy, n."""

    @property
    def axes(self) -> dict[str, list[Any]]:
        """What the sites (or paths) differ in, and the values that occur, in the order of the rows."""
        found = {str(name): list(dict.fromkeys(column)) for name, column in self.index_df.items()}
        return {name: values for name, values in found.items() if len(values) > 1}

    def normalised_effect(self) -> Float[Tensor, " site"]:
        """Return the effect of every site."""
        return self.effect().mean(-1) / self._gap().mean()

    def _gap(self) -> Float[Tensor, " example"]:
        assert self.baseline is not None, "patch() always stores a baseline"
        return self.target - self.baseline

    def interval(self, confidence: float = 0.95, n_resamples: int = 1000, seed: int = 0) -> Float[np.ndarray, "2 site"]:
        """Return low and high ends of the effect's percentile bootstrap interval over examples; NaN for one example.

        A difference of the two runs that is 0 in some resample leaves the interval without an end (infinite or NaN).
        """
        require(0 < confidence < 1, f"confidence is a share between 0 and 1, as 0.95, got {confidence}")
        whole("n_resamples", n_resamples)
        if self.values.shape[-1] < 2:
            return np.full((2, len(self.values)), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._bootstrapped(confidence, n_resamples, seed)

    def _bootstrapped(self, confidence: float, n_resamples: int, seed: int) -> Float[np.ndarray, "2 site"]:
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
        of sites); one example has neither interval nor p. ``accuracy`` is the share of clean inputs that the model
        answers rightly.
        """
        low, high = self.interval()
        frame = self.index_df.assign(
            effect=self.normalised_effect().numpy(),
            low=low,
            high=high,
            p=self.permutation_pvalue().numpy() if self.values.shape[-1] > 1 else np.nan,
            patched=self.mean().numpy(),
        )
        assert self.beside is not None, "every question says what its effects are shares of"
        return frame.assign(**self.beside.columns(), metric=self.metric_names[0], direction=self.direction)

    def figure(self) -> Any:
        """Return the heat map of the effects (a plotly figure)."""
        from figures.models.patching import patch_heat_map

        return patch_heat_map(self.to_frame())


@torch.no_grad()
def patch(
    model: HookedStreamTransformer,
    pair: Pair,
    sites: Sequence[Patched],
    metric: str | Metric = "logit_difference",
    direction: Direction = "denoise",
    max_memory: int | None = None,
    progress: bool = False,
) -> PatchResult:
    """Return the effect of patching each site by itself, one result for all of them.

    A tuple of sites is patched together. ``max_memory`` bounds by how many bytes this makes the process grow at its
    peak (default: a quarter of what is free; see :mod:`analysis.memory`).

    Raises:
        ValueError: for a model in training mode or with hooks attached, a site that the model or the pair does not
            have or that is padding, a pair that the model cannot answer or that is read at padding, a metric that does
            not return one finite number an example, a pair whose clean and corrupt metric are equal, or a bound on
            memory that is less than one copy of the pair needs.

    Source: Meng et al., arXiv 2202.05262; Zhang & Nanda, arXiv 2309.16042 (directions and normalisation).
    """
    require_eval_mode(model, "patching")
    require_no_hooks(model, "patching")
    known("direction", direction, DIRECTIONS)
    pair.require_difference()
    wanted = listed_sites(sites)
    joint = [_together(site) for site in wanted]
    if not wanted or not all(joint):
        raise ValueError("there is no site to patch; analysis.find_sites(model, ...) makes a list of them")
    check_readable(model, pair)
    check_positions(model, check_sites(model, [site for one in joint for site in one]), pair)
    sweep = _Sweep(model, pair, joint, metric, direction, max_memory)
    return PatchResult(
        values=sweep.values(progress).cpu(),
        axis_names=[],
        index_df=frame_of(wanted),
        metric_names=[sweep.name],
        reduced=False,
        baseline=sweep.baseline.cpu(),
        sites=wanted,
        target=sweep.target.cpu(),
        direction=direction,
        beside=sweep.beside,
    )


class _Sweep:
    """The source run, kept at the sites; the base run, ready to be run again; and the metric of both."""

    def __init__(
        self,
        model: HookedStreamTransformer,
        pair: Pair,
        joint: Sequence[tuple[Site, ...]],
        metric: str | Metric,
        direction: Direction,
        max_memory: int | None,
    ):
        self.model, self.pair, self.joint = model, pair, joint
        self.name, self.metric = metric_named(metric)
        source, base = (pair.clean, pair.corrupt) if direction == "denoise" else (pair.corrupt, pair.clean)
        if max_memory is not None:
            bound_for(max_memory, bytes_to_patch(model, pair, joint, self.metric), base.device)
        logits, cache = model.run_with_cache(source, names_filter=_names(model, joint), return_cache_object=False)
        self.cache: dict[str, Tensor] = cache
        self.states: dict[int, State] = {}
        self.places: dict[int | str, Bool[Tensor, "batch pos"]] = {}
        self.target, source_there = evaluate(self.metric, self.name, logits, pair), read(logits, pair.read_at).clone()
        dtype = logits.dtype
        # All that is read of them is kept, and they may be large.
        del logits
        self.only_there = isinstance(self.metric, ReadMetric)
        self.replay = Replay(model, base, _reads(pair, self.metric), max_memory, bytes_of(cache.values()))
        base_logits = self.replay.logits[:, 0] if self.only_there else self.replay.logits
        self.baseline = self._measured(base_logits)
        there = base_logits if self.only_there else read(base_logits, pair.read_at)
        if direction == "denoise":
            self.beside = measure_gap(self.name, self.target, self.baseline, source_there, pair, dtype)
        else:
            self.beside = measure_gap(self.name, self.baseline, self.target, there, pair, dtype)

    def values(self, progress: bool) -> Float[Tensor, "site batch"]:
        values = self.baseline.new_empty(len(self.joint), len(self.pair))
        # One layer after the other, so that copies that are run together are taken up in the same place.
        order = sorted(range(len(self.joint)), key=lambda i: min(site.layer for site in self.joint[i]))
        most = min(self.replay.at_once, MOST_COPIES)
        with tqdm(total=len(order), unit=" sites", disable=not progress, leave=False, delay=2) as bar:
            for start in range(0, len(order), most):
                chunk = order[start : start + most]
                logits = self.replay.run([[self._edit(site) for site in self.joint[i]] for i in chunk])
                values[chunk] = self._all_measured(logits.unflatten(0, (len(chunk), len(self.pair))))
                bar.update(len(chunk))
        return values

    def _measured(self, logits: Float[Tensor, "batch *pos d_vocab_out"]) -> Float[Tensor, " batch"]:
        return evaluate(self._of, self.name, logits, self.pair)

    def _of(self, logits: Float[Tensor, "batch *pos d_vocab_out"], pair: Pair) -> Tensor:
        if isinstance(self.metric, ReadMetric):
            return self.metric.of(precise(logits), pair)
        return self.metric(logits, pair)

    def _all_measured(self, logits: Float[Tensor, "copy batch *pos d_vocab_out"]) -> Float[Tensor, "copy batch"]:
        if self.metric not in METRICS.values():
            return torch.stack([self._measured(part) for part in logits])
        # Ours look at every example by itself, without control flow, and can be mapped over the copies.
        values = torch.vmap(lambda part: self._of(part, self.pair))(logits)
        return check_finite(self.name, values)

    def _edit(self, site: Site) -> Edit:
        if site.position is not None and site.position not in self.places:
            self.places[site.position] = self.pair.where(site.position)
        where = None if site.position is None else self.places[site.position]
        if site.component == "state":
            return Edit(site.layer, "state", self._state(site.layer), where=where)
        point = site.hook_name.removeprefix(f"blocks.{site.layer}.")
        return Edit(site.layer, point, self.cache[site.hook_name], site.head, where)

    def _state(self, layer: int) -> State:
        if layer not in self.states:
            residual, *passed = (self.cache[hook] for hook in _hooks(self.model, Site(layer, "state")))
            keys = self.model.reads_from(layer)
            self.states[layer] = State(layer, residual, dict(zip(keys, passed, strict=True)))
        return self.states[layer]


@torch.no_grad()
def bytes_to_patch(
    model: HookedStreamTransformer, pair: Pair, joint: Sequence[tuple[Site, ...]], metric: Metric
) -> int:
    """Return how many bytes patching takes that goes through one copy of the pair at a time."""
    names, reads = _names(model, joint), _reads(pair, metric)
    # Of one example, whose activations are as large as any other's.
    _, cache = model.run_with_cache(pair.clean[:1], names_filter=names, return_cache_object=False)
    one = Replay(model, pair.corrupt[:1], None if reads is None else reads[:1])
    return len(pair) * (bytes_of(cache.values()) + one.needed)


def _reads(pair: Pair, metric: Metric) -> Tensor | None:
    return pair.reads if isinstance(metric, ReadMetric) else None


def _names(model: HookedStreamTransformer, joint: Sequence[tuple[Site, ...]]) -> list[str]:
    return sorted({hook for one in joint for site in one for hook in _hooks(model, site)})


def _hooks(model: HookedStreamTransformer, site: Site) -> list[str]:
    """The hook points that a site's activation is read from; of a state, the residual stream's comes first."""
    if site.component != "state":
        return [site.hook_name]
    streams = [f"blocks.{layer}.attn.hook_{carrier}_stream" for layer, carrier in model.reads_from(site.layer)]
    return [f"blocks.{site.layer}.hook_resid_pre", *streams]


def listed_sites(sites: Any) -> list[Any]:
    """Return sites, and tuples of them, as a list.

    Raises:
        ValueError: for what is no list of these.
    """
    told = "sites are a list of Site, or of tuples of them to patch together; analysis.find_sites(model, ...) makes one"
    if isinstance(sites, (Site, str)) or not isinstance(sites, Iterable):
        raise ValueError(f"{told}; got {sites!r}")
    wanted: list[Any] = list(sites)
    parts = [part for site in wanted for part in (site if isinstance(site, tuple) else (site,))]
    odd = [part for part in parts if not isinstance(part, Site)]
    require(not odd, f"{told}; it holds {odd[:1]}")
    return wanted


def _together(site: Patched) -> tuple[Site, ...]:
    return site if isinstance(site, tuple) else (site,)


def check_positions(model: HookedStreamTransformer, wanted: Sequence[Site], pair: Pair) -> None:
    """Refuse sites at positions that a pair does not have, or that are padding in some example.

    Raises:
        UnknownNameError: for a role that the pair does not name (nearest suggested).
        ValueError: for an index beyond its inputs, or at padding.
    """
    padding = is_padding(model, pair)
    for site in wanted:
        if isinstance(site.position, str):
            known("position role", site.position, pair.positions)
        elif site.position is not None and not -pair.n_pos <= site.position < pair.n_pos:
            raise ValueError(f"{site}: the pair has {pair.n_pos} positions")
    for position in dict.fromkeys(site.position for site in wanted if site.position is not None):
        there = (pair.where(position) & padding).any(1)
        if bool(there.any()):
            raise ValueError(
                f"position {position!r} is padding in {int(there.sum())} of {len(pair)} examples; name a role of the "
                f"pair, which has a place of its own in each (it has {list(pair.positions) or 'none'})"
            )


def frame_of(wanted: Sequence[Patched]) -> pd.DataFrame:
    """Return where every site is: layer, component, route, head, position.

    Of sites that are patched together, what they share stands once, and the rest is joined by " + "; ``layer`` is the
    first of their layers.
    """
    return pd.DataFrame([_row(_together(site)) for site in wanted])


def _row(together: Sequence[Site]) -> dict[str, int | str]:
    one_layer = len({site.layer for site in together}) == 1
    parts = {
        "component": [site.component if one_layer else f"L{site.layer} {site.component}" for site in together],
        "route": [site.route if site.component in CARRIERS else "-" for site in together],
        "head": ["all" if site.head is None else str(site.head) for site in together],
        "position": ["all" if site.position is None else str(site.position) for site in together],
    }
    joined = {name: words[0] if len(set(words)) == 1 else " + ".join(words) for name, words in parts.items()}
    return {"layer": min(site.layer for site in together), **joined}
