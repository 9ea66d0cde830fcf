"""Attribution of sites: AtP, AtP* and integrated gradients estimate what :func:`analysis.patch` measures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from analysis.attribution.agreement import Agreement, agreement, to_check
from analysis.attribution.site_gradients import Estimator, linearised
from analysis.compared_runs import Direction, two_runs
from analysis.edges.recorded_activations import between, record
from analysis.edges.steered_forward import flowing
from analysis.gap import Gap, WeakPairWarning
from analysis.memory import beside_logits, bytes_of, copies_within, in_batches, logits_of_one
from analysis.metrics import Metric, precise, require_some_gradient
from analysis.pairs import Pair
from analysis.patching.patch import bytes_to_patch, patch
from analysis.patching.site_search import check_positions, frame_of, listed_sites
from analysis.result import Effects
from analysis.resuming import KeptIn
from analysis.statistics.intervals import same
from circuits.common.errors import known, require, whole
from circuits.model import HookedStreamTransformer
from circuits.sites import Site, check_sites

Method = Literal["AtP", "AtP+QK", "AtP*", "IG"]
METHODS: dict[str, str] = {
    "AtP": "change of the activation times the metric's gradient (Nanda 2023; Kramar et al., arXiv 2403.00745)",
    "AtP+QK": "as AtP, with attention patterns recomputed exactly for queries and keys, wherever the stream takes them",
    "AtP*": "as AtP+QK, mean |estimate| over layers that are dropped from the gradient, one at a time; it has no sign",
    "IG": "as AtP, with the gradient's mean over inputs between the two runs, at midpoints",
}


@dataclass(frozen=True, repr=False)
class SiteScores(Effects):
    """A score for every site and example: by how much patching the site alone would change the metric.

    Sign and direction as in :func:`analysis.patch`, except that ``AtP*`` has no sign. A mean of sizes is above 0
    whether or not the site does anything, so its effects have neither interval nor p (NaN).
    """

    sites: list[Site]
    values: Float[Tensor, "site example"]
    gap: Float[Tensor, " example"]
    method: str
    metric: str
    direction: str
    total: float
    """What the same gradient says of the whole input, as a share of the gap: 1 where the estimate is complete."""
    agreement: Agreement
    beside: Gap
    """What stands beside every effect: the metric of both runs, the model's accuracy, n."""
    where = ("layer", "component", "route", "head", "position")
    of = "sites"

    @property
    def effects(self) -> Float[Tensor, " site"]:
        """The mean scores as shares of the mean gap, comparable with a patch's normalised effect; of AtP* with its
        size."""
        return self.values.mean(1) / self._unit

    @property
    def _unit(self) -> float:
        """What an effect of 1 is: the mean gap, of scores without a sign its size."""
        gap = float(self.gap.mean())
        return abs(gap) if self._unsigned else gap

    @property
    def _unsigned(self) -> bool:
        return self.method == "AtP*"

    def to_frame(self) -> pd.DataFrame:
        """Return one row a site: where it is, score, effect with t interval and p over examples, and the convention.

        One example has neither interval nor p, and nor has AtP*.
        """
        scores, unit = self.values.double().cpu().numpy(), self._unit
        ends, p = _tested(scores[:, :0] if self._unsigned else scores)
        low, high = np.sort(ends / unit, axis=0)
        return frame_of(self.sites).assign(
            score=scores.mean(1),
            effect=scores.mean(1) / unit,
            low=low,
            high=high,
            p=p,
            **self.beside.columns(),
            metric=self.metric,
            method=self.method,
            direction=self.direction,
            total=self.total,
            **self.agreement.columns(),
        )

    def figure(self) -> Any:
        """Return the heat map of the estimated effects (a plotly figure)."""
        from figures.models.patching import patch_heat_map

        return patch_heat_map(self.to_frame())


def _tested(
    scores: Float[np.ndarray, "site example"],
) -> tuple[Float[np.ndarray, "2 site"], Float[np.ndarray, " site"]]:
    """The ends of the t interval of every mean, and p that it is zero; NaN for one example.

    Scores that differ by rounding alone have an interval of no width, and nothing to test.
    """
    ends, p = np.full((2, len(scores)), np.nan), np.full(len(scores), np.nan)
    if scores.shape[1] < 2:
        return ends, p
    flat = np.array([same(row) for row in scores])
    ends[:, flat] = scores[flat].mean(1)
    if not flat.all():
        test = scipy.stats.ttest_1samp(scores[~flat], 0.0, axis=1)
        ends[:, ~flat], p[~flat] = np.array(test.confidence_interval()), test.pvalue
    return ends, p


