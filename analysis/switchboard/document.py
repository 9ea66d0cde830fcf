"""The document that the switchboard shows: what was measured of runs, step by step, in one plain value."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.attribution.of_edges import EdgeScores, attribute_edges
from analysis.circuit.quality import Quality
from analysis.edges.cut_runs import CHANGES
from analysis.edges.graph import Graph
from analysis.gap import WeakPairWarning
from analysis.pairs import Pair
from analysis.result import ends, largest_by
from analysis.switchboard.measured import nodes_of, plain
from circuits.common.errors import require, whole
from circuits.common.showing import ROWS, Shown
from circuits.model import HookedStreamTransformer
from figures.explore.page import FORMAT
from figures.words import sentence

MOST_EDGES = 800
"""More edges than this are too many to draw, and to measure at every step."""


@dataclass(frozen=True, repr=False, eq=False)
class Switchboard(Shown):
    """A document of the format ``valuestream switchboard 1``: plain data, which the page and the widget show."""

    document: dict[str, Any]

    def finding(self) -> str:
        """Return what was found at the last step."""
        return str(self.document["lead"])

    def to_frame(self) -> pd.DataFrame:
        """Return one row a run, step and edge: effect, low, high, metric (with it cut), cosine, and of the pairs clean,
        corrupt, accuracy and n."""
        edges = pd.DataFrame(self.document["edges"]).rename(columns={"name": "edge"})
        frames = []
        for run in self.document["runs"]:
            for i, step in enumerate(run["steps"]):
                numbers = {key: values[i] for key, values in run["edge"].items()}
                beside = {key: run[key][i] for key in ("clean", "corrupt", "accuracy", "n")}
                frames.append(edges.assign(run=run["name"], seed=run["seed"], step=step, **numbers, **beside))
        return pd.concat(frames, ignore_index=True)

    def warnings(self) -> dict[str, list[str]]:
        """Return what is to be known of the pairs of every run at its last step, by the run's name."""
        return {run["name"]: list(run["warnings"][-1]) for run in self.document["runs"]}

    def last(self) -> pd.DataFrame:
        """Return the rows of :meth:`to_frame` that are of the first run's last step."""
        frame, run = self.to_frame(), self.document["runs"][0]
        return frame[(frame.run == run["name"]) & (frame.step == run["steps"][-1])]

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` edges with the largest effects at the last step."""
        kept = ["edge", "effect", "low", "high", "metric", "cosine"]
        last = self.last()
        return largest_by(last, "effect", n)[[name for name in kept if name in last]]

    def figure(self) -> Any:
        """Return the largest edges of the last step as a drawing (a plotly figure)."""
        from figures.models.edges import edge_drawing

        return edge_drawing(self.last().dropna(subset=["effect"]))

    def page(self) -> str:
        """Return the switchboard as one page of HTML that needs no kernel, no network and no other file."""
        from figures.explore.page import switchboard_page

        return switchboard_page(self.document)

    def write(self, path: str | Path) -> Path:
        """Write :meth:`page` to a file and return its path."""
        from figures.explore.page import write_switchboard

        return write_switchboard(path, self.document)


def chosen_edges(model: HookedStreamTransformer, pair: Pair, metric: str, most: int = MOST_EDGES) -> list[int]:
    """Return the numbers of the edges that are shown: all, or of a large graph those with the largest estimates
    (EAP-IG)."""
    graph, most = Graph(model), whole("most", most)
    if len(graph) <= most:
        return list(range(len(graph)))
    with warnings.catch_warnings():
        # What is to be known of the pairs is said where the chosen edges are measured.
        warnings.simplefilter("ignore", WeakPairWarning)
        scores = attribute_edges(model, pair, metric, "EAP-IG", "noise", check=0).effects.abs()
    return sorted(scores.argsort(descending=True, stable=True)[:most].tolist())


def assembled(
    about: Mapping[str, Any],
    model: HookedStreamTransformer,
    edges: Sequence[int],
    runs: Sequence[tuple[str, int, Mapping[int, Mapping[str, Any]]]],
    metric: str,
    prompts: Sequence[Mapping[str, Any]],
) -> Switchboard:
    """Return the document of runs of one architecture: (name, seed, what was measured by step) each.

    The first run's patterns are shown on ``prompts``. ``about`` is title and facts.

    Raises:
        ValueError: if a run has no step.
    """
    for name, _, by_step in runs:
        require(
            bool(by_step), f"{name} has no checkpoint to show; train it with checkpoints (TrainingConfig.checkpoint_at)"
        )
    graph = Graph(model)
    first = runs[0][2]
    steps = sorted(first)
    shown = [
        dict(prompt)
        | {"steps": steps}
        | {key: [first[step][key][i] for step in steps] for key in ("pattern", "values")}
        for i, prompt in enumerate(prompts)
    ]
    document = {
        **_head(graph, about["title"], "", about["facts"], metric),
        **_graph(graph, edges),
        "runs": [_run(name, seed, by_step) for name, seed, by_step in runs],
        "prompts": shown,
    }
    return Switchboard(document | {"lead": _lead(Switchboard(document))})


def of_edges(result: EdgeScores | Quality) -> Switchboard:
    """Return the document of a result that has edges: one step, and nothing that would have to be asked of a model.

    The effect of an edge of a circuit is its minimality.
    """
    graph, name = (result.graph, "effect") if isinstance(result, EdgeScores) else (result.circuit.graph, "minimality")
    frame = result.to_frame().assign(number=lambda rows: graph.find(rows.edge))
    frame = largest_by(frame, name, MOST_EDGES).sort_values("number", kind="stable")
    half = 1.96 * frame.get("stderr", pd.Series(float("nan"), frame.index))
    numbers = {"effect": frame[name], "low": frame[name] - half, "high": frame[name] + half}
    edge = {key: [[plain(x) for x in column]] for key, column in numbers.items()}
    edge |= {key: [[None] * len(frame)] for key in ("metric", "cosine")}
    node = {key: [[None] * len(nodes_of(graph))] for key in ("effect", "low", "high")}
    beside, title = result.beside, f"{type(result).__name__} of {graph.config.name!r}"
    run = {"name": title, "seed": 0, "steps": [0], "clean": [beside.clean], "corrupt": [beside.corrupt]}
    told, lead = {"warnings": [list(beside.warnings)]}, result.finding()
    if beside.warnings:
        lead = _with(f"{lead}.", beside.warnings)
    document = {
        **_head(graph, title, lead, [("examples", beside.n)], result.metric),
        **_graph(graph, frame.number.tolist()),
        "runs": [run | {"accuracy": [beside.accuracy], "n": [beside.n], "node": node, "edge": edge} | told],
        "prompts": [],
    }
    return Switchboard(document)


def _head(graph: Graph, title: str, lead: str, facts: Sequence[tuple[str, Any]], metric: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "title": title,
        "lead": lead,
        "facts": [[name, str(value)] for name, value in facts],
        "layers": graph.n_layers,
        "heads": graph.n_heads,
        "mlp": graph.mlp,
        "metric": metric,
        "words": dict(CHANGES),
    }


def _graph(graph: Graph, edges: Sequence[int]) -> dict[str, Any]:
    kept = [graph.edges[i] for i in edges]
    nodes = [
        {"name": node.name, "kind": node.kind, "layer": node.layer, "head": node.head, "carrier": node.carrier}
        for node in nodes_of(graph)
    ]
    told = [{"name": e.name, "source": e.source.name, "target": e.target.name, "route": e.route} for e in kept]
    return {"nodes": nodes, "edges": told, "edges_left_out": len(graph) - len(edges)}


def _run(name: str, seed: int, by_step: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    steps = sorted(by_step)
    found: dict[str, Any] = {"name": name, "seed": seed, "steps": steps}
    for key in ("clean", "corrupt", "accuracy", "n", "warnings", "shares"):
        found[key] = [by_step[step][key] for step in steps]
    for key in ("node", "edge"):
        parts = dict.fromkeys(part for step in steps for part in by_step[step][key])
        nothing = [None] * len(by_step[steps[0]][key]["effect"])
        found[key] = {part: [by_step[step][key].get(part, nothing) for step in steps] for part in parts}
    last = by_step[steps[-1]]
    return found | ({"gates": last["gates"]} if "gates" in last else {})


def _lead(board: Switchboard) -> str:
    last = board.last()
    if last.effect.isna().all():
        return f"At the last step the model does not tell clean from corrupt by {board.document['metric']}."
    said = []
    for route, words in (("residual", "the residual stream"), ("stream", "the residual attention stream")):
        rows = last[last.route == route]
        if len(rows):
            top = largest_by(rows, "effect", 1).iloc[0]
            said.append(f"the strongest edge of {words} is {top.edge} with {top.effect:.2f}{ends(top)}")
    run = board.document["runs"][0]
    clean, corrupt = _told_apart(last.clean.iloc[0], last.corrupt.iloc[0])
    found = (
        f"At step {run['steps'][-1]:,}, {' and '.join(said)} of the clean-corrupt difference of "
        f"{board.document['metric']} (clean {clean}, corrupt {corrupt})."
    )
    return _with(found, run["warnings"][-1])


def _with(found: str, warned: Sequence[str]) -> str:
    """What was found, and after it what is to be known of its pairs, a sentence each."""
    return " ".join([found, *(f"{sentence(warning)}." for warning in warned)])


def _told_apart(*numbers: float) -> list[str]:
    """Numbers with two digits behind the point, or as many as tell them apart."""
    ways = ([f"{round(number, digits) + 0.0:.{digits}f}" for number in numbers] for digits in range(2, 13))
    return next((way for way in ways if len(set(way)) == len(numbers)), [f"{number:.3g}" for number in numbers])
