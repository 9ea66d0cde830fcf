"""The route switchboard of runs: what every edge does at every checkpoint, live in a notebook and as a page."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from analysis.attribution.of_edges import EdgeScores
from analysis.circuit.quality import Quality
from analysis.edges.switched import EdgeSwitch
from analysis.gap import WeakPairWarning
from analysis.pairs import Pair
from analysis.resuming import code_hash, pair_identity
from analysis.switchboard.document import Switchboard, assembled, chosen_edges, of_edges
from analysis.switchboard.measured import measured
from analysis.switchboard.prompts import prompt_of, prompts_of
from circuits.common.errors import known, require, whole
from circuits.common.files import path_of, written_file
from circuits.common.plain_data import content_hash
from circuits.model import HookedStreamTransformer
from experiments.devices import one_thread
from experiments.runs.pooling import require_once
from experiments.runs.run import Run
from figures.explore.page import FORMAT

FOLDER = "switchboard"
"""In a run's results: what was measured, a file a checkpoint, read where it is asked for again."""


def explore(
    what: Run | Sequence[Run] | EdgeScores | Quality | Switchboard,
    *,
    pair: Pair | None = None,
    n: int = 32,
    corruption: str | None = None,
    metric: str = "logit_difference",
    prompts: int = 3,
    most_steps: int = 20,
    gradients: bool = True,
    max_memory: int | None = None,
    progress: bool = True,
) -> Switchboard:
    """Return the route switchboard of a run, of a run and its other seeds, or of a result that has edges.

    In a notebook it is live: click a head for its pattern, an edge to cut or gate it; ``write(path)`` makes a page that
    needs no kernel. It is asked ``n`` pairs of each run's task (or ``pair``), at ``most_steps`` checkpoints from the
    first to the last, and shows ``prompts`` of them. ``gradients`` compares the loss's gradient with and without every
    edge, a pass forward and backward each. What was measured is kept in the run's directory, checkpoint by checkpoint.
    Pairs that a run does not tell apart at its last step are told in a :class:`analysis.WeakPairWarning`.

    Raises:
        ValueError: for runs of different architectures or tasks, one run twice, a run without checkpoints, and as
            :func:`analysis.switchboard.measured.measured`.
    """
    if isinstance(what, (EdgeScores, Quality)):
        return of_edges(what)
    if isinstance(what, Switchboard):
        return what
    runs = [what] if isinstance(what, Run) else list(what)
    require(bool(runs), "there is no run to explore; name one, as in explore(Run.find('icl-value'))")
    first = runs[0]
    _check_alike(runs)
    n = whole("n", n)
    asked = pair or _pairs(first, n, corruption)
    prompts = min(whole("prompts", prompts, least=0), len(asked))
    model = first.load_model()
    edges = chosen_edges(model, asked, metric)
    how: dict[str, Any] = {"metric": metric, "edges": edges, "gradients": gradients, "max_memory": max_memory}
    found = []
    for run in runs:
        steps = spread_out(run.checkpoints(), whole("most_steps", most_steps))
        require(
            bool(steps), f"{run.path.name} has no checkpoint; train it with checkpoints (TrainingConfig.checkpoint_at)"
        )
        # Of other seeds, effects alone are drawn.
        of_run = how | ({"prompts": prompts} if run is first else {"prompts": 0, "gradients": False})
        shown = tqdm(steps, desc=run.path.name, unit=" checkpoints", disable=not progress, leave=False, delay=2)
        # The classes and labels of another seed are others.
        theirs = asked if pair or run is first else _pairs(run, n, corruption)
        last = steps[-1] if run is first else None
        by_step = {step: _at(run, step, theirs, {**of_run, "gates": step == last}) for step in shown}
        found.append((run.path.name, run.config.seed, by_step))
    board = assembled(
        _about(first, asked, metric, pair is None), model, edges, found, metric, prompts_of(asked, prompts)
    )
    for name, said in board.warnings().items():
        for sentence in said:
            warnings.warn(sentence if len(runs) == 1 else f"{sentence} ({name})", WeakPairWarning, stacklevel=2)
    return LiveSwitchboard(board.document, first, asked, metric, max_memory)


