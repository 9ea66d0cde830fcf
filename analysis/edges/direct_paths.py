"""Exact direct-path patching: one sender's effect on one receiver alone, through the residual stream or the stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.compared_runs import Direction, two_runs
from analysis.edges.graph import Edge, Graph
from analysis.edges.recorded_activations import record
from analysis.edges.steered_forward import Control, carry, run, tiled
from analysis.memory import beside_logits, bytes_of, copies_within, logits_of_one
from analysis.metrics import Metric
from analysis.pairs import Pair
from analysis.patching.patch import PatchResult, result_of
from analysis.patching.site_search import listed_heads
from analysis.resuming import KeptIn, kept_rows, measured
from circuits.common.errors import known, require, several
from circuits.config.streams import CARRIERS, Carrier
from circuits.layers import Residual
from circuits.model import HookedStreamTransformer, State
from circuits.streams.transforms import ByCarrier, HeadTensor

PATH_ROUTES: dict[str, str] = {
    "residual": "what the sender writes to the residual stream, as the receiver alone reads it; its layer's own head "
    "alone uses that, whatever the stream would carry on",
    "stream": "what the sender projects, as the stream brings it to the receiver alone",
}


SENDERS = ("head", "projection")
"""The kinds of nodes that a path may leave."""


@dataclass(repr=False)
class PathResult(PatchResult):
    """The effects of paths, per example; as :class:`analysis.patching.patch.PatchResult`, a row a path."""

    where = ("sender", "receiver", "route")
    of = "direct paths"

    def figure(self) -> Any:
        """Return the heat maps of senders by receivers (a plotly figure)."""
        from figures.models.paths import path_heat_maps

        return path_heat_maps(self.to_frame())


def find_paths(
    model: HookedStreamTransformer,
    senders: Iterable[tuple[int, int]] | None = None,
    receivers: Iterable[str] | None = None,
    routes: Iterable[str] = ("residual", "stream"),
) -> list[Edge]:
    """Return the paths from heads (layer, head) to receivers by name (``L1H0.q``, ``MLP1``, ``logits``; default: all).

    A residual path leaves the head, a stream path one of its projections.

    Raises:
        UnknownNameError: for a route or receiver that does not exist (nearest suggested).
        ValueError: for a sender that does not exist, or if nothing leads from the senders to the receivers.
    """
    graph = Graph(model)
    routes = [known("route", route, PATH_ROUTES) for route in several("routes", routes, str)]
    names = {node.name for node in graph.readers} | {edge.target.name for edge in graph.edges}
    wanted = (
        names
        if receivers is None
        else {known("receiver", name, sorted(names)) for name in several("receivers", receivers, str)}
    )
    heads = {(node.layer, node.head) for node in graph.writers if node.kind == "head"}
    sending = heads if senders is None else set(listed_heads("senders", senders, model.config))
    found = [
        edge
        for edge in graph.edges
        if edge.route in routes and (edge.source.layer, edge.source.head) in sending and edge.target.name in wanted
        if edge.source.kind in SENDERS
    ]
    require(bool(found), f"no {' or '.join(routes)} path leads from {sorted(sending)} to {sorted(wanted)}")
    return found


@torch.no_grad()
def patch_paths(
    model: HookedStreamTransformer,
    pair: Pair,
    paths: Iterable[Edge] | None = None,
    metric: str | Metric = "logit_difference",
    direction: Direction = "denoise",
    max_memory: int | None = None,
    progress: bool = False,
    kept: KeptIn | None = None,
) -> PathResult:
    """Return the effect of patching each path by itself: the receiver alone sees the sender as in the other run.

    All that the other readers of the sender see stays as it was, and so does what the receiver's layer passes on
    through the stream. Sign, direction, normalisation, ``max_memory`` and ``kept`` as in :func:`analysis.patch`.

    Raises:
        ValueError: for a path that leaves no head, a model in training mode or with hooks attached, a metric that does
            not return one finite number an example, a pair whose clean and corrupt metric are equal, or a bound on
            memory that is less than one copy of the pair needs.

    Source: Wang et al., arXiv 2211.00593 (direct path patching); on a model without streams the numbers are
        transformer-lens' ``get_act_patch_direct_path``.
    """
    how = "analysis.find_paths(model, ...) makes it"
    wanted = find_paths(model) if paths is None else several("paths", paths, Edge, how=how)
    odd = [path.name for path in wanted if path.route not in PATH_ROUTES or path.source.kind not in SENDERS]
    require(not odd, f"{odd[:1]}: a path leaves a head, by the residual stream or by the stream; see find_paths")
    beside, graph = len(pair) * logits_of_one(model, pair.n_pos), Graph(model)

    def needed(metric: Metric) -> int:
        one = _PathRuns(model, graph, pair.clean[:1], pair.corrupt[:1])
        return len(pair) * (one.held + one.one_copy) + beside_logits(metric, beside)

    runs = two_runs(model, pair, metric, direction, "path patching", max_memory=max_memory, needed=needed)
    patched = _PathRuns(model, graph, runs.base, runs.source)
    held = patched.held + beside_logits(runs.function, beside)
    device = pair.clean.device
    copies = copies_within(max_memory, patched.one_copy, len(pair), device, held)

    def measure(chunk: list[int]) -> list[Tensor]:
        return [runs.measure(part) for part in patched.logits([wanted[i] for i in chunk]).split(len(pair))]

    names = [path.name for path in wanted]
    there = kept_rows(kept, "path patching", model, pair, (runs.metric, runs.function), direction=direction)
    values = torch.stack(measured(names, _chunks(wanted, copies), measure, there, "paths", progress, device))
    where = [
        {
            "sender": path.source.name,
            "receiver": path.target.name,
            "route": path.route,
            "sender_layer": path.source.layer,
            "receiver_layer": "-" if path.target.layer is None else str(path.target.layer),
            "into": path.target.carrier or path.target.kind,
        }
        for path in wanted
    ]
    return result_of(PathResult, runs, values, pd.DataFrame(where))


def _chunks(paths: Sequence[Edge], copies: int) -> Iterator[list[int]]:
    """Numbers of paths that go into one forward: those into one layer."""
    by_layer: dict[int | None, list[int]] = {}
    for i, path in enumerate(paths):
        by_layer.setdefault(path.target.layer, []).append(i)
    for numbers in by_layer.values():
        yield from (numbers[start : start + copies] for start in range(0, len(numbers), copies))


class _Receivers(Control):
    """Gives single copies of a batch what their receivers take instead; the rest of the run follows from that."""

    def __init__(self, layer: int | None, copies: int):
        self.layer, self.copies = layer, copies
        self.uses: dict[Carrier, list[tuple[int, int, HeadTensor]]] = {}
        """By carrier: copy, head, and the whole tensor that the head is taken from."""
        self.adds: list[tuple[int, Residual]] = []
        """What is added to what the MLP or the logits take, by copy."""

    def use(self, layer: int, carrier: Carrier, mixed: HeadTensor) -> HeadTensor:
        if layer != self.layer or carrier not in self.uses:
            return mixed
        split = mixed.unflatten(0, (self.copies, -1)).clone()
        for copy, head, value in self.uses[carrier]:
            split[copy, :, :, head] = value[:, :, head]
        return split.flatten(0, 1)

    def read_mlp(self, layer: int, residual: Residual) -> Residual:
        return self._added(residual) if layer == self.layer else residual

    def read_out(self, residual: Residual) -> Residual:
        return self._added(residual) if self.layer is None else residual

    def _added(self, residual: Residual) -> Residual:
        if not self.adds:
            return residual
        split = residual.unflatten(0, (self.copies, -1)).clone()
        for copy, change in self.adds:
            split[copy] += change
        return split.flatten(0, 1)


class _PathRuns:
    """Runs of the base inputs in which single receivers see single senders as in the source run."""

    def __init__(self, model: HookedStreamTransformer, graph: Graph, base: Tensor, source: Tensor):
        self.model, self.graph = model, graph
        self.coefficients = graph.coefficients(model)
        self.base, self.source = (record(model, model.embedded(x)) for x in (base, source))
        self.final = model(base, stop_at_layer=model.config.n_layers)
        self.projected: tuple[Any, ByCarrier] = (None, {})

    @property
    def held(self) -> int:
        """The bytes of what is kept of both runs."""
        return bytes_of([*self.base.at.values(), *self.source.at.values(), self.final])

    @property
    def one_copy(self) -> int:
        """The bytes of all activations and logits of a copy, more than a forward pass ever holds of it."""
        logits = self.final.numel() // self.final.shape[-1] * self.model.config.readout.d_vocab_out
        return bytes_of(self.base.at.values()) + 2 * logits * self.final.element_size()

    def logits(self, paths: Sequence[Edge]) -> Tensor:
        """Return the logits of one copy a path, all of them into one layer."""
        layer = paths[0].target.layer
        receivers = _Receivers(layer, len(paths))
        for copy, path in enumerate(paths):
            carrier, head = path.target.carrier, path.target.head
            if carrier is None or head is None:
                receivers.adds.append((copy, self._write(path)))
            else:
                used = self._through_stream(path) if path.route == "stream" else self._through_residual(path)
                receivers.uses.setdefault(carrier, []).append((copy, head, used))
        if layer is None:
            return self.model.read_out(receivers.read_out(tiled(self.final, len(paths))))
        passed = {key: tiled(tensor, len(paths)) for key, tensor in self.base.passed(layer).items()}
        return run(self.model, State(layer, tiled(self.base.residual(layer), len(paths)), passed), receivers)

    def _write(self, path: Edge) -> Residual:
        """By how much a head writes something else in the source run, as the receiver finds it."""
        layer, head = path.source.where
        name = f"blocks.{layer}.attn.hook_z"
        change = (self.source.at[name] - self.base.at[name])[:, :, head] @ self.model.layers[layer].attn.W_O[head]
        if self.coefficients is None:
            return change
        return change * self.coefficients[self.graph.reader_number[path.target], self.graph.writer_number[path.source]]

    def _through_residual(self, path: Edge) -> HeadTensor:
        """What the receiver's layer would use if it saw the sender as in the source run."""
        layer, carrier = path.target.place
        block = self.model.layers[layer]
        # All carriers and heads of a layer share the work for one sender.
        key = (path.source, layer)
        if self.projected[0] != key:
            normalised = block.ln1(self.base.residual(layer) + self._write(path))
            read: list[Carrier] = [c for c in CARRIERS if self.graph.rows(layer, c) is not None]
            mixed: ByCarrier = {c: self._mixed(layer, c, normalised) for c in read}
            self.projected = (key, mixed)
        return self.projected[1][carrier]

    def _mixed(self, layer: int, carrier: Carrier, normalised: Residual) -> HeadTensor:
        block = self.model.layers[layer]
        before = block.ln1(self.base.residual(layer))
        inputs: dict[Carrier, Tensor] = {c: normalised if c == carrier else before for c in CARRIERS}
        own = self.base.own(layer)
        if carrier in own:
            own[carrier] = block.attn.project_one(normalised, carrier)
        return block.attn.mix_in(own, inputs, self.base.passed(layer))[0][carrier]

    def _through_stream(self, path: Edge) -> HeadTensor:
        start, end = path.source.place, path.target.place
        change = self.source.own(start[0])[start[1]] - self.base.own(start[0])[start[1]]
        only = torch.zeros_like(change)
        only[:, :, path.source.where[1]] = change[:, :, path.source.where[1]]
        arrived = carry(self.model, start, only, self.base.gains, last=end[0])
        return self.base.used(*end) + arrived[end]
