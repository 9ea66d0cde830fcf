"""Which heads and routes do it, phase by phase of training, and in which circuit does it end?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.intervals import grouped_intervals
from circuits.common.text_table import markdown, rows_of
from experiments.studies import gradient
from experiments.studies.builders import AT_PAPER_SIZE, IN_SMALL
from experiments.studies.committed_results import Bundle
from experiments.studies.study import Arm, Asking, Block, Experiment, Picture, Size, Study
from figures.models.head_scores import head_scores
from figures.trainings.phases import PHASES, phases

PAIR = ("classic", "value")


def _mechanism(size: Size) -> list[Arm]:
    """Of the small preset, with checkpoints all the way."""
    from experiments.runs.config import TRAINING, icl_run
    from experiments.runs.training_config import Every
    from experiments.studies.schedules import seeds

    training = replace(TRAINING["small"], checkpoint_at=(Every(50),))
    return [Arm(icl_run(v, "small", seed, training)) for seed in seeds(size, 5, 1) for v in PAIR]


MECHANISM = Experiment("mechanism", _mechanism, "Which heads and routes do it?")
ASKED = (gradient.PAPER, MECHANISM)
"""Whose runs are asked: those that keep checkpoints."""


def ask(roots: Sequence[Path], size: Size = "full", n: int | None = None) -> dict[str, pd.DataFrame]:
    """Return :func:`experiments.studies.heads_and_routes.asking.study` of the finished runs in some directories, with
    ``n`` sequences or pairs a question (by default 256, in miniature 128)."""
    from experiments.runs.run import runs_in
    from experiments.studies.heads_and_routes.asking import study

    there = runs_in(roots, [arm.config for experiment in ASKED for arm in experiment.arms(size)])
    runs = [run for run in there if run.finished and len(run.checkpoints()) > 2]
    return study(runs, n or (256 if size == "full" else 128))


FRAMES = tuple(f"mechanism_{kind}" for kind in ("heads", "patches", "shares", "ablations", "edges", "circuits"))
WITHOUT: dict[str, tuple[str, str, str]] = {
    "without head L0H0": ("site", "head", "mean"),
    "its keys' path cut": ("edge", "L0H0 > L1H0.k (residual)", "mean"),
    "stream cut forward": ("site", "forward cut", "-"),
}
"""Columns of the table that are accuracies under an ablation: kind, part, method."""
RESTORED: dict[str, tuple[str, str]] = {
    "residual stream restored": ("resid_pre", "-"),
    "stream restored": ("v", "residual"),
    "both restored": ("state", "-"),
}
"""Columns that are normalised effects of patching before layer 1 at the right labels: component, route."""


def by_run(bundle: Bundle) -> pd.DataFrame:
    """Return one row a preset, variant, run and phase: step, accuracy whole and under the ablations of ``WITHOUT``, the
    patching effects of ``RESTORED``, and the faithfulness of the circuit found at the end.

    What a model does not have (a stream, say) is NaN, and so are effects before the transition, which would be shares
    of next to no difference.
    """
    ablated, patched = bundle.frame("mechanism_ablations"), bundle.frame("mechanism_patches")
    group = ["preset", "variant", "run", "phase"]
    columns = {name: ablated.groupby(group)[name].mean() for name in ("step", "accuracy")}
    for name, (what, part, method) in WITHOUT.items():
        chosen = ablated[(ablated.what == what) & (ablated.part == part) & (ablated.method == method)]
        first = chosen[chosen["layer"].astype(str).isin(["0", "all"])]
        columns[name] = first.groupby(group)["accuracy_ablated"].mean()
    at = patched[(patched.layer == 1) & (patched.position == "matching label") & (patched.phase != "before")]
    for name, (component, route) in RESTORED.items():
        columns[name] = at[(at.component == component) & (at.route == route)].groupby(group)["effect"].mean()
    columns["faithfulness"] = bundle.frame("mechanism_circuits").groupby(group)["faithfulness"].mean()
    table = pd.DataFrame(columns).reset_index()
    return table.assign(phase=pd.Categorical(table.phase, PHASES)).sort_values(group, ignore_index=True)


def by_phase(bundle: Bundle) -> pd.DataFrame:
    """Return one row a preset, variant and phase: runs (how many), and the means over them of :func:`by_run`."""
    table = by_run(bundle)
    of_group = table.groupby(["preset", "variant", "phase"], observed=True)
    means = of_group.mean(numeric_only=True)
    means.insert(0, "runs", of_group["run"].nunique())
    return means.reset_index()


def _phases_table(bundle: Bundle) -> str:
    table = by_phase(bundle)
    words = table.assign(step=table.step.map("{:,.0f}".format))
    for column in table.columns[5:]:
        words[column] = ["-" if np.isnan(x) else f"{x:.2f}" for x in table[column]]
    return markdown(words)


def circuits(bundle: Bundle) -> pd.DataFrame:
    """Return the edges of the circuits found at the runs' ends.

    Columns: preset, variant, edge, in how many runs' circuits it is (kept), of how many (runs), its mean effect and
    minimality, and the means over runs of the circuits' faithfulness, incompleteness and size (edges, of).
    """
    edges = bundle.frame("mechanism_edges")
    group = ["preset", "variant"]
    found = edges.groupby([*group, "edge"], sort=False).agg(
        kept=("kept", "sum"), runs=("run", "nunique"), effect=("effect", "mean"), minimality=("edge_minimality", "mean")
    )
    by_run = edges.drop_duplicates("run").groupby(group)[["faithfulness", "incompleteness", "edges", "of"]].mean()
    return found[found.kept > 0].reset_index().merge(by_run.reset_index(), on=group)


def _circuits_table(bundle: Bundle) -> str:
    rows = [
        {
            "preset": row.preset,
            "variant": row.variant,
            "edge": f"`{row.edge}`",
            "in circuits": f"{row.kept} of {row.runs}",
            "effect": f"{row.effect:.2f}",
            "minimality": "-" if np.isnan(row.minimality) else f"{row.minimality:.2f}",
            "circuits' faithfulness": f"{row.faithfulness:.2f}",
        }
        for row in rows_of(circuits(bundle))
    ]
    return markdown(pd.DataFrame(rows))


def _stream_share(bundle: Bundle) -> str:
    """How much of the answer comes by the stream after the transition and at the end, by preset."""
    patched = bundle.frame("mechanism_patches")
    at = patched[(patched.layer == 1) & (patched.position == "matching label") & (patched.variant == "value")]
    at = at[(at.component == "v") & (at.route == "residual")]
    parts = []
    for preset, rows in at.groupby("preset", observed=True):
        after, end = (rows[rows.phase == phase].effect for phase in ("after", "end"))
        seeds = f"{len(end)} seeds, {end.min():.2f} to {end.max():.2f}"
        parts.append(
            f"{preset} preset {after.mean():.2f} after the transition and {end.mean():.2f} at the end ({seeds})"
        )
    return "Restored by the stream alone, of the logit difference: " + "; ".join(parts) + "."


_ROUTES = {
    "whole": "every route",
    "without head L0H0": "head",
    "its keys' path cut": "residual",
    "stream cut forward": "stream",
    "residual stream restored": "residual",
    "stream restored": "stream",
    "both restored": "every route",
}
"""What every curve of the figure is of, by which it has its colour."""


def routes_by_phase(bundle: Bundle) -> pd.DataFrame:
    """Return :func:`by_run` of classic and value as :func:`figures.phases` takes it, a row a number, with its interval
    over the runs; accuracies have intervals between 0 and 1."""
    table = by_run(bundle).rename(columns={"accuracy": "whole"})
    ids = ["preset", "variant", "run", "phase"]
    wide = table[table.variant.isin(PAIR)][[*ids, *_ROUTES]]
    frame = wide.melt(id_vars=ids, var_name="what").dropna(subset="value")
    restored = frame.what.isin(list(RESTORED))
    frame = frame.assign(measure=np.where(restored, "restored", "accuracy"), route=frame.what.map(_ROUTES))
    by = ["preset", "variant", "phase", "measure", "what"]
    return frame.merge(grouped_intervals(frame, by, scale=None), on=by)


def _phases(bundle: Bundle) -> dict[str, Any]:
    frame = routes_by_phase(bundle)
    words = {"paper": "paper's size", "small": "small preset"}
    return {"frame": frame, "runs": sorted(frame.run.unique()), "of": "in-context classification", "words": words}


def _heads(bundle: Bundle) -> dict[str, Any]:
    """Of the first seed's classic and value runs of the largest preset that there is."""
    heads = bundle.frame("mechanism_heads")
    preset = "paper" if (heads.preset == "paper").any() else "small"
    shown = heads.variant.isin(PAIR) & heads.score.isin(("previous token", "ila", "tila", "tla"))
    of = AT_PAPER_SIZE if preset == "paper" else IN_SMALL
    return {"frame": heads[shown & (heads.preset == preset) & (heads.seed == 0)], "of": f"{of}; seed 0"}


STUDY = Study(
    name="heads_and_routes",
    question=MECHANISM.asks,
    experiments=(MECHANISM,),
    asking=Asking(FRAMES, ask, ASKED),
    pictures=(
        Picture("mechanism_phases", phases, _phases, (), ("mechanism_ablations", "mechanism_patches")),
        Picture("mechanism_heads", head_scores, _heads, (), ("mechanism_heads",)),
    ),
    blocks=(
        Block("mechanism", _phases_table, MECHANISM.asks, (MECHANISM,)),
        Block("stream-share", _stream_share, "How much comes by the stream", (MECHANISM,)),
        Block("circuits", _circuits_table, "The circuits at the end", (MECHANISM,)),
    ),
)