@dataclass(frozen=True, repr=False, eq=False)
class LiveSwitchboard(Switchboard):
    """A switchboard with its run at hand, which answers what the widget asks."""

    run: Run
    pair: Pair
    metric: str
    max_memory: int | None = None
    model: Callable[[int], HookedStreamTransformer] = field(init=False)
    """The model at a step; the last ones are at hand."""
    switch: Callable[[int], EdgeSwitch] = field(init=False)
    """The model at a step, ready to have edges changed."""

    def __post_init__(self) -> None:
        @lru_cache(maxsize=2)
        def switch(step: int) -> EdgeSwitch:
            return EdgeSwitch(self.model(step), self.pair, self.metric, max_memory=self.max_memory)

        object.__setattr__(self, "model", lru_cache(maxsize=2)(self.run.load_model))
        object.__setattr__(self, "switch", switch)

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the widget asks for: of ``changes`` (edge to cut, stop or gradient-only) at a ``step`` metric,
        effect, accuracy, loss and cosine; of a ``prompt`` (``text``) what the model does on it.

        Raises:
            UnknownNameError: for another question, an edge or a change that does not exist.
            ValueError: for a text in words that the model does not have.
        """
        kind = known("question", str(asked.get("ask")), ("changes", "prompt"))
        step = int(asked["step"])
        if kind == "prompt":
            return {"prompt": prompt_of(self.model(step), str(asked["text"])) | {"steps": [step]}}
        with one_thread():
            left = self.switch(step).changed(asked["changes"])
        numbers = {"metric": left.metric, "effect": left.effect, "accuracy": left.accuracy, "loss": left.loss}
        return numbers | {"cosine": left.gradient_cosine}

    def widget(self) -> Any:
        """Return the live widget (anywidget: Jupyter, VS Code, Colab, marimo).

        Raises:
            ImportError: without anywidget, saying what to install.
        """
        from figures.explore.widget import switchboard_widget

        return switchboard_widget(self.document, self.answer)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        try:
            shown: Any = self.widget()
        except ImportError:
            return {}
        found = shown._repr_mimebundle_()
        bundle = found[0] if isinstance(found, tuple) else found or {}
        # In text, what was found says more than the widget's name.
        return {kind: shown for kind, shown in bundle.items() if kind != "text/plain"}

    def show(self) -> None:
        """Display the live widget; outside of a notebook, print the finding and the largest effects."""
        from circuits.common.screen import in_notebook

        if in_notebook():
            from IPython.display import display

            display(self.widget())
        else:
            super().show()


def _pairs(run: Run, n: int, corruption: str | None) -> Pair:
    task = run.asker()
    return task.pairs(n, corruption or next(iter(task.corruptions)))


def spread_out(steps: Sequence[int], most: int) -> list[int]:
    """Return at most so many of some steps, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    chosen = np.linspace(0, len(steps) - 1, most).round().astype(int) if most > 1 else [-1]
    return [steps[i] for i in chosen]


def _check_alike(runs: Sequence[Run]) -> None:
    require_once(runs)
    first = runs[0]
    for other in runs[1:]:
        require(
            other.config.model == first.config.model and other.config.task == first.config.task,
            f"{other.path.name} has another architecture or task than {first.path.name}, so their edges are no "
            f"counterparts; explore it by itself",
        )


def _at(run: Run, step: int, pair: Pair, how: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured of a run at a step, or was."""
    about = {"format": FORMAT, "code": code_hash("circuits", "analysis"), "pair": pair_identity(pair)}
    about |= {"checkpoint": run.record["checkpoints"][str(step)]}
    key = content_hash(about | {name: value for name, value in how.items() if name != "max_memory"})
    file = run.path / "results" / FOLDER / f"step_{step:08d}-{key[:16]}.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        # Not measured yet, or what stands there is damaged.
        pass
    with one_thread():
        found = measured(run.load_model(step), pair, **how)
    written_file("what was measured", file, json.dumps(found, allow_nan=False).encode())
    return found


def _about(run: Run, pair: Pair, metric: str, of_task: bool) -> dict[str, Any]:
    config = run.config
    facts = [("variant", config.variant), ("task", config.task_name), ("seed", config.seed)]
    facts += [("pairs", f"{len(pair)} {'of the task' if of_task else 'given'}"), ("metric", metric)]
    return {"title": run.path.name, "facts": facts}


def write_neuronpedia(board: Switchboard, path: str | Path, step: int | None = None) -> Path:
    """Write one step of a switchboard as neuronpedia's page reads it, and return the file's path."""
    from analysis.switchboard.neuronpedia import neuronpedia_graph

    file = path_of("a graph's file", path)
    return written_file("a graph's file", file, json.dumps(neuronpedia_graph(board, step), allow_nan=False).encode())
