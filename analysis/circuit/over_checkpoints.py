"""A circuit in other models of the same graph: over checkpoints of a run, and over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import torch

from analysis.attribution.of_edges import EdgeMethod, EdgeScores, attribute_edges, bytes_to_attribute
from analysis.circuit.discovery import Circuit, EmptyCircuitError
from analysis.circuit.quality import bytes_to_judge, judge
from analysis.edges.sent import Replacement
from analysis.gap import NoGapError
from analysis.memory import bound_for
from analysis.metrics import Metric, accuracy, evaluate, metric_named
from analysis.pairs import Pair, check_readable
from analysis.ready import require_eval_mode, require_no_hooks
from analysis.result import Table, ends
from analysis.resuming import KeptIn
from circuits.model import HookedStreamTransformer

Find = Callable[[EdgeScores], Circuit]


class CircuitSteps(Table):
    """How much of the behaviour a circuit carries in every model, and how much of it is each model's own circuit."""

    def finding(self) -> str:
        """Return the faithfulness and the overlap of the first model in which it can be measured, and of the last."""
        known = self.frame.dropna(subset=["faithfulness"])
        said = [
            f"at {row.step}, faithfulness {row.faithfulness:.2f}{ends(row)}, overlap {row.overlap:.2f}"
            for _, row in known.iloc[[0, -1] if len(known) > 1 else slice(None)].iterrows()
        ]
        return f"a circuit of {self.frame.edges.iloc[0]} edges in {len(self)} models; {'; '.join(said) or 'in none'}"

    def figure(self) -> Any:
        """Return faithfulness and overlap over the models (a plotly figure)."""
        from figures.models.circuit_over_checkpoints import circuit_curves

        return circuit_curves(self.frame)


def follow(
    models: Iterable[tuple[Any, HookedStreamTransformer]],
    pair: Pair,
    circuit: Circuit,
    find: Find,
    metric: str | Metric = "logit_difference",
    method: EdgeMethod = "EAP-IG",
    replacement: Replacement = "other run",
    steps: int = 5,
    max_memory: int | None = None,
    kept: KeptIn | None = None,
) -> CircuitSteps:
    """Return one row a model: its label (``step``), faithfulness of ``circuit`` there, overlap with its own circuit.

    ``clean``, ``corrupt``, ``accuracy`` and ``n`` say how each model does, and ``gap`` is the mean clean minus corrupt
    metric; a model that does not tell the two apart at all has NaN for the rest. ``find`` makes each model's own
    circuit of its scores; ``overlap`` is the share of edges in both circuits among those in either. ``kept`` as in
    :func:`analysis.patch`, of the runs with edges cut.

    Raises:
        ValueError: as :func:`analysis.judge`.
    """
    rows = []
    for label, model in models:
        if max_memory is not None:
            function = metric_named(metric)[1]
            scoring = bytes_to_attribute(model, circuit.graph, pair, function, method, 0)
            judging = bytes_to_judge(model, pair, circuit, function, 0)
            bound_for(max_memory, max(scoring, judging), pair.clean.device)
        row = {"step": label, **_measured(model, pair, metric), "edges": len(circuit)}
        try:
            scores = attribute_edges(model, pair, metric, method, "noise", steps, 0, max_memory, kept=kept)
            quality = judge(model, pair, circuit, metric, replacement, subsets=0, max_memory=max_memory, kept=kept)
            try:
                own = find(scores)
            except EmptyCircuitError:
                own = Circuit(scores.graph, ())
            row |= {"faithfulness": quality.faithfulness, "low": quality.low, "high": quality.high}
            row |= {"overlap": circuit.overlap(own), "own_edges": float(len(own))}
        except NoGapError:
            row |= dict.fromkeys(("faithfulness", "low", "high", "overlap", "own_edges"), float("nan"))
        rows.append(row)
    return CircuitSteps(pd.DataFrame(rows))


@torch.no_grad()
def _measured(model: HookedStreamTransformer, pair: Pair, metric: str | Metric) -> dict[str, Any]:
    """How a model does, whether or not the metric tells its two runs apart: a model early in training does not."""
    require_eval_mode(model, "following a circuit")
    require_no_hooks(model, "following a circuit")
    check_readable(model, pair)
    name, function = metric_named(metric)
    logits = model(pair.clean)
    clean, corrupt = (float(evaluate(function, name, x, pair).mean()) for x in (logits, model(pair.corrupt)))
    right = float(accuracy(logits, pair).mean())
    beside = {"clean": clean, "corrupt": corrupt, "accuracy": right, "n": len(pair)}
    return {"metric": name, "gap": clean - corrupt, **beside}