def attribute(
    model: HookedStreamTransformer,
    pair: Pair,
    sites: Sequence[Site],
    metric: str | Metric = "logit_difference",
    method: Method = "AtP",
    direction: Direction = "denoise",
    steps: int = 5,
    check: int = 64,
    max_memory: int | None = None,
    progress: bool = False,
    kept: KeptIn | None = None,
) -> SiteScores:
    """Return the estimated effect of patching each site by itself, from a few forward and backward passes for all.

    ``steps`` is the number of inputs between the two runs, for IG. ``check`` sites are also patched exactly, and the
    result says how well the estimates agree. ``max_memory`` as in :func:`analysis.patch`, and so is ``kept``, of what
    is patched exactly. Gradients follow what flows forward: past a ``stop`` gate too, and not through a
    ``gradient-only`` one; they are taken under ``torch.no_grad()``, too.

    Raises:
        ValueError: for a model in training mode or with hooks attached, a site that the model or the pair does not
            have, inference mode, a metric without a gradient or not one finite number an example, a pair whose clean
            and corrupt metric are equal, AtP* on a model of one layer, or a bound on memory that is less than one
            example needs (with ``check``, one copy of the pair).

    Source: Kramar et al., arXiv 2403.00745 (AtP, the query-key fix and GradDrop); routes through the stream are this
        toolkit's own.
    """
    known("method", method, METHODS)
    wanted = listed_sites(sites)
    require(not any(isinstance(site, tuple) for site in wanted), "sites are scored one by one: give no tuples of them")
    check_sites(model, wanted)
    require(bool(wanted), "there is no site to score; analysis.find_sites(model, ...) makes a list of them")
    steps = whole("steps", steps, least=0)
    require(steps > 0, f"steps = {steps}: IG needs at least one input between the two runs")
    whole("check", check, least=0)
    require(method != "AtP*" or model.config.n_layers > 1, "AtP* drops one layer at a time and needs at least two")
    check_positions(model, wanted, pair)

    def needed(metric: Metric) -> int:
        exact = bytes_to_patch(model, pair, [(site,) for site in wanted], metric) if check else 0
        return max(_bytes_of_one(model, pair, metric) + scores, exact)

    scores = 3 * len(wanted) * len(pair) * 8
    runs = two_runs(model, pair, metric, direction, "attribution", True, max_memory, needed)
    size = copies_within(max_memory, _bytes_of_one(model, pair, runs.function), 1, pair.clean.device, scores)
    found = []
    with (
        torch.enable_grad(),
        flowing(model),
        tqdm(total=len(pair), unit=" pairs", disable=not progress, leave=False, delay=2) as bar,
    ):
        for rows in in_batches(len(pair), size):
            named, both = (runs.metric, runs.function), (runs.source[rows], runs.base[rows])
            found.append(_estimates(model, pair[rows], named, *both, wanted, method, steps))
            bar.update(rows.stop - rows.start)
    scored, totals, some = zip(*found, strict=True)
    require_some_gradient(runs.metric, any(some))
    values, total = (precise(torch.cat(parts, -1)) for parts in (scored, totals))
    gap = runs.gap
    checked = to_check(values.mean(1), check)
    return SiteScores(
        sites=wanted,
        values=values.cpu(),
        gap=gap.cpu(),
        method=f"IG ({steps} steps)" if method == "IG" else method,
        metric=runs.metric,
        direction=direction,
        total=float(total.mean() / gap.mean()),
        agreement=_agreement(
            model, pair, wanted, checked, values, metric, direction, max_memory, method == "AtP*", kept
        ),
        beside=runs.beside,
    )


def _bytes_of_one(model: HookedStreamTransformer, pair: Pair, metric: Metric) -> int:
    """How many bytes it takes to score sites in one example.

    Activations of both runs, their change, the gradient and what it keeps; logits, their gradient and the metric's.
    """
    kept = bytes_of(record(model, model.embedded(pair.clean[:1])).at.values())
    logits = logits_of_one(model, pair.n_pos)
    return 6 * kept + 8 * logits + 2 * beside_logits(metric, logits)


def _agreement(
    model: HookedStreamTransformer,
    pair: Pair,
    sites: list[Site],
    checked: list[int],
    values: Tensor,
    metric: str | Metric,
    direction: Direction,
    max_memory: int | None,
    unsigned: bool,
    kept: KeptIn | None,
) -> Agreement:
    if not checked:
        return agreement(torch.zeros(0), torch.zeros(0))
    with warnings.catch_warnings():
        # What is to be said of the pair has been said.
        warnings.simplefilter("ignore", WeakPairWarning)
        found = patch(model, pair, [sites[i] for i in checked], metric, direction, max_memory, kept=kept)
    assert found.baseline is not None, "patch() always stores a baseline"
    gap = (found.target - found.baseline).mean()
    moved = found.effect()
    # AtP* averages sizes over examples, so that is what it is compared with.
    exact = moved.abs().mean(1) / gap.abs() if unsigned else moved.mean(1) / gap
    estimated = values[checked].mean(1) / (gap.abs() if unsigned else gap)
    return agreement(estimated, exact)


def _estimates(
    model: HookedStreamTransformer,
    pair: Pair,
    metric: tuple[str, Metric],
    source: Tensor,
    base: Tensor,
    sites: list[Site],
    method: Method,
    steps: int,
) -> tuple[Float[Tensor, "site example"], Float[Tensor, " example"], bool]:
    """The scores for one batch of pairs, what the gradient says of the whole input, and whether there is any."""
    with torch.no_grad():
        start, end = (model.embedded(x) for x in (base, source))
    after, before = (record(model, x) for x in (end, start))

    def at(fraction: float = 0.0, fixed: bool = False, drop: int | None = None) -> tuple[Tensor, Tensor, bool]:
        gradients = linearised(model, between(start, end, fraction), pair, metric, drop)
        total = gradients.along(start, end)
        return Estimator(model, pair, after, before, gradients, fixed, drop).scores(sites), total, gradients.some

    if method == "IG":
        every, totals, some = zip(*(at((i + 0.5) / steps) for i in range(steps)), strict=True)
        return torch.stack(every).mean(0), torch.stack(totals).mean(0), any(some)
    scores, total, some = at(fixed=method in ("AtP+QK", "AtP*"))
    if method == "AtP*":
        kept = [at(fixed=True, drop=layer)[0].abs() for layer in range(model.config.n_layers)]
        # Where the layer that a site is in leaves it nothing, one fewer counts; the residual stream has a way past it.
        of_own = torch.stack([kept[site.layer][i] for i, site in enumerate(sites)])
        scores = torch.stack(kept).sum(0) / (len(kept) - (of_own == 0).to(scores))
    return scores, total, some
