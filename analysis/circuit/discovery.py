"""From scores of edges to a circuit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from analysis.attribution.of_edges import EdgeScores
from analysis.edges.connectivity import connected, grown
from analysis.edges.cut_runs import numbered
from analysis.edges.graph import Edge, Graph
from circuits.common.errors import known, real, require, whole
from circuits.common.showing import Shown

Rule = Literal["top", "greedy", "threshold"]
RULES: dict[str, str] = {
    "top": "the edges with the largest |score|",
    "greedy": "grown from the logits: ever the edge with the largest |score| that leads to what is already in",
    "threshold": "every edge whose |effect| is at least the threshold",
}


class EmptyCircuitError(ValueError):
    """None of the chosen edges is on a way from the input to the logits."""


@dataclass(frozen=True, repr=False)
class Circuit(Shown):
    """A set of edges of a graph, by number, and how it was found."""

    graph: Graph
    edges: tuple[int, ...]
    found: str = "given"

    def __post_init__(self) -> None:
        numbers = tuple(whole("an edge of a circuit", edge, least=0) for edge in self.edges)
        beyond = [edge for edge in numbers if edge >= len(self.graph)]
        require(not beyond, f"edges {beyond[:3]}: the graph has {len(self.graph)}, numbered from 0")
        require(len(set(numbers)) == len(numbers), "a circuit has every edge once, and some are given twice")
        object.__setattr__(self, "edges", numbers)

    def __len__(self) -> int:
        return len(self.edges)

    @classmethod
    def of(cls, graph: Graph, edges: Iterable[str | Edge]) -> Circuit:
        """Return the circuit of edges, each given by itself or by its name.

        Raises:
            UnknownNameError: for an edge that the graph does not have (nearest suggested).
            ValueError: for one edge instead of several.
        """
        return cls(graph, tuple(sorted(set(graph.find(edges)))))

    @property
    def names(self) -> list[str]:
        """The names of its edges."""
        return [self.graph.edges[i].name for i in self.edges]

    @property
    def mask(self) -> Bool[Tensor, " edge"]:
        """Which edges of the graph are in."""
        return numbered(self.edges, len(self.graph))

    @property
    def heads(self) -> set[tuple[int, int]]:
        """The (layer, head) of every head that an edge touches."""
        nodes = [node for i in self.edges for node in (self.graph.edges[i].source, self.graph.edges[i].target)]
        return {head for node in nodes for head in self.graph.heads_at(node)}

    def to_frame(self) -> pd.DataFrame:
        """Return one row an edge: edge, source, target, route."""
        edges = [self.graph.edges[i] for i in self.edges]
        rows = [{"edge": e.name, "source": e.source.name, "target": e.target.name, "route": e.route} for e in edges]
        return pd.DataFrame(rows, columns=["edge", "source", "target", "route"])

    def finding(self) -> str:
        """Return how many edges there are, by route, and how they were found."""
        by_route = self.to_frame().route.value_counts()
        routes = ", ".join(f"{n} {route}" for route, n in by_route.items())
        return f"{len(self)} of {len(self.graph)} edges ({routes or 'none'}), {self.found}"

    def figure(self) -> Any:
        """Return the edges as a drawing (a plotly figure), all alike; a :class:`analysis.Quality` tells them apart."""
        from figures.models.edges import edge_drawing

        return edge_drawing(self.to_frame().assign(effect=1.0), self.finding(), "All edges are drawn alike.")

    def overlap(self, other: Circuit) -> float:
        """Return the share of edges in both among those in either (Jaccard), by name."""
        mine, theirs = set(self.names), set(other.names)
        return len(mine & theirs) / max(1, len(mine | theirs))


def find_circuit(
    scores: EdgeScores, rule: Rule = "greedy", size: int | None = None, threshold: float | None = None
) -> Circuit:
    """Return the circuit that a rule makes of scores; edges on no way from the input to the logits are left out.

    ``size`` (edges) goes with ``top`` and ``greedy``, ``threshold`` (of |effect|, a share of the clean-corrupt gap)
    with ``threshold``.

    Raises:
        ValueError: if what the rule needs is missing or no such number.
        EmptyCircuitError: if nothing is left.

    Source: Hanna et al., arXiv 2403.17806 (greedy growth); Conmy et al., arXiv 2304.14997 (thresholds).
    """
    known("rule", rule, RULES)
    graph, order = scores.graph, scores.scores.abs()
    other = size if rule == "threshold" else threshold
    require(other is None, f"rule {rule!r} takes {'a threshold' if rule == 'threshold' else 'a size'} and nothing else")
    if rule == "threshold":
        threshold = real("threshold", threshold, above=0)
        chosen = (scores.effects.abs() >= threshold).nonzero()[:, 0].tolist()
    else:
        size = whole("size", size)
        require(size <= len(graph), f"size = {size}: from 1 to the graph's {len(graph)} edges")
        largest = order.argsort(descending=True, stable=True).tolist()
        chosen = largest[:size] if rule == "top" else grown(graph, order.tolist(), size)
    kept = connected(graph, chosen)
    if not kept:
        raise EmptyCircuitError(
            f"of {len(chosen)} edges none is on a way from the input to the logits; take more, or a lower threshold"
        )
    what = f"threshold {threshold}" if rule == "threshold" else f"{rule} {size}"
    return Circuit(graph, tuple(kept), f"{what} by {scores.method}, {len(chosen) - len(kept)} pruned")
