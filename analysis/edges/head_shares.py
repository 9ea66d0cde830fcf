"""What a head's queries, keys or values do: by its own layer's attention, by the stream, and by both at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.compared_runs import Direction, TwoRuns, two_runs
from analysis.edges.graph import Place, carried_projections
from analysis.edges.recorded_activations import Activations, record
from analysis.edges.steered_forward import Control, run, tiled
from analysis.memory import beside_logits, bytes_of, copies_within, logits_of_one, run_of_one
from analysis.metrics import Metric
from analysis.pairs import Pair
from analysis.patching.patch import PatchResult, result_of
from analysis.result import Table, ends, largest_by, told
from analysis.resuming import KeptIn, kept_rows, measured
from circuits.common.errors import require, several
from circuits.common.showing import ROWS
from circuits.config.streams import Carrier
from circuits.model import HookedStreamTransformer, State
from circuits.streams.transforms import HeadTensor

SHARES: dict[str, str] = {
    "total": "the projection patched: its layer's attention and the stream both see the other run's",
    "own": "its layer's attention alone sees the other run's",
    "stream": "the stream alone carries the other run's",
    "interaction": "total - own - stream: what the two do together and neither does alone",
}


class HeadShares(Table):
    """The effect of every head's projection, split by route: own + stream + interaction = total."""

    where = ("layer", "head", "carrier")

    def finding(self) -> str:
        """Return the projection with the largest effect in all, and what the stream's share of it is."""
        first = largest_by(self.frame[self.frame["share"] == "total"], "effect", 1).iloc[0]
        same = (self.frame[list(self.where)] == first[list(self.where)]).all(axis=1)
        by = self.frame[same].set_index("share").effect
        return (
            f"{len(self) // len(SHARES)} projections, {first.direction}; largest: {told(first, self.where)}, "
            f"{first.effect:.2f}{ends(first)}: by its own layer {by['own']:.2f}, by the stream {by['stream']:.2f} "
            f"(shares of the clean-corrupt difference of {first.metric}, n = {first.n})"
        )

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` largest shares, totals first among equals."""
        return largest_by(self.frame, "effect", n)[[*self.where, "share", "effect", "low", "high", "p"]]

    def figure(self) -> Any:
        """Return the shares as bars (a plotly figure)."""
        from figures.models.paths import share_bars

        return share_bars(self.frame)


@torch.no_grad()
def head_shares(
    model: HookedStreamTransformer,
    pair: Pair,
    carriers: Iterable[Carrier] | None = None,
    metric: str | Metric = "logit_difference",
    direction: Direction = "denoise",
    max_memory: int | None = None,
    progress: bool = False,
    kept: KeptIn | None = None,
) -> HeadShares:
    """Return the effect of every head's projection and its split by route: own + stream + interaction = total, exactly.

    One row a layer, head, carrier and share; effects, intervals and p as in :func:`analysis.patch`, all positions
    patched together. ``carriers`` defaults to those that the stream carries, and to values on a model without one.

    Raises:
        ValueError: for a model in training mode or with hooks attached, a carrier that no layer projects, a metric that
            does not return one finite number an example, a pair whose clean and corrupt metric are equal, or a bound on
            memory (``max_memory``, as in :func:`analysis.patch`) that is less than one copy of the pair needs.
    """
    size = len(pair) * logits_of_one(model, pair.n_pos)

    def needed(metric: Metric) -> int:
        both = bytes_of(record(model, model.embedded(pair.clean[:1])).at.values())
        return len(pair) * (3 * both + run_of_one(model, pair.n_pos)) + beside_logits(metric, size)

    runs = two_runs(model, pair, metric, direction, "splitting effects", max_memory=max_memory, needed=needed)
    where = _projections(model, carriers)
    before, after = (record(model, model.embedded(x)) for x in (runs.base, runs.source))
    both = bytes_of(before.at.values())
    held = 2 * both + beside_logits(runs.function, size)
    one = both + len(pair) * run_of_one(model, pair.n_pos)
    device = pair.clean.device
    chunks = _chunks(where, copies_within(max_memory, one, len(pair), device, held))
    asked = [(place, head, share) for place, head in where for share in ("total", "own", "stream")]

    def measure(chunk: list[int]) -> list[Tensor]:
        logits = _logits(model, before, after, [asked[i] for i in chunk])
        return [runs.measure(part) for part in logits.split(len(pair))]

    names = [f"L{layer}H{head}.{carrier} {share}" for (layer, carrier), head, share in asked]
    there = kept_rows(kept, "splitting effects", model, pair, (runs.metric, runs.function), direction=direction)
    return _frame(where, torch.stack(measured(names, chunks, measure, there, "shares", progress, device)), runs)


def _chunks(where: Sequence[tuple[Place, int]], copies: int) -> Iterator[list[int]]:
    """Numbers of shares that go into one forward: three a projection, those of one layer."""
    for layer in sorted({layer for (layer, _), _ in where}):
        here = [3 * i + share for i, (place, _) in enumerate(where) if place[0] == layer for share in range(3)]
        yield from (here[start : start + copies] for start in range(0, len(here), copies))


def _projections(model: HookedStreamTransformer, carriers: Iterable[Carrier] | None) -> list[tuple[Place, int]]:
    carried = sorted({carrier for _, carrier in carried_projections(model)}) or ["v"]
    wanted = carried if carriers is None else several("carriers", carriers, str)
    found: list[tuple[Place, int]] = [
        ((layer, carrier), head)
        for layer, block in enumerate(model.layers)
        for carrier in block.attn.own
        if carrier in wanted
        for head in range(model.config.heads_of(carrier))
    ]
    missing = set(wanted) - {carrier for (_, carrier), _ in found}
    require(not missing, f"no layer of this model projects {sorted(missing)}; carriers are q, k and v")
    return found


class _Split(Control):
    """Exchanges a head's projection for one side or both, in single copies of a batch."""

    def __init__(self, layer: int, asked: list[tuple[Place, int, str]], before: Activations, after: Activations):
        self.layer, self.asked, self.before, self.after = layer, asked, before, after

    def own(self, layer: int, carrier: Carrier, projected: HeadTensor) -> HeadTensor:
        if layer != self.layer:
            return projected
        changed = self._mask(carrier, ("total", "stream"), projected)
        return self._chosen(changed, self.after.own(layer)[carrier], projected)

    def use(self, layer: int, carrier: Carrier, mixed: HeadTensor) -> HeadTensor:
        if layer != self.layer:
            return mixed
        before = self.before.used(layer, carrier)
        # The stream's copies see the layer's own use as it was; the own copies alone see it as in the other run.
        mixed = self._chosen(self._mask(carrier, ("stream",), mixed), before, mixed)
        changed = self._mask(carrier, ("own",), mixed)
        return self._chosen(changed, before + self._own_change(carrier), mixed) if bool(changed.any()) else mixed

    def _own_change(self, carrier: Carrier) -> HeadTensor:
        change = self.after.own(self.layer)[carrier] - self.before.own(self.layer)[carrier]
        gains = self.before.gains.get((self.layer, carrier))
        return change if gains is None else gains[0] * change

    def _mask(self, carrier: Carrier, shares: tuple[str, ...], like: HeadTensor) -> Bool[Tensor, "copy head"]:
        mask = torch.zeros(len(self.asked), like.shape[2], dtype=torch.bool, device=like.device)
        for copy, (place, head, share) in enumerate(self.asked):
            # Another carrier may have more heads than this one.
            if place[1] == carrier and share in shares:
                mask[copy, head] = True
        return mask

    def _chosen(
        self,
        mask: Bool[Tensor, "copy head"],
        new: Float[Tensor, "*copies pos head d_head"],
        old: Float[Tensor, "copies_batch pos head d_head"],
    ) -> HeadTensor:
        split = old.unflatten(0, (len(self.asked), -1))
        return torch.where(mask[:, None, None, :, None], new, split).flatten(0, 1)


def _logits(
    model: HookedStreamTransformer,
    before: Activations,
    after: Activations,
    asked: list[tuple[Place, int, str]],
) -> Float[Tensor, "copies_batch pos d_vocab_out"]:
    (layer, _), _, _ = asked[0]
    passed = {key: tiled(tensor, len(asked)) for key, tensor in before.passed(layer).items()}
    state = State(layer, tiled(before.residual(layer), len(asked)), passed)
    return run(model, state, _Split(layer, asked, before, after))


def _frame(where: list[tuple[Place, int]], measured: Tensor, runs: TwoRuns) -> HeadShares:
    total, own, stream = (measured[i::3] for i in range(3))
    # As metrics that would have been measured, so that one result does the statistics of all four.
    interaction = runs.baseline + (total - own - stream + runs.baseline)
    values = torch.stack([total, own, stream, interaction], 1).flatten(0, 1)
    index: list[dict[str, Any]] = [
        {"layer": layer, "head": str(head), "carrier": carrier, "share": share}
        for (layer, carrier), head in where
        for share in SHARES
    ]
    return HeadShares(result_of(PatchResult, runs, values, pd.DataFrame(index)).to_frame())
