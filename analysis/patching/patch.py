"""Activation patching over layers, heads, positions, components and routes, many patched copies in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.patching import PatchingResult

from analysis.compared_runs import Direction, TwoRuns, comparable, in_order
from analysis.gap import Gap, measure_gap
from analysis.memory import bound_for, bytes_of
from analysis.metrics import METRICS, Metric, ReadMetric, check_finite, check_logits, evaluate, precise, read
from analysis.pairs import Pair
from analysis.patching.edits import Edit
from analysis.patching.replay import Replay
from analysis.patching.site_search import Patched, check_positions, frame_of, listed_sites, together
from analysis.result import Effects
from analysis.resuming import KeptIn, KeptRows, kept_rows, measured
from analysis.statistics.intervals import share_interval
from circuits.common.errors import whole
from circuits.model import HookedStreamTransformer, State
from circuits.sites import STATES, Site, check_sites
from circuits.streams.mixing import Outgoing

MOST_COPIES, MOST_WORK = 1024, 2**36
"""Copies, or multiplications, between two steps of the progress bar: what an interrupted sweep has to measure again."""


@dataclass(repr=False)
class PatchResult(Effects, PatchingResult):
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
    where = ("layer", "component", "route", "head", "position")
    of = "sites"

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

        NaN too where the difference of the two runs is not told apart from zero by its own t interval, unless all
        examples have the same effect: see :func:`analysis.statistics.intervals.share_interval`.

        Raises:
            ValueError: for a confidence that is none, no resample, or a seed that is no whole number of 0 or more.
        """
        whole("n_resamples", n_resamples)
        moved, gap = (x.double().numpy() for x in (self.effect(), self._gap()))
        return np.stack(share_interval(moved, gap, confidence, n_resamples, seed))

    def to_frame(self) -> pd.DataFrame:
        """Return one row a site: where it is, the mean patched metric, effect, interval, p, and the convention.

        ``p`` is transformer-lens' sign-flip permutation test that the mean change is zero (no correction for the number
        of sites); one example has neither interval nor p, and a difference of the runs that may be none no interval.
        ``accuracy`` is the share of clean inputs that the model
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


Result = TypeVar("Result", bound=PatchResult)


def result_of(
    kind: type[Result], runs: TwoRuns | _Sweep, values: Tensor, where: pd.DataFrame, sites: Sequence[Patched] = ()
) -> Result:
    """Return the result of a metric (site, example) of runs that are each patched as its row of ``where`` says."""
    return kind(
        values=values.cpu(),
        axis_names=[],
        index_df=where,
        metric_names=[runs.metric],
        reduced=False,
        baseline=runs.baseline.cpu(),
        sites=list(sites),
        target=runs.target.cpu(),
        direction=runs.direction,
        beside=runs.beside,
    )


@torch.no_grad()
def patch(
    model: HookedStreamTransformer,
    pair: Pair,
    sites: Sequence[Patched],
    metric: str | Metric = "logit_difference",
    direction: Direction = "denoise",
    max_memory: int | None = None,
    progress: bool = False,
    kept: KeptIn | None = None,
) -> PatchResult:
    """Return the effect of patching each site by itself, one result for all of them.

    A tuple of sites is patched together. ``max_memory`` bounds by how many bytes this makes the process grow at its
    peak (default: a quarter of what is free; see :mod:`analysis.memory`). ``kept`` lets a sweep that was interrupted go
    on where it was (:class:`analysis.KeptIn`).

    Raises:
        ValueError: for a model in training mode or with hooks attached, a site that the model or the pair does not
            have or that is padding, a pair that the model cannot answer or that is read at padding, a metric that does
            not return one finite number an example, a pair whose clean and corrupt metric are equal, or a bound on
            memory that is less than one copy of the pair needs.

    Source: Meng et al., arXiv 2202.05262; Zhang & Nanda, arXiv 2309.16042 (directions and normalisation).
    """
    named = comparable(model, pair, metric, direction, "patching")
    wanted = listed_sites(sites)
    joint = [together(site) for site in wanted]
    if not wanted or not all(joint):
        raise ValueError("there is no site to patch; analysis.find_sites(model, ...) makes a list of them")
    check_positions(model, check_sites(model, [site for one in joint for site in one]), pair)
    there = kept_rows(kept, "patching", model, pair, named, direction=direction)
    sweep = _Sweep(model, pair, joint, named, direction, max_memory)
    return result_of(PatchResult, sweep, sweep.values(there, progress), frame_of(wanted), wanted)


class _Sweep:
    """The source run, kept at the sites; the base run, ready to be run again; and the metric of both.

    ``two_runs`` makes the same runs and forgets all but the metric, so they are made here, where more is kept of them.
    """

    def __init__(
        self,
        model: HookedStreamTransformer,
        pair: Pair,
        joint: Sequence[tuple[Site, ...]],
        metric: tuple[str, Metric],
        direction: Direction,
        max_memory: int | None,
    ):
        self.model, self.pair, self.joint, self.direction = model, pair, joint, direction
        self.metric, self.function = metric
        source, base = in_order(direction, pair.clean, pair.corrupt)
        if max_memory is not None:
            bound_for(max_memory, bytes_to_patch(model, pair, joint, self.function), base.device)
        logits, cache = model.run_with_cache(source, names_filter=_names(model, joint), return_cache_object=False)
        self.cache: dict[str, Tensor] = cache
        self.passed: dict[int, Outgoing] = {}
        self.places: dict[int | str, Bool[Tensor, "batch pos"]] = {}
        self.target = evaluate(self.function, self.metric, logits, pair)
        source_there = read(logits, pair.read_at).clone()
        dtype = logits.dtype
        # All that is read of them is kept, and they may be large.
        del logits
        self.only_there = isinstance(self.function, ReadMetric)
        self.replay = Replay(model, base, _reads(pair, self.function), max_memory, bytes_of(cache.values()))
        base_logits = self.replay.logits[:, 0] if self.only_there else self.replay.logits
        self.baseline = self._measured(base_logits)
        base_there = base_logits if self.only_there else read(base_logits, pair.read_at)
        both = in_order(direction, self.target, self.baseline)
        self.beside = measure_gap(self.metric, *both, in_order(direction, source_there, base_there)[0], pair, dtype)

    def values(self, kept: KeptRows | None, progress: bool) -> Float[Tensor, "site batch"]:
        # One layer after the other, so that copies that are run together are taken up in the same place.
        order = sorted(range(len(self.joint)), key=lambda i: min(site.layer for site in self.joint[i]))
        most = max(1, min(self.replay.at_once, MOST_COPIES, MOST_WORK // self._work_of_one))
        chunks = (order[start : start + most] for start in range(0, len(order), most))
        names = [" + ".join(map(repr, sites)) for sites in self.joint]
        device = self.baseline.device
        return torch.stack(measured(names, chunks, self._patched, kept, "sites", progress, device))

    @property
    def _work_of_one(self) -> int:
        """The multiplications of the blocks for a copy, at most."""
        weights = sum(weight.numel() for block in self.model.layers for weight in block.parameters())
        return max(1, len(self.pair) * self.pair.n_pos * weights)

    def _patched(self, chunk: Sequence[int]) -> Float[Tensor, "copy batch"]:
        logits = self.replay.run([[self._edit(site) for site in self.joint[i]] for i in chunk])
        return self._all_measured(logits.unflatten(0, (len(chunk), len(self.pair))))

    def _measured(self, logits: Float[Tensor, "batch *pos d_vocab_out"]) -> Float[Tensor, " batch"]:
        return evaluate(self._of, self.metric, logits, self.pair)

    def _of(self, logits: Float[Tensor, "batch *pos d_vocab_out"], pair: Pair) -> Tensor:
        if isinstance(self.function, ReadMetric):
            return self.function.of(precise(logits), pair)
        return self.function(logits, pair)

    def _all_measured(self, logits: Float[Tensor, "copy batch *pos d_vocab_out"]) -> Float[Tensor, "copy batch"]:
        if self.function not in METRICS.values():
            return torch.stack([self._measured(part) for part in logits])
        check_logits(logits)
        # Ours look at every example by itself, without control flow, and can be mapped over the copies.
        values = torch.vmap(lambda part: self._of(part, self.pair))(logits)
        return check_finite(self.metric, values)

    def _edit(self, site: Site) -> Edit:
        if site.position is not None and site.position not in self.places:
            self.places[site.position] = self.pair.where(site.position)
        where = None if site.position is None else self.places[site.position]
        if site.component in STATES:
            return Edit(site.layer, site.component, self._state(site), where=where)
        point = site.hook_name.removeprefix(f"blocks.{site.layer}.")
        return Edit(site.layer, point, self.cache[site.hook_name], site.head, where)

    def _state(self, site: Site) -> State | Outgoing:
        layer = site.layer
        if layer not in self.passed:
            keys = self.model.reads_from(layer)
            self.passed[layer] = {key: self.cache[self.model.point_of(key)] for key in keys}
        if site.component == "stream":
            return self.passed[layer]
        return State(layer, self.cache[_resid_pre(layer)], self.passed[layer])


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
    """The hook points that a site's activation is read from."""
    if site.component not in STATES:
        return [site.hook_name]
    passed = [model.point_of(key) for key in model.reads_from(site.layer)]
    return [_resid_pre(site.layer), *passed] if site.component == "state" else passed


def _resid_pre(layer: int) -> str:
    return Site(layer, "resid_pre").hook_name
