"""Circuits: the edges by route that a behaviour needs, how good they are, and how they came over the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import analysis
from circuits.common.errors import known, real, require
from experiments.options import option
from experiments.output import Tables, say, show, written_tables
from experiments.questions.attribute import edge_works
from experiments.questions.cost import Cost, Work, cost_of, spread
from experiments.questions.over_checkpoints import over
from experiments.questions.question import Frame, Model, OfPairs, Run, say_written


@dataclass(frozen=True)
class FindCircuit(OfPairs):
    """Find each run's circuit of edges by route, with faithfulness, completeness and minimality; write and draw."""

    rule: Annotated[str, option("threshold, or greedy or top with --size")] = "threshold"
    size: Annotated[
        int | None, option("edges of greedy or top, before those on no way from input to logits are left out", "20")
    ] = None
    threshold: Annotated[
        float | None, option("of |effect|, a share of the clean-corrupt difference, for the rule threshold", "0.02")
    ] = None
    method: Annotated[str, option("what scores the edges: EAP, EAP-IG or exact")] = "EAP-IG"
    replacement: Annotated[str, option("for edges outside: 'other run', mean or zero")] = "other run"
    checkpoints: Annotated[bool, option("follow the circuit over the run's checkpoints too")] = False
    steps: Annotated[int, option("inputs between the two runs, for EAP-IG")] = 5

    def validate(self) -> None:
        """Refuse options that say nothing together.

        Raises:
            UnknownNameError: for an unknown rule, method or replacement (nearest suggested).
            ValueError: as :meth:`OfInputs.validate`, for a size or a threshold that is not positive or of which the
                rule makes nothing, or for steps of a method that takes none.
        """
        from analysis.attribution.of_edges import EDGE_METHODS
        from analysis.circuit.discovery import RULES
        from analysis.edges.sent import REPLACEMENTS

        super().validate()
        known("rule", self.rule, RULES)
        known("method", self.method, EDGE_METHODS)
        known("replacement", self.replacement, REPLACEMENTS)
        given, name = (self.size, "--size") if self.rule == "threshold" else (self.threshold, "--threshold")
        require(given is None, f"{name} says nothing to the rule {self.rule!r}; leave it out, or choose another --rule")
        require(
            self.method == "EAP-IG" or not self.given("steps"),
            f"--steps says nothing to the method {self.method}; leave it out, or take --method EAP-IG",
        )
        size, threshold = self.size, self.threshold
        require(size is None or size > 0, f"size = {size}: a circuit needs at least one edge")
        if threshold is not None:
            real("threshold", threshold, above=0)

    def find(self, scores: analysis.EdgeScores) -> analysis.Circuit:
        """Return the circuit that the rule makes of scores; a size beyond the graph's takes all of it."""
        rule: Any = self.rule
        if rule == "threshold":
            return analysis.find_circuit(scores, rule, threshold=0.02 if self.threshold is None else self.threshold)
        return analysis.find_circuit(scores, rule, min(20 if self.size is None else self.size, len(scores.graph)))

    def ask(
        self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None
    ) -> tuple[analysis.EdgeScores, analysis.Quality]:
        """Return a run's scores (noising: what the clean run loses without each edge) and its circuit's quality.

        Raises:
            RunError: if there is no checkpoint at the step.
            ValueError: as :meth:`validate`.
        """
        model = self.model(run, self.step)
        pair = self.pair(run, model)
        method: Any = self.method
        scores = analysis.attribute_edges(
            model, pair, self.metric, method, "noise", self.steps, 64, self.max_memory, progress, kept
        )
        how: dict[str, Any] = {"max_memory": self.max_memory, "progress": progress, "kept": kept}
        return scores, analysis.judge(model, pair, self.find(scores), self.metric, self._replaced, **how)

    def cost(self, run: Run) -> Cost:
        """Return what it takes at most: as many passes as if every edge were in the circuit, or so many as its size.

        To judge a circuit takes a pass an edge for each part that the edge is not in, three on average.
        """
        model = self.model(run, self.step)
        pair = self.pair(run, model)
        names = [edge.name for edge in analysis.Graph(model).edges]
        edges = min(len(names), 20 if self.size is None else self.size) if self.rule != "threshold" else len(names)
        times = len(run.checkpoints()) if self.checkpoints else 0

        def judged(n: int) -> Any:
            circuit = analysis.Circuit.of(analysis.Graph(model), spread(names, n))
            return analysis.judge(model, pair, circuit, replacement=self._replaced, subsets=0)

        works = [*edge_works(model, pair, self.method, self.steps, 64), Work(14 + 3 * edges, judged)]
        works += times * [*edge_works(model, pair, self.method, self.steps, 0), Work(6 + edges, judged)]
        return cost_of(model, pair, works, self.max_memory, at_most=True)

    @property
    def _replaced(self) -> Any:
        return self.replacement

    def follow(
        self,
        run: Run,
        circuit: analysis.Circuit,
        steps: Sequence[int] = (),
        progress: bool = False,
        kept: analysis.KeptIn | None = None,
    ) -> analysis.CircuitSteps:
        """Return how much of the behaviour a circuit carries at the checkpoints of a run, all or those at some steps,
        labelled with the run."""
        from experiments.runs.pooling import labelled

        method: Any = self.method
        how = (self.metric, method, self._replaced, self.steps, self.max_memory)
        pair = self.pair(run)

        def at(model: Model) -> Frame:
            return analysis.follow([(0, model)], pair, circuit, self.find, *how).to_frame()

        found = over(self, run, steps, at, progress, kept, circuit=list(circuit.names))
        return analysis.CircuitSteps(labelled(found, run))

    def _answered(self, runs: Sequence[Run]) -> Tables:
        """Find and judge each run's circuit, follow it over checkpoints where that is asked, and compare the runs'."""
        written: list[Path] = []
        found: dict[str, analysis.Circuit] = {}
        for run in runs:
            self.foretell(run)
            with self.kept(run) as kept:
                scores, quality = self.ask(run, progress=True, kept=kept)
                found[run.path.name] = quality.circuit
                written += say_written(self.tell(run, (scores, quality), kept))
        tables = written_tables(written)
        if len(found) > 1:
            tables["overlaps"] = overlaps(found)
            say("overlap of the runs' circuits: edges in both among those in either")
            show(tables["overlaps"])
        return tables

    def tell(
        self,
        run: Run,
        found: tuple[analysis.EdgeScores, analysis.Quality],
        kept: analysis.KeptIn | None = None,
    ) -> list[Path]:
        """Print the circuit, how good it is, and how it came; write and draw all edges."""
        from figures.models.circuit_over_checkpoints import circuit_curves
        from figures.models.edges import circuit_drawing

        (scores, quality), frame = found, circuit_frame(*found)
        circuit = quality.circuit
        say(f"{run.path.name}: circuit of {len(circuit)} of {len(scores.graph)} edges ({circuit.found})")
        inside = frame[frame.kept]
        by_size = inside.loc[inside.effect.abs().sort_values(ascending=False, kind="stable").index]
        show(by_size[["edge", "effect", "edge_minimality"]])
        show(quality.summary().drop(columns=["edges", "of"]))
        written = self.keep(run, "circuit", frame, circuit_drawing)
        if self.checkpoints:
            followed = self.follow(run, circuit, progress=True, kept=kept).to_frame()
            say("the same circuit at the run's checkpoints")
            show(followed[["step", "gap", "faithfulness", "low", "high", "overlap"]])
            written += self.keep(run, "circuit_steps", followed, circuit_curves)
        return written


def circuit_frame(scores: analysis.EdgeScores, quality: analysis.Quality) -> Frame:
    """Return every edge of the graph: effect, whether it is in the circuit, minimality, and the circuit's numbers."""
    frame = scores.to_frame()
    kept = quality.edges.set_index("edge").minimality
    numbers = quality.summary().drop(columns=["metric", *quality.beside.columns()])
    frame = frame.assign(kept=frame.edge.isin(kept.index), edge_minimality=frame.edge.map(kept))
    return frame.merge(numbers, how="cross")


def overlaps(circuits: dict[str, analysis.Circuit]) -> Frame:
    """Return the overlap of every two circuits (share of edges in both among those in either), by run."""
    import pandas as pd

    rows = [
        {"run": a, "other": b, "overlap": one.overlap(other), "edges": len(one), "other_edges": len(other)}
        for i, (a, one) in enumerate(circuits.items())
        for b, other in list(circuits.items())[i + 1 :]
    ]
    return pd.DataFrame(rows, columns=["run", "other", "overlap", "edges", "other_edges"])
