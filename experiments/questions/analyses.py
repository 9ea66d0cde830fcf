"""Questions to a run: the functions of ``analysis`` on its task and its checkpoints, each a tidy frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
from tqdm.auto import tqdm

from analysis import ablate, find_sites, patch, standard_ablations
from analysis.ablation import Method
from analysis.compared_runs import Direction
from analysis.gradients.shares import By
from analysis.gradients.split import GradientSplit
from analysis.patching.patch import PatchResult
from analysis.patching.site_search import Patched
from circuits.common.errors import require
from circuits.interventions.intervention import FromRun
from circuits.model import HookedStreamTransformer
from experiments.questions.head_scores import scored, scored_prompts
from experiments.runs.finding import pairs, questioner, sequences
from experiments.runs.pooling import require_seeds
from experiments.runs.run import Run
from figures.files import write_figure

PATCHED = ("state", "resid_pre", "q", "k", "v", "z")


def patched_sites(
    model: HookedStreamTransformer,
    components: Sequence[str] = PATCHED,
    routes: Sequence[str] | None = None,
    heads: Literal["all", "each"] = "all",
    positions: Sequence[int | str] = (),
    together: Sequence[str] = (),
) -> list[Patched]:
    """Return the sites of a patch sweep: layers x components x routes x position roles.

    What ``together`` names (``resid_pre``, ``v.residual``) is patched at once too, in every layer that has all of it.

    ``positions`` are the roles of the pair that is patched.

    Raises:
        UnknownNameError: for a component or route that the model has nowhere.
        ValueError: if no layer has all that is to be patched together.
    """
    sites = find_sites(model, components, routes, heads=heads, positions=positions)
    return [*sites, *(_joint_sites(model, together, positions) if together else [])]


def _joint_sites(
    model: HookedStreamTransformer, together: Sequence[str], positions: Sequence[int | str]
) -> list[Patched]:
    parts = [name.partition(".") for name in together]
    of = [find_sites(model, [name], [route] if route else ["own"], positions=positions) for name, _, route in parts]
    places: list[list[tuple[int, int | str | None]]] = [[(site.layer, site.position) for site in sites] for sites in of]
    joint: list[Patched] = [
        tuple(sites[at.index(place)] for sites, at in zip(of, places, strict=True))
        for place in places[0]
        if all(place in at for at in places)
    ]
    require(bool(joint), f"no layer of this model ({model.config.name}) has all of {', '.join(together)}")
    return joint


def patch_run(
    run: Run,
    n: int = 128,
    corruption: str | None = None,
    metric: str = "logit_difference",
    direction: Direction = "denoise",
    step: int = -1,
    max_memory: int | None = None,
    progress: bool = False,
    **which: Any,
) -> PatchResult:
    """Return the patch sweep of a run's model over ``n`` pairs; ``which`` goes to :func:`patched_sites`.

    Raises:
        RunError: if there is no checkpoint at ``step``.
        ValueError: as :func:`analysis.patch`.
    """
    model, pair = run.load_model(step), pairs(run, n, corruption)
    sites = patched_sites(model, **{"positions": list(pair.positions), **which})
    return patch(model, pair, sites, metric, direction, max_memory, progress)


def heads_run(
    run: Run,
    n: int = 256,
    split: str | None = None,
    progress: bool = False,
    checkpoints: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return the head scores of the checkpoints of a run, all or those at some steps: step, and the columns of
    :func:`experiments.questions.head_scores.scored`.

    Raises:
        UnknownNameError: for an unknown split (nearest suggested).
    """
    if not run.config.of_tokens:
        task = run.task()
        batch = task.sample(n, split or "ic", seed=1)
        return _over_checkpoints(run, lambda model: scored(model, task, batch), progress, checkpoints)
    asker = questioner(run)
    pair = asker.pairs(n, seed=1, **({} if split is None else {"split": split}))
    scores = asker.head_scores(pair)
    return _over_checkpoints(run, lambda model: scored_prompts(model, scores, pair), progress, checkpoints)


