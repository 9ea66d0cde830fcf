"""Which edges of a graph are on a way from the input to the logits."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import product

from analysis.edges.graph import Edge, Graph, Node
from circuits.config.streams import CARRIERS

Key = tuple[str, Node]
"""A node, and of a projection whether it is made (``made``) or used (``used``)."""


def connected(graph: Graph, edges: Iterable[int]) -> list[int]:
    """Return those edges that are on some way from the input, or a table, to the logits that uses no other edges."""
    chosen = list(edges)
    ends = {i: _ends(graph.edges[i]) for i in chosen}
    inner = _inner(graph)
    tables = {edge.source for edge in graph.edges if edge.source.kind == "table"}
    starts: list[Key] = [("at", Node("input")), *(("made", table) for table in tables)]
    forward = _reached([*ends.values(), *inner], starts)
    backward = _reached([(b, a) for a, b in (*ends.values(), *inner)], [("at", Node("logits"))])
    return sorted(i for i in chosen if ends[i][0] in forward and ends[i][1] in backward)


def grown(graph: Graph, sizes: Sequence[float], n: int) -> list[int]:
    """Return ``n`` edges: one after another the largest that leads to a node which is in already, the logits first."""
    into: dict[Key, list[int]] = {}
    for i, edge in enumerate(graph.edges):
        into.setdefault(_ends(edge)[1], []).append(i)
    inner: dict[Key, list[Key]] = {}
    for source, target in _inner(graph):
        inner.setdefault(target, []).append(source)
    heap: list[tuple[float, int]] = []
    seen: set[Key] = set()

    def enter(start: Key) -> None:
        waiting = [start]
        while waiting:
            key = waiting.pop()
            if key not in seen:
                seen.add(key)
                waiting += inner.get(key, [])
                for i in into.get(key, []):
                    heapq.heappush(heap, (-sizes[i], i))

    enter(("at", Node("logits")))
    found: list[int] = []
    while heap and len(found) < n:
        _, i = heapq.heappop(heap)
        found.append(i)
        enter(_ends(graph.edges[i])[0])
    return found


def _ends(edge: Edge) -> tuple[Key, Key]:
    if edge.route == "residual":
        return ("at", edge.source), ("made" if edge.target.kind == "projection" else "at", edge.target)
    return ("made", edge.source), ("used", edge.target)


def _inner(graph: Graph) -> list[tuple[Key, Key]]:
    """What needs no edge: from what a head uses to what it writes; from a projection to its one use; and, where a gain
    depends on what is read, from there to what is used of all that it multiplies."""
    found: list[tuple[Key, Key]] = []
    for layer in range(graph.n_layers):
        for head in range(graph.n_heads):
            for carrier in CARRIERS:
                node = Node("projection", layer, graph.config.head_used(carrier, head), carrier)
                found.append((("used", node), ("at", Node("head", layer, head))))
                if (layer, carrier) not in graph.carried:
                    found.append((("made", node), ("used", node)))
    for place, uses in graph.gained.items():
        for head, use in product(range(graph.config.heads_of(place[1])), uses):
            whole = graph.mixes_heads and use != place
            moved = range(graph.config.heads_of(use[1])) if whole else [head]
            read = Node("projection", place[0], head, place[1])
            found += [(("made", read), ("used", Node("projection", use[0], to, use[1]))) for to in moved]
    return found


def _reached(ends: Iterable[tuple[Key, Key]], starts: Sequence[Key]) -> set[Key]:
    after: dict[Key, list[Key]] = {}
    for source, target in ends:
        after.setdefault(source, []).append(target)
    found, waiting = set(starts), list(starts)
    while waiting:
        for key in after.get(waiting.pop(), []):
            if key not in found:
                found.add(key)
                waiting.append(key)
    return found
