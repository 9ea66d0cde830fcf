"""The causal graph of a model: who writes, who reads, and every edge between them, by route.

Writers add to the residual stream: the input, every head, every MLP. Readers take it: every head's own projections,
every MLP, the logits. A head without a projection of its own reads it in the projection's place where it says how much
comes in. A projection that the stream carries is a node with edges of its own: to its head (own) and to
the heads of other layers (stream). A projection that nothing but its head uses needs none: it is its head's port. A
table of value embeddings is a node with edges to every head that reads it. Where heads share keys and values,
projections are those of the shared ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.common.errors import known, require, several
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, Carrier, Source
from circuits.model import HookedStreamTransformer

Kind = Literal["input", "head", "mlp", "projection", "table", "logits"]
EdgeRoute = Literal["residual", "own", "stream"]
"""Residual: from what is written to what is projected of it. Own: from a projection that the stream carries to its own
head. Stream: from a projection to a head of another layer (or carrier)."""
Place = tuple[int, Carrier]
"""A layer and a carrier: where the heads' projections are made, or where they are used."""
Origin = tuple[int, Source]
"""Where what a stream carries is from: a place, or (table, "token")."""


@dataclass(frozen=True)
class Node:
    """A writer, a projection of a head (its name says which: ``L1H2.v``), a table (``VE2``), or the logits."""

    kind: Kind
    layer: int | None = None
    """Of a table: its number."""
    head: int | None = None
    carrier: Carrier | None = None

    @property
    def name(self) -> str:
        """What tables and figures call it: input, L0H1, MLP0, L1H2.v, VE2, logits."""
        if self.kind in ("mlp", "table"):
            return f"{'MLP' if self.kind == 'mlp' else 'VE'}{self.layer}"
        head = f"L{self.layer}H{self.head}"
        return {"head": head, "projection": f"{head}.{self.carrier}"}.get(self.kind, self.kind)

    @property
    def where(self) -> tuple[int, int]:
        """The layer and head of a head or a projection."""
        assert self.layer is not None, f"{self.name} has no layer"
        assert self.head is not None, f"{self.name} has no head"
        return self.layer, self.head

    @property
    def place(self) -> Place:
        """The layer and carrier of a projection."""
        assert self.carrier is not None, f"{self.name} is no projection"
        return self.where[0], self.carrier


@dataclass(frozen=True)
class Edge:
    """From a writer to a reader, or from a projection to a head that uses it (``target`` says as which carrier)."""

    source: Node
    target: Node
    route: EdgeRoute = "residual"

    @property
    def name(self) -> str:
        """What tables and figures call it, as in ``L0H1 > L1H2.v (residual)``."""
        return f"{self.source.name} > {self.target.name} ({self.route})"


