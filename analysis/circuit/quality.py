"""How good a circuit is: faithfulness, completeness, minimality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.circuit.discovery import Circuit
from analysis.compared_runs import two_runs
from analysis.edges.cut_runs import EdgeRuns
from analysis.edges.graph import Graph
from analysis.edges.sent import Replacement, send
from analysis.gap import Gap
from analysis.memory import beside_logits, logits_of_one
from analysis.metrics import Metric
from analysis.pairs import Pair, is_padding
from analysis.result import ends, largest_by
from analysis.resuming import KeptIn, kept_rows
from analysis.statistics.intervals import share_interval
from circuits.common.errors import require, whole
from circuits.common.showing import ROWS, Shown
from circuits.model import HookedStreamTransformer


@dataclass(frozen=True, repr=False)
class Quality(Shown):
    """How good a circuit is, all as shares of the metric's difference between the clean and the corrupt run.

    ``faithfulness`` is what the clean run keeps with every edge outside replaced: 1 is the clean metric, 0 the corrupt.
    ``incompleteness`` is the largest |circuit without K - model without K| over sampled parts K of the circuit: 0 where
    nothing outside does what the circuit does. An edge's minimality is the largest change that taking it away makes
    to the circuit without some K; the circuit's is that of its least edge.
    """

    circuit: Circuit
    faithfulness: float
    low: float
    high: float
    """Ends of faithfulness' 95 % bootstrap interval over examples; NaN where clean and corrupt are not told apart."""
    empty: float
    """The same with every edge replaced: 0 where what replaces is the corrupt run's."""
    incompleteness: float
    minimality: float
    edges: pd.DataFrame
    """One row an edge of the circuit: edge, source, target, route, minimality."""
    replacement: str
    metric: str
    beside: Gap
    """What stands beside every effect: the metric of both runs, the model's accuracy, n."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row an edge of the circuit: edge, source, target, route, minimality."""
        return self.edges

    def finding(self) -> str:
        """Return how much the circuit keeps, what it lacks, and what its least edge does."""
        row = {"low": self.low, "high": self.high, "n": self.beside.n}
        return (
            f"{len(self.circuit)} of {len(self.circuit.graph)} edges keep {self.faithfulness:.2f}{ends(row)} of "
            f"the clean-corrupt difference (edges outside: {self.replacement}); incompleteness "
            f"{self.incompleteness:.2f}, minimality {self.minimality:.2f}; {self.beside.sentence(self.metric)}"
        )

    def notes(self) -> Sequence[str]:
        """Return what the pair is warned of, if anything."""
        return self.beside.warnings

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` edges without which most is lost."""
        return largest_by(self.edges, "minimality", n)[["edge", "minimality"]]

    def summary(self) -> pd.DataFrame:
        """Return all numbers as one row."""
        numbers = ("faithfulness", "low", "high", "empty", "incompleteness", "minimality", "replacement", "metric")
        row = {name: getattr(self, name) for name in numbers} | self.beside.columns()
        return pd.DataFrame([{"edges": len(self.circuit), "of": len(self.circuit.graph)} | row])

    def figure(self) -> Any:
        """Return the drawing of the circuit (a plotly figure), every edge as wide as its minimality."""
        numbers = self.summary().drop(columns=["minimality"]).assign(method="minimality")
        drawn = self.edges.rename(columns={"minimality": "effect"}).merge(numbers.drop(columns="edges"), how="cross")
        from figures.models.edges import circuit_drawing

        return circuit_drawing(drawn)


@torch.no_grad()
def judge(
    model: HookedStreamTransformer,
    pair: Pair,
    circuit: Circuit,
    metric: str | Metric = "logit_difference",
    replacement: Replacement = "other run",
    subsets: int = 4,
    seed: int = 0,
    max_memory: int | None = None,
    progress: bool = False,
    kept: KeptIn | None = None,
) -> Quality:
    """Return how good a circuit is: clean runs in which what flows along all other edges is replaced.

    Completeness and minimality look at the circuit whole and at ``subsets`` random parts of it (each edge in a part
    with probability 1/2). ``kept`` as in :func:`analysis.patch`.

    Raises:
        ValueError: for a model in training mode or with hooks attached, a circuit of another graph, an empty one, a
            metric that does not return one finite number an example, a pair whose clean and corrupt metric are equal,
            or a bound on memory (``max_memory``, as in :func:`analysis.patch`) that is less than one copy of the pair
            needs.

    Source: Wang et al., arXiv 2211.00593, section 4 (the three criteria); faithfulness is normalised as
        transformer-lens' ``faithfulness`` is, which knows no stream edges.
    """
    whole("subsets", subsets, least=0)
    seed = whole("seed", seed, least=-(2**63))
    runs = _Runs(model, pair, circuit, metric, replacement, subsets, max_memory, progress, kept)
    generator, inside = torch.Generator().manual_seed(seed), circuit.mask
    drawn = [inside & (torch.rand(len(inside), generator=generator) < 0.5) for _ in range(subsets)]
    parts = [torch.zeros_like(inside), *drawn]
    without_it = [~inside | part for part in parts]
    asked, without_one = _without_one(circuit, parts)
    values = runs.metrics(torch.stack([~inside, torch.ones_like(inside), *without_it, *parts, *without_one]))
    faithful, empty = values[:2]
    without, from_model, changed = runs.recovered(values[2:]).split([len(parts), len(parts), len(asked)])
    least = _minimality(circuit, asked, changed, without)
    moved, gap = ((x - runs.corrupt).double().cpu().numpy() for x in (faithful, runs.clean))
    low, high = (float(end) for end in share_interval(moved, gap))
    edges = circuit.to_frame().assign(minimality=least.numpy())
    return Quality(
        circuit=circuit,
        faithfulness=runs.share(faithful),
        low=low,
        high=high,
        empty=runs.share(empty),
        incompleteness=float((without - from_model).abs().max()),
        minimality=float(least.min()),
        edges=edges,
        replacement=replacement,
        metric=runs.name,
        beside=runs.both.beside,
    )


class _Runs:
    """Clean runs with edges cut, measured as shares of the gap."""

    def __init__(
        self,
        model: HookedStreamTransformer,
        pair: Pair,
        circuit: Circuit,
        metric: str | Metric,
        replacement: Replacement,
        subsets: int,
        max_memory: int | None,
        progress: bool,
        kept: KeptIn | None,
    ):
        graph, self.progress = Graph(model), progress
        require(bool(circuit.edges), "the circuit has no edges")
        require(
            [e.name for e in circuit.graph.edges] == [e.name for e in graph.edges],
            f"the circuit is of a graph with {len(circuit.graph)} edges, this model's has {len(graph)} (or others); "
            f"find a circuit of this model, or name its edges: Circuit.of(Graph(model), names)",
        )

        def needed(metric: Metric) -> int:
            return bytes_to_judge(model, pair, circuit, metric, subsets)

        both = two_runs(model, pair, metric, "denoise", "judging a circuit", max_memory=max_memory, needed=needed)
        self.both, self.name, self.clean, self.corrupt = both, both.metric, both.target, both.baseline
        sent = send(model, graph, pair.corrupt).without_padding(is_padding(model, pair)).replaced(replacement)
        beside = _beside_runs(model, pair, circuit, both.function, subsets)
        self.runs = EdgeRuns(model, pair.clean, sent, graph, max_memory, beside)
        named = (self.name, both.function)
        self.kept = kept_rows(kept, "judging a circuit", model, pair, named, replacement=replacement)

    def metrics(self, cuts: Bool[Tensor, "set edge"]) -> Float[Tensor, "set example"]:
        return self.runs.each(cuts, self.both.measure, self.progress, self.kept)

    def share(self, values: Float[Tensor, " example"]) -> float:
        return float((values - self.corrupt).mean() / (self.clean - self.corrupt).mean())

    def recovered(self, values: Float[Tensor, "set example"]) -> Float[Tensor, " set"]:
        return (values - self.corrupt).mean(1) / (self.clean - self.corrupt).mean()


def bytes_to_judge(model: HookedStreamTransformer, pair: Pair, circuit: Circuit, metric: Metric, subsets: int) -> int:
    """Return how many bytes :func:`judge` takes that goes through one copy of the pair at a time."""
    runs = EdgeRuns.needed(model, circuit.graph, pair.clean)
    return runs + _beside_runs(model, pair, circuit, metric, subsets)


def _beside_runs(model: HookedStreamTransformer, pair: Pair, circuit: Circuit, metric: Metric, subsets: int) -> int:
    """What a metric makes, and the sets of edges that are cut (a byte an edge), as they are listed and put together."""
    made = beside_logits(metric, len(pair) * logits_of_one(model, pair.n_pos))
    return made + 3 * len(circuit.graph) * len(circuit) * (subsets + 1)


def _without_one(
    circuit: Circuit, parts: list[Bool[Tensor, " edge"]]
) -> tuple[list[tuple[int, int]], Bool[Tensor, "set edge"]]:
    """What is cut where an edge is taken away from the circuit without a part, for every edge of the circuit and part
    that it is not in: the numbers of both, and the sets."""
    asked = [(row, k) for row, edge in enumerate(circuit.edges) for k, part in enumerate(parts) if not part[edge]]
    cuts = torch.stack([~circuit.mask | parts[k] for _, k in asked])
    cuts[torch.arange(len(asked)), [circuit.edges[row] for row, _ in asked]] = True
    return asked, cuts


def _minimality(
    circuit: Circuit,
    asked: list[tuple[int, int]],
    changed: Float[Tensor, " set"],
    without: Float[Tensor, " part"],
) -> Float[Tensor, " kept"]:
    """For each edge, the largest change over the parts that it is not in."""
    changes = (changed - without[[k for _, k in asked]]).abs()
    least = torch.zeros(len(circuit), dtype=changes.dtype)
    return least.scatter_reduce(0, torch.tensor([row for row, _ in asked]), changes.cpu(), "amax")