def ablate_run(
    run: Run,
    n: int = 512,
    split: str | None = None,
    step: int = -1,
    methods: Sequence[Method] = ("zero", "mean"),
    other: Run | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Return every standard ablation of a run's model on ``n`` sequences of a split.

    By each of the methods, and by what the last model of an ``other`` run has in its place on the same sequences.

    Raises:
        ValueError: for an ``other`` run that is this one, or whose classes and labels are others.
    """
    models = {}
    if other is not None:
        check_other(run, other)
        models, methods = {other.path.name: other.load_model()}, [*methods, FromRun(other.path.name)]
    model, asked = run.load_model(step), sequences(run, n, split)
    wanted = standard_ablations(model, methods)
    # A stream behind a closed gate is nothing already; the column ``changed`` says so.
    rest: dict[str, Any] = {"models": models, "allow_nothing": True, "progress": progress}
    return ablate(model, asked, wanted, **rest)


def check_other(run: Run, other: Run) -> None:
    """Refuse another run whose activations cannot stand in the place of a run's.

    Raises:
        ValueError: if it is the run itself, or has other classes and labels.
    """
    require(other.path != run.path, f"{other.path.name} is the run itself; name another one")
    require(
        (other.config.task, other.config.seed) == (run.config.task, run.config.seed),
        f"{other.path.name} has other classes and labels, or texts, than {run.path.name}: they are drawn from the task "
        f"and the seed; name a run with the task of this one and seed {run.config.seed}",
    )


def gradients_run(
    run: Run, n: int = 256, split: str = "train", progress: bool = False, activations: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the split by route of the loss's gradient at every checkpoint: step, tensor, head, norms, shares, cosines.

    The tensors are the parameters, and the activations at the hook points named.
    """
    return _over_checkpoints(run, lambda model: _split(run, model, n, split, activations).to_frame(), progress)


def gradient_pairs_run(
    run: Run, n: int = 256, split: str = "train", progress: bool = False, activations: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the stream's share of the loss's gradient at every checkpoint by the layer pair that it crossed.

    Raises:
        ValueError: for a run of a model without a stream.
    """
    return _over_checkpoints(
        run, lambda model: _split(run, model, n, split, activations, "pair").pairs_to_frame(), progress
    )


def _split(
    run: Run, model: HookedStreamTransformer, n: int, split: str, activations: Sequence[str], by: By = "total"
) -> GradientSplit:
    task = run.task()
    return task.split_gradient(model, task.held_out(n, split), activations, by)


def _over_checkpoints(run: Run, ask: Any, progress: bool, steps: Sequence[int] | None = None) -> pd.DataFrame:
    steps = run.checkpoints() if steps is None else steps
    shown = tqdm(steps, unit=" checkpoints", disable=not progress, leave=False, delay=2)
    frames = [ask(run.load_model(step)).assign(step=step) for step in shown]
    return pd.concat(frames, ignore_index=True)


def labelled(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return a frame that says which run, variant and seed it is of."""
    return frame.assign(run=run.path.name, variant=run.config.variant, seed=run.config.seed)


def all_metrics(runs: Iterable[Run]) -> pd.DataFrame:
    """Return the metrics of several runs, with columns run, variant, seed, step, split, measure, value.

    Raises:
        ValueError: for runs that are no seeds of their variants (:func:`experiments.runs.pooling.require_seeds`).
    """
    runs = list(runs)
    require_seeds(runs)
    return pd.concat([labelled(run.metrics(), run) for run in runs], ignore_index=True)


def beside(frame: pd.DataFrame) -> str:
    """Return in words what a frame's effects are shares of: the metric of both runs, the model's accuracy, n."""
    first = frame.iloc[0]
    return (
        f"{first.metric}: clean {first.clean:.4g}, corrupt {first.corrupt:.4g}; accuracy on the clean side "
        f"{first.accuracy:.3g}, n = {first.n}"
    )


def keep(run: Run, analysis: str, frame: pd.DataFrame, draw: Callable[[pd.DataFrame], go.Figure]) -> list[Path]:
    """Write a result of a run, tidy and drawn (``results/<analysis>.parquet``, ``.json``, ``.html``); return paths."""
    frame = labelled(frame, run)
    # Drawn before anything is written, so that no half of a result can stand there.
    figure = draw(frame)
    parquet = run.write_result(analysis, frame)
    return [parquet, *write_figure(figure, parquet.with_suffix(""), shared=run.path.parent)]