class Graph:
    """All nodes and edges of a model. Edges have numbers, which vectors over edges and masks go by."""

    def __init__(self, model: HookedStreamTransformer):
        config = model.config
        tied = [s.carrier for s in config.streams if s.weights != "own" and s.reads != "token"]
        require(
            not tied,
            f"the stream into {tied} carries what no head computes (its weights are not the layer's own), so it is no "
            f"edge between heads: patch or ablate the sites 'residual' and 'outgoing' instead",
        )
        self.n_layers, self.n_heads, self.mlp = config.n_layers, config.n_heads, config.mlp is not None
        self.config = config
        self.writers = writers_of(config)
        self.carried, self.gained = carried(model), gained(model)
        self.readers = self._readers(model)
        self.edges: list[Edge] = []
        self.residual_ids = self._residual_edges()
        self.stream_ids = self._stream_edges()

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def mixes_heads(self) -> bool:
        """Whether the stream takes anything from one head to another."""
        return any(stream.transform.mixes_heads for stream in self.config.streams)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of every edge by its name."""
        return {edge.name: i for i, edge in enumerate(self.edges)}

    def find(self, edges: Iterable[str | Edge]) -> list[int]:
        """Return the numbers of edges, each given by itself or by its name.

        Raises:
            UnknownNameError: for an edge that the model does not have (nearest suggested).
            ValueError: for one edge instead of several.
        """
        names = [e.name if isinstance(e, Edge) else e for e in several("edges", edges, str, Edge, least=0)]
        return [self.numbers[known("edge", name, self.numbers)] for name in names]

    def heads_at(self, node: Node) -> set[tuple[int, int]]:
        """Return the (layer, head) of a head's node; of a projection, of the heads of queries that use it."""
        if node.layer is None or node.head is None:
            return set()
        carrier = node.carrier or "q"
        using = (head for head in range(self.n_heads) if self.config.head_used(carrier, head) == node.head)
        return {(node.layer, head) for head in using}

    def rows(self, layer: int, carrier: Carrier) -> slice | None:
        """Return where the heads' projections of a layer, or what reads for their gains alone, stand among the readers;
        ``None`` where there is none."""
        first = Node("projection", layer, 0, carrier)
        if first not in self.reader_number:
            return None
        start = self.reader_number[first]
        return slice(start, start + self.config.heads_of(carrier))

    @cached_property
    def reader_number(self) -> dict[Node, int]:
        """Where every reader stands."""
        return {node: i for i, node in enumerate(self.readers)}

    @cached_property
    def writer_number(self) -> dict[Node, int]:
        """Where every writer stands."""
        return {node: i for i, node in enumerate(self.writers)}

    def _readers(self, model: HookedStreamTransformer) -> list[Node]:
        found: list[Node] = []
        for layer, block in enumerate(model.layers):
            for carrier in CARRIERS:
                # The gain of a projection's place is read off the same input as the projection.
                reads = carrier in block.attn.own or (layer, carrier) in self.gained
                heads = range(self.config.heads_of(carrier) if reads else 0)
                found += [Node("projection", layer, head, carrier) for head in heads]
            found += [Node("mlp", layer)] if self.mlp else []
        return [*found, Node("logits")]

    def _before(self, writer: Node, reader: Node) -> bool:
        if writer.layer is None or reader.layer is None:
            return True
        if reader.kind == "mlp" and writer.kind == "head":
            return writer.layer <= reader.layer
        return writer.layer < reader.layer

    def _residual_edges(self) -> Int[Tensor, "reader writer"]:
        ids = torch.full((len(self.readers), len(self.writers)), -1)
        for (r, reader), (w, writer) in product(enumerate(self.readers), enumerate(self.writers)):
            if self._before(writer, reader):
                ids[r, w] = self._add(Edge(writer, reader))
        return ids

    def _stream_edges(self) -> dict[tuple[Origin, Place], Int[Tensor, "source_head head"]]:
        """By where a tensor is from and where it is used; a table is one source for all heads."""
        found: dict[tuple[Origin, Place], Tensor] = {}
        for source, uses in self.carried.items():
            number, carrier = source
            for use in uses:
                heads = range(self.config.heads_of(use[1]))
                writers = [Node("table", number)]
                if carrier != "token":
                    writers = [Node("projection", number, head, carrier) for head in heads]
                ids = torch.full((len(writers), len(heads)), -1)
                for (h, writer), to in product(enumerate(writers), heads):
                    if h == to or carrier == "token" or (self.mixes_heads and use != source):
                        route: EdgeRoute = "own" if use == source else "stream"
                        ids[h, to] = self._add(Edge(writer, Node("projection", use[0], to, use[1]), route))
                found[source, use] = ids
        return found

    def coefficients(self, model: HookedStreamTransformer) -> Float[Tensor, "reader writer"] | None:
        """Return :func:`coefficients` of all readers and writers; ``None``: all are 1."""
        if self.config.residual_scalars is None and self.config.backout is None:
            return None
        return coefficients(model, self.readers, self.writers)

    def _add(self, edge: Edge) -> int:
        self.edges.append(edge)
        return len(self.edges) - 1


