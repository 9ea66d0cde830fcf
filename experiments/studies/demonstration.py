"""The demonstration: four variants, a few seeds, and what they say about information and gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import over_seeds, threshold_table, threshold_times
from circuits.common.errors import known
from experiments.questions.ablate import Ablate
from experiments.questions.attribute import Attribute
from experiments.questions.gradients import Gradients
from experiments.questions.heads import Heads
from experiments.questions.patch import Patch
from experiments.questions.question import Question
from experiments.runs.config import TRAINING, icl_run
from experiments.runs.pooling import all_metrics, labelled
from experiments.runs.run import Run
from experiments.runs.training_config import At, Every, TrainingConfig
from experiments.sweeps.sweep import sweep
from figures import html_page
from figures.files import write_figure
from figures.images import write_images
from figures.models.ablation import ablation_bars
from figures.models.edges import edge_drawing
from figures.models.gradients import gradient_shares
from figures.models.patching import patch_heat_map
from figures.trainings.learning import head_scores, learning_curves, progress_measures

VARIANTS = ("classic", "value", "value-stop", "value-gradient-only")
THRESHOLD = 0.95
TITLE = "Is it the information, or the gradient?"
LEAD = (
    "Two-layer transformers learn to classify in context, with and without a residual values stream, and with the "
    "stream cut for the forward value or for the gradient alone."
)


@dataclass(frozen=True)
class Size:
    """How much a demonstration does."""

    seeds: int
    training: TrainingConfig
    pairs: int
    sequences: int


SIZES: dict[str, Size] = {
    "standard": Size(seeds=3, training=TRAINING["small"], pairs=128, sequences=512),
    "smallest": Size(
        seeds=2,
        training=replace(
            TRAINING["small"], steps=900, evaluate_at=(Every(50),), checkpoint_at=(At((0, 450)),), n_eval=256
        ),
        pairs=16,
        sequences=64,
    ),
}
"""``smallest`` shows that everything runs; it trains too little to show more."""


@dataclass(frozen=True)
class Findings:
    """What a demonstration found, as frames."""

    runs: list[Run]
    metrics: pd.DataFrame
    table: pd.DataFrame
    heads: pd.DataFrame
    patches: pd.DataFrame
    edges: pd.DataFrame
    ablations: pd.DataFrame
    gradients: pd.DataFrame


def demo(
    size: str = "standard",
    root: str | Path = "runs",
    out: str | Path = "demo",
    progress: bool = True,
    images: bool = False,
) -> Path:
    """Train, ask and draw; print the table of steps to 95 % and return the path of the page.

    Raises:
        UnknownNameError: for an unknown size.
        RuntimeError: if ``images`` (PNG and SVG) are wanted and cannot be drawn here; the page is there all the same.
        RunError: as :func:`experiments.sweeps.sweep.sweep`.
    """
    found = find(SIZES[known("size", size, SIZES)], root, progress)
    print(printable(found.table).to_string(index=False))
    for sentence in sentences(found):
        print(f"- {sentence}")
    return write_page(found, Path(out), images)


def find(size: Size, root: str | Path, progress: bool = True) -> Findings:
    """Train what is not trained yet, and ask everything of the first seed's runs and of all learning curves."""
    configs = [icl_run(v, "small", seed, size.training) for seed in range(size.seeds) for v in VARIANTS]
    runs = sweep(configs, root, progress=progress)
    first = [run for run in runs if run.config.seed == 0]
    two = [run for run in first if run.config.variant in ("classic", "value")]
    metrics = all_metrics(runs)
    return Findings(
        runs=runs,
        metrics=metrics,
        table=threshold_table(threshold_times(metrics, THRESHOLD)),
        heads=_together(Heads(n=size.sequences), two),
        patches=_together(Patch(n=size.pairs), two),
        edges=_together(Attribute(n=size.pairs), two),
        ablations=_together(Ablate(n=size.sequences), two),
        gradients=_together(Gradients(n=size.sequences), [r for r in first if r.config.variant != "classic"]),
    )


