"""What the commands paths, attribute and circuit do: ask, write, draw, and print a short table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.attribution.of_edges import EdgeScores
from analysis.circuit.discovery import Circuit
from analysis.edges.cut_runs import REPLACEMENTS
from circuits.common.errors import known, require, whole
from circuits.common.text_table import as_text
from experiments.questions import routes
from experiments.questions.analyses import beside, keep
from experiments.runs.run import Run
from figures.models.circuit_over_checkpoints import circuit_curves
from figures.models.edges import circuit_drawing, edge_drawing
from figures.models.patching import patch_heat_map
from figures.models.paths import path_heat_maps, share_bars

_HEAD = re.compile(r"L(\d+)H(\d+)")


def heads_named(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (layer, head) of heads by name.

    Raises:
        ValueError: for a name that is not like L0H1.
    """
    found = []
    for name in names:
        match = _HEAD.fullmatch(name)
        if not match:
            raise ValueError(f"a sender is a head, as in L0H1, not {name!r}")
        found.append((int(match[1]), int(match[2])))
    return found


def _show(frame: pd.DataFrame) -> None:
    print(as_text(frame))


def _largest(frame: pd.DataFrame, top: int) -> pd.DataFrame:
    return frame.loc[frame.effect.abs().sort_values(ascending=False).index].head(top)


def paths(
    name: str, root: Path, top: int, senders: Sequence[str], receivers: Sequence[str], options: dict[str, Any]
) -> None:
    """Patch direct paths, write, draw, and print the largest and every head's effect by route."""
    whole("top", top)
    run = Run.find(name, root)
    found, shares = routes.paths_run(
        run, senders=heads_named(senders) or None, receivers=list(receivers) or None, progress=True, **options
    )
    frame = found.to_frame()
    print(f"{run.path.name}: {len(frame)} direct paths, {frame.n[0]} pairs, {frame.metric[0]}; largest effects:")
    print(beside(frame))
    _show(_largest(frame, top)[["sender", "receiver", "route", "effect", "low", "high", "p"]])
    print("\neffect of every head's projection: its own layer, the stream, both (own + stream + interaction = total)")
    wide = shares.pivot(index=["layer", "head", "carrier"], columns="share", values="effect").reset_index()
    _show(wide[["layer", "head", "carrier", "own", "stream", "interaction", "total"]])
    written = [*keep(run, "paths", frame, path_heat_maps), *keep(run, "shares", shares, share_bars)]
    print("wrote " + ", ".join(map(str, written)))


def attribute(name: str, root: Path, top: int, method: str, options: dict[str, Any]) -> None:
    """Attribute, write, draw, and print the largest scores with how well they agree with exact patching."""
    whole("top", top)
    run = Run.find(name, root)
    found = routes.attribute_run(run, method, progress=True, **options)
    frame = found.to_frame()
    of_edges = isinstance(found, EdgeScores)
    what = "edges" if of_edges else "sites"
    print(f"{run.path.name}: {found.method} of {len(frame)} {what}, {frame.n[0]} pairs, {found.metric}; largest:")
    print(beside(frame))
    columns = (
        ["edge", "effect", "stderr"] if of_edges else ["layer", "component", "route", "head", "position", "effect"]
    )
    _show(_largest(frame, top)[columns])
    exact = found.agreement
    if exact.checked:
        print(
            f"against exact patching of {exact.checked} {what}: rank correlation {exact.rank_correlation:.3f}, worst "
            f"error {exact.worst_error:.3f}; the whole input is estimated at {found.total:.3f} of what it does"
        )
    if isinstance(found, EdgeScores) and not math.isnan(found.sum_error):
        print(f"sums over a node's edges miss its own score by at most {found.sum_error:.1e} of the largest")
    drawn = ("attribute", frame, edge_drawing) if of_edges else ("attribute_sites", frame, patch_heat_map)
    print("wrote " + ", ".join(map(str, keep(run, *drawn))))


def circuit(
    names: Sequence[str],
    root: Path,
    rule: Any,
    size: int | None,
    threshold: float | None,
    checkpoints: bool,
    options: dict[str, Any],
) -> None:
    """Find and judge each run's circuit, write, draw, print; follow it over checkpoints; compare runs."""
    require(bool(names), "name one run or more; 'valuestream runs' lists them")
    known("replacement", options["replacement"], REPLACEMENTS)
    given, name = (size, "--size") if rule == "threshold" else (threshold, "--threshold")
    require(given is None, f"{name} says nothing to the rule {rule!r}; leave it out, or choose another --rule")
    find = routes.rule_of(rule, 20 if size is None else size, 0.02 if threshold is None else threshold)
    found: dict[str, Circuit] = {}
    for run in [Run.find(name, root) for name in names]:
        scores, quality = routes.circuit_run(run, find, progress=True, **options)
        found[run.path.name] = quality.circuit
        frame = routes.circuit_frame(scores, quality)
        print(
            f"{run.path.name}: circuit of {len(quality.circuit)} of {len(scores.graph)} edges ({quality.circuit.found})"
        )
        _show(_largest(frame[frame.kept], len(frame))[["edge", "effect", "edge_minimality"]])
        _show(quality.summary().drop(columns=["edges", "of"]))
        written = keep(run, "circuit", frame, circuit_drawing)
        if checkpoints:
            rest = {k: v for k, v in options.items() if k != "step"}
            over = routes.circuit_over_checkpoints(run, quality.circuit, find, progress=True, **rest)
            print("the same circuit at the run's checkpoints")
            _show(over[["step", "gap", "faithfulness", "low", "high", "overlap"]])
            written += keep(run, "circuit_steps", over, circuit_curves)
        print("wrote " + ", ".join(map(str, written)))
    if len(found) > 1:
        print("overlap of the runs' circuits: edges in both among those in either")
        _show(routes.overlaps(found))