def writers_of(config: ModelConfig) -> list[Node]:
    """Return what writes to the residual stream, in order: the input, every layer's heads, its MLP."""
    found = [Node("input")]
    for layer in range(config.n_layers):
        found += [Node("head", layer, head) for head in range(config.n_heads)]
        found += [Node("mlp", layer)] if config.mlp else []
    return found


def coefficients(
    model: HookedStreamTransformer, readers: Sequence[Node], writers: Sequence[Node]
) -> Float[Tensor, "reader writer"]:
    """Return by what readers, in their order, find multiplied what writers wrote.

    Scalars on the residual stream multiply it before every layer, and add the input again; a backout takes a part of a
    middle layer's end off before the logits.
    """
    start, middle = torch.zeros(len(writers), dtype=model.W_U.dtype), torch.zeros(())
    start[0] = 1.0
    now, rows = start.clone(), []
    for layer, block in enumerate(model.layers):
        if block.scalars is not None:
            now = block.scalars.own.cpu() * now + block.scalars.x0.cpu() * start
        rows += [now.clone() for node in readers if node.kind == "projection" and node.layer == layer]
        now[[i for i, node in enumerate(writers) if node.kind == "head" and node.layer == layer]] = 1.0
        rows += [now.clone() for node in readers if node.kind == "mlp" and node.layer == layer]
        now[[i for i, node in enumerate(writers) if node.kind == "mlp" and node.layer == layer]] = 1.0
        if model.config.backout and layer == model.config.backout.layer:
            middle = now.clone()
    gain = 0.0 if model.backout is None else model.backout.gain.cpu()
    return torch.stack([*rows, now - gain * middle]).to(model.W_U.device)


def carried(model: HookedStreamTransformer) -> dict[Origin, list[Place]]:
    """Return, for every table and projection that the stream carries, the places where it is used, its own (if so)
    first.

    A place is a (layer, carrier). Chains are followed: in a running sum, layer 2 uses what layer 0 projected. Where a
    stream has weights of its own, what they make counts as the layer's projection that is carried.
    """
    found: dict[Origin, list[Place]] = {(n, "token"): _uses(model, (n, "token")) for n in model.config.tables}
    for layer, block in enumerate(model.layers):
        for carrier in block.attn.own:
            uses = _uses(model, (layer, carrier))
            if uses != [(layer, carrier)]:
                found[layer, carrier] = uses
    return found


def carried_projections(model: HookedStreamTransformer) -> dict[Place, list[Place]]:
    """Return :func:`carried` without tables."""
    return {(number, what): uses for (number, what), uses in carried(model).items() if what != "token"}


def gained(model: HookedStreamTransformer) -> dict[Place, list[Place]]:
    """Return, for every place with a gain that depends on the input, the places where what it mixes is used, its own
    first.

    What such a place reads of the residual stream moves these uses, whatever becomes of its own projection.
    """
    places: list[Place] = [
        (layer, carrier)
        for layer, block in enumerate(model.layers)
        for carrier, _ in block.attn.mixes()
        if (stream := model.config.stream_into(carrier)) and stream.gain.depends_on_input
    ]
    return {place: _uses(model, place, raw=False) for place in places}


def _uses(model: HookedStreamTransformer, start: Origin, raw: bool = True) -> list[Place]:
    """Where a tensor is used; with ``raw`` unset, where that is used which a place has mixed."""
    number, carrier = start
    passed: set[Origin] = {start} if carrier == "token" else set()
    used: list[Place] = []
    for layer in range(0 if carrier == "token" else number, model.config.n_layers):
        attn = model.layers[layer].attn
        own = carrier if layer == number and carrier != "token" else None
        passed |= {(layer, c) for c in attn.passes_own if raw and c == own}
        fed = [c for c, mix in attn.mixes() if any((source, mix.reads) in passed for source in mix.sources)]
        here: list[Carrier] = [c for c in CARRIERS if c == own or c in fed]
        places: list[Place] = [(layer, c) for c in here]
        used += sorted(places, key=lambda place: place != start)
        passed |= {(layer, c) for c in attn.passes_mixed if c in here}
    return used