def _together(question: Question, runs: Sequence[Run]) -> pd.DataFrame:
    return pd.concat([labelled(question.ask(run).to_frame(), run) for run in runs], ignore_index=True)


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of steps to the threshold in words."""
    rows = []
    for row in table.to_dict("records"):
        censored = "" if row["reached"] == row["runs"] else f" ({row['reached']} of {row['runs']} runs)"
        steps = _interval(row, "steps", ".0f") + censored
        said = {"variant": row["variant"], f"steps to {THRESHOLD:.0%}": steps}
        rows.append(said | {"ratio to classic, paired": _interval(row, "ratio", ".2f"), "seeds": row["runs"]})
    return pd.DataFrame(rows)


def _interval(row: dict[Any, Any], name: str, form: str) -> str:
    mean, low, high = (row[column] for column in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(mean):
        return "-"
    return f"{mean:{form}}" if pd.isna(low) else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def sentences(found: Findings) -> list[str]:
    """Return what the frames say, one sentence each, with every number from the frames."""
    return [*_speed(found), _heads(found), _routes(found), _broken(found), _shares(found)]


def _speed(found: Findings) -> list[str]:
    rows = {row["variant"]: row for row in found.table.to_dict("records")}
    classic, value, stop, alone = (rows[v] for v in ("classic", "value", "value-stop", "value-gradient-only"))
    if pd.isna(value["ratio"]):
        first = (
            f"Too few runs reached {THRESHOLD:.0%} to compare classic ({classic['reached']} of {classic['runs']}) with "
            f"value ({value['reached']} of {value['runs']})."
        )
    else:
        first = (
            f"With the residual values stream, {THRESHOLD:.0%} in-context accuracy comes after {value['steps']:.0f} "
            f"steps, without it after {classic['steps']:.0f}: {_interval(value, 'ratio', '.2f')} times as many, paired "
            f"over {value['pairs']} seeds."
        )
    if pd.isna(stop["ratio"]) or pd.isna(alone["ratio"]):
        return [first]
    cause = (
        f"With the stream's gradient cut and its forward value kept it takes {_interval(stop, 'ratio', '.2f')} times "
        f"as many steps as classic; with the gradient kept and the forward value cut, "
        f"{_interval(alone, 'ratio', '.2f')} times. (A ratio of 1 is no effect.)"
    )
    return [first, cause]


def _heads(found: Findings) -> str:
    last = found.heads[found.heads.step == found.heads.groupby("run")["step"].transform("max")]
    parts = []
    for variant, rows in last.groupby("variant", sort=False):
        best = [rows[rows.score == score].sort_values("value").iloc[-1] for score in ("ila", "tila")]
        parts.append(
            f"in {variant}, head L{best[0].layer}H{best[0]['head']} attends from a label to its item with "
            f"{best[0].value:.2f} and head L{best[1].layer}H{best[1]['head']} from the target to the right labels with "
            f"{best[1].value:.2f}"
        )
    return "At the end, " + "; ".join(parts) + "."


def _routes(found: Findings) -> str:
    def effect(variant: str, component: str, route: str, layer: int) -> float:
        f = found.patches
        chosen = f[(f.variant == variant) & (f.component == component) & (f.route == route) & (f.layer == layer)]
        return float(chosen[chosen.position == "matching label"].effect.iloc[0])

    return (
        f"Labels swapped in the context, then restored at the right label: patching the residual stream before layer 1 "
        f"restores {effect('classic', 'resid_pre', '-', 1):.0%} of the logit difference in classic but only "
        f"{effect('value', 'resid_pre', '-', 1):.0%} in value, where the stream alone carries "
        f"{effect('value', 'v', 'residual', 1):.0%} and both together {effect('value', 'state', '-', 1):.0%}."
    )


def _broken(found: Findings) -> str:
    rows = found.ablations[found.ablations.variant == "value"].set_index("part")
    forward, gradient = rows.loc["forward cut"], rows.loc["gradient cut"]
    return (
        f"Cutting the stream forward takes the trained value model from {forward.accuracy:.1%} to "
        f"{forward.accuracy_ablated:.1%}; cutting only its gradient leaves {gradient.accuracy_ablated:.1%} and turns "
        f"the loss gradient to a cosine of {gradient.gradient_cosine:.3f} with the whole."
    )


def _shares(found: Findings) -> str:
    rows = found.gradients
    of_values = rows[(rows.variant == "value") & (rows.tensor == "blocks.0.attn.W_V")].sort_values("step")
    first, last = of_values.iloc[0], of_values.iloc[-1]
    return (
        f"Of the gradient of layer 0's W_V, the share that came through the stream is {first.stream_share:.0%} at step "
        f"{first.step} and {last.stream_share:.0%} at step {last.step}."
    )


def write_page(found: Findings, out: Path, images: bool = False) -> Path:
    """Write the figures (JSON and HTML) and the page that holds them all, and return the page's path."""
    metrics = over_seeds(found.metrics[found.metrics.split == "ic"])
    figures = {
        "learning_curves": ("Which comes first", learning_curves(metrics)),
        "progress_measures": ("By which progress", progress_measures(metrics)),
        "head_scores": ("Which heads do it", head_scores(found.heads)),
        "patching": ("By which route", patch_heat_map(found.patches)),
        "edges": ("By which edges", edge_drawing(found.edges)),
        "ablation": ("What breaks", ablation_bars(found.ablations)),
        "gradient_shares": ("Where the gradient came from", gradient_shares(found.gradients)),
    }
    drawn = {name: figure for name, (_, figure) in figures.items()}
    for name, figure in drawn.items():
        write_figure(figure, out / name)
    sections = [
        {"heading": "What was found", "text": sentences(found), "table": printable(found.table)},
        *({"heading": heading, "figure": figure} for heading, figure in figures.values()),
        {"heading": "The models", "code": "\n\n".join(str(r.load_model()) for r in found.runs if r.config.seed == 0)},
    ]
    made = found.runs[0].record["environment"]
    git = (made["git"] or {}).get("commit", "unknown")[:10]
    runs = ", ".join(run.path.name for run in found.runs)
    footer = f"valuestream {made['valuestream']} at {git}, torch {made['torch']}. Runs: {runs}."
    page = html_page.write_page(out / "index.html", TITLE, LEAD, sections, footer)
    if images:
        write_images(drawn, out)
    return page
