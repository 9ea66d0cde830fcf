"""Is it the value that the stream carries, or the gradient through it? Either is cut, and the other kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from analysis.statistics.curves import over_seeds
from analysis.statistics.intervals import mean_interval
from experiments.studies.committed_results import Bundle
from experiments.studies.study import REFERENCE, Arm, Block, Experiment, Picture, Size, Study, only
from experiments.studies.times import (
    compared,
    metrics_picture,
    ratios_picture,
    row_of,
    sensitivity,
    verdict,
)
from experiments.studies.wording import interval, markdown, rows_of, speed_block, times_word
from figures.trainings.learning import PROGRESS, learning_curves, progress_measures
from figures.trainings.times import gradient_share_curves

CONTRASTS = (
    ("value", REFERENCE),
    ("value-stop", REFERENCE),
    ("value-stop", "value"),
    ("value-gradient-only", REFERENCE),
)

# --- what is trained --------------------------------------------------------------------------------------------------


def at_paper_size(size: Size) -> list[Arm]:
    """Return the runs at the paper's size."""
    from experiments.studies import schedules

    every = schedules.seeds(size, schedules.GRADIENT_SEEDS, 0)
    return [Arm(schedules.at_paper_size(v, seed)) for seed in every for v in schedules.GATES]


def small(size: Size) -> list[Arm]:
    """Return the runs of the small preset."""
    from experiments.runs.config import icl_run
    from experiments.studies.schedules import GATES, SMALL_GRADIENTS, seeds

    return [Arm(icl_run(v, "small", seed, SMALL_GRADIENTS)) for seed in seeds(size, 10, 3) for v in GATES]


PAPER = Experiment(
    "gradient-paper",
    at_paper_size,
    "Is it the value that the stream carries or its gradient, at the paper's size?",
    only(*CONTRASTS),
)
SMALL = Experiment(
    "gradient",
    small,
    "Is it the value that the stream carries or its gradient, in the small preset?",
    only(*CONTRASTS),
)

# --- what it says -----------------------------------------------------------------------------------------------------


def from_gradient(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """Return what the gradient through the stream adds: threshold, ratio (of value-stop to value), low, high,
    p_adjusted, and share: of the steps that the value stream saves, those that are lost where its gradient is cut.
    """
    table = sensitivity(bundle, (experiment,), ("interpolated",))
    pair = table.variant + " / " + table.reference
    whole, cut = (table[pair == of].reset_index() for of in (f"value / {REFERENCE}", "value-stop / value"))
    share = (cut.steps - cut.reference_steps) / (whole.reference_steps - whole.steps)
    return cut[["threshold", "ratio", "low", "high", "p_adjusted"]].assign(share=share)


def by_threshold(bundle: Bundle) -> str:
    """Return what cutting the gradient costs, at every threshold, in both presets."""
    rows = []
    for experiment in (PAPER, SMALL):
        table = rows_of(from_gradient(bundle, experiment))
        cells = {f"{r.threshold:.0%}": f"{interval(r.ratio, r.low, r.high, '.3f')}: {r.share:.0%}" for r in table}
        rows.append({"experiment": experiment.name} | cells)
    return markdown(pd.DataFrame(rows))


def shares(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """Return the stream's share of the gradient of layer 0's W_V over training: condition, variant, seed, run, step,
    value; not of classic, which has no stream.

    The share is |stream| / (|direct| + |stream|) of the norms; see :func:`analysis.split_gradient`.
    """
    rows = bundle.gradients(experiment.name)
    chosen = rows[(rows.tensor == "blocks.0.attn.W_V") & (rows.variant != REFERENCE)]
    chosen = chosen.rename(columns={"stream_share": "value"}).astype({"step": int})
    return chosen[["condition", "variant", "seed", "run", "step", "value"]]


def shares_table(experiment: Experiment, bundle: Bundle) -> str:
    """Return the shares at six steps, evenly spaced over those that most runs have."""
    found = shares(bundle, experiment)
    runs = found.groupby("step")["run"].nunique()
    steps = sorted(runs.index[runs == runs.max()])
    rows = []
    for variant, of_variant in found.groupby("variant", sort=False):
        row = {"variant": variant}
        for step in (steps[round(i * (len(steps) - 1) / 5)] for i in range(6)):
            mean = mean_interval(of_variant[of_variant.step == step]["value"].to_numpy(), scale="logit")
            row[f"step {step:,}"] = interval(mean.mean, mean.low, mean.high, ".2f") + f" ({mean.n})" if mean.n else "-"
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def paper_says(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    """Return what is suggested to be the cause, and what is found."""
    table = compared(bundle, PAPER)
    stop, cut = row_of(table, "value-stop", REFERENCE), row_of(table, "value-stop", "value")
    alone = row_of(table, "value-gradient-only", REFERENCE)
    needed = "not needed" if stop.p_adjusted < 0.05 and stop.ratio < 1 else "open"
    # How much of the speed-up the gradient adds at the thresholds at which it adds any that is clear.
    at = from_gradient(bundle, PAPER)
    clear = at[(at.p_adjusted < 0.05) & (at.ratio > 1)]
    adds = (
        "that the gradient adds anything is not shown at any threshold"
        if clear.empty
        else f"later at {clear.threshold.min():.0%} to {clear.threshold.max():.0%}, where the gradient adds "
        f"{clear.share.min():.0%} to {clear.share.max():.0%} of the speed-up"
    )
    return [
        ("the cause", "extra gradient (suggested)", f"gradient cut: {times_word(stop)} classic's steps", needed),
        ("", "", f"gradient cut: {times_word(cut)} value's steps", f"{verdict(cut)}; {adds}"),
        ("", "", f"gradient alone: {times_word(alone)} classic's steps", verdict(alone)),
    ]


def _shares_picture(name: str, experiment: Experiment) -> Picture:
    def arguments(bundle: Bundle) -> dict[str, Any]:
        return {"shares": over_seeds(shares(bundle, experiment), scale="logit")}

    return Picture(name, gradient_share_curves, arguments, (experiment,))


STUDY = Study(
    name="gradient",
    question="Is it the gradient?",
    experiments=(PAPER, SMALL),
    pictures=(
        metrics_picture("gradient_paper_curves", learning_curves, PAPER),
        metrics_picture("gradient_paper_progress", progress_measures, PAPER, PROGRESS),
        ratios_picture("gradient_paper_ratios", PAPER),
        _shares_picture("gradient_paper_shares", PAPER),
        metrics_picture("gradient_curves", learning_curves, SMALL),
        ratios_picture("gradient_ratios", SMALL),
        _shares_picture("gradient_shares", SMALL),
    ),
    blocks=(
        speed_block(PAPER),
        speed_block(SMALL),
        Block("gradient-by-threshold", by_threshold, "What the gradient adds", (PAPER, SMALL)),
        Block(
            "shares-paper",
            partial(shares_table, PAPER),
            "How much gradient comes through the stream, at the paper's size",
            (PAPER,),
        ),
        Block("shares", partial(shares_table, SMALL), "How much gradient comes through the stream", (SMALL,)),
    ),
    verdict=paper_says,
)
