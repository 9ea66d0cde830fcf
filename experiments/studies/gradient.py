"""Is it the value that the stream carries, or the gradient through it? Either is cut, and the other kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from analysis.statistics.curves import over_seeds
from analysis.statistics.intervals import mean_interval
from circuits.common.text_table import interval, markdown, rows_of
from experiments.studies.builders import AT_PAPER_SIZE, IN_SMALL, at_paper_size, in_small
from experiments.studies.committed_results import Bundle
from experiments.studies.pictures import curves_picture, on_novel_classes, picture_of, ratios_picture, together
from experiments.studies.study import REFERENCE, Block, Experiment, Picture, Study, only
from experiments.studies.times import compared, row_of, sensitivity, verdict
from experiments.studies.wording import speed_block, times_word
from figures.trainings.progress import PROGRESS, progress_measures
from figures.trainings.times import gradient_share_curves

GATES = (REFERENCE, "value", "value-stop", "value-gradient-only")
CONTRASTS = (
    *(("value", REFERENCE), ("value-stop", REFERENCE), ("value-stop", "value")),
    ("value-gradient-only", REFERENCE),
)
_ASKS = "Is it the value that the stream carries or its gradient"
PAPER = Experiment(
    "gradient-paper", at_paper_size(GATES, 5), f"{_ASKS}, at the paper's size?", only(*CONTRASTS), of=AT_PAPER_SIZE
)
SMALL = Experiment("gradient", in_small(GATES, 10, 3), f"{_ASKS}, in the small preset?", only(*CONTRASTS), of=IN_SMALL)


def from_gradient(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """Return what the gradient through the stream adds: threshold, ratio (of value-stop to value), low, high,
    p_adjusted, and share: of the steps that the value stream saves, those that are lost where its gradient is cut.
    """
    table = sensitivity(bundle, (experiment,), ("interpolated",))
    pair = table.variant + " / " + table.reference
    whole, cut = (table[pair == of].reset_index() for of in (f"value / {REFERENCE}", "value-stop / value"))
    share = (cut.steps - cut.reference_steps) / (whole.reference_steps - whole.steps)
    return cut[["threshold", "ratio", "low", "high", "p_adjusted"]].assign(share=share)


def _by_threshold(bundle: Bundle) -> str:
    """What cutting the gradient costs, at every threshold, in both presets."""
    rows = []
    for experiment in (PAPER, SMALL):
        table = rows_of(from_gradient(bundle, experiment))
        cells = {f"{r.threshold:.0%}": f"{interval(r.ratio, r.low, r.high, '.3f')}: {r.share:.0%}" for r in table}
        rows.append({"experiment": experiment.name} | cells)
    return markdown(pd.DataFrame(rows))


def _summary(bundle: Bundle) -> str:
    """The answer in four lines, at both sizes."""
    columns = {"the paper's size": PAPER, "small preset": SMALL}
    rows = []
    for asked, variant in (
        ("with the stream (value)", "value"),
        ("its gradient cut, its values kept (value-stop)", "value-stop"),
        ("its values cut, its gradient kept (value-gradient-only)", "value-gradient-only"),
    ):
        found = {name: row_of(compared(bundle, of), variant, REFERENCE) for name, of in columns.items()}
        cells = {name: interval(r.ratio, r.low, r.high, ".2f") for name, r in found.items()}
        rows.append({"steps, as a multiple of those without a stream": asked} | cells)
    lost: dict[str, str] = {}
    for name, of in columns.items():
        clear = from_gradient(bundle, of).query("p_adjusted < 0.05 and ratio > 1")
        if len(clear):
            share, at = (f"{part.min():.0%} to {part.max():.0%}" for part in (clear.share, clear.threshold))
            lost[name] = f"{share} (at {at} accuracy)"
    rows.append(
        {"steps, as a multiple of those without a stream": "share of the speed-up that the gradient adds"} | lost
    )
    return markdown(pd.DataFrame(rows).fillna("not shown"))


def _shares(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """The stream's share of the gradient of layer 0's W_V (see :func:`analysis.split_gradient`), where there is one."""
    rows = bundle.gradients(experiment.name)
    chosen = rows[(rows.tensor == "blocks.0.attn.W_V") & (rows.variant != REFERENCE)]
    chosen = chosen.rename(columns={"stream_share": "value"}).astype({"step": int})
    return chosen[["condition", "variant", "seed", "run", "stopped", "step", "value"]]


def _shares_table(experiment: Experiment, bundle: Bundle) -> str:
    """The shares at six steps, evenly spaced over those that most runs have."""
    found = _shares(bundle, experiment)
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


def _paper_says(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    """What is suggested to be the cause, and what is found."""
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
        shares = over_seeds(together(bundle, experiment, _shares(bundle, experiment)), scale="logit")
        return {"shares": shares, "of": experiment.of, "weight": "layer 0's W_V"}

    return Picture(name, gradient_share_curves, arguments, (experiment,))


STUDY = Study(
    name="gradient",
    question="Is it the gradient?",
    experiments=(PAPER, SMALL),
    pictures=(
        curves_picture("gradient_paper_curves", PAPER),
        picture_of("gradient_paper_progress", progress_measures, PAPER, partial(on_novel_classes, measures=PROGRESS)),
        ratios_picture("gradient_paper_ratios", PAPER),
        _shares_picture("gradient_paper_shares", PAPER),
        curves_picture("gradient_curves", SMALL),
        ratios_picture("gradient_ratios", SMALL),
        _shares_picture("gradient_shares", SMALL),
    ),
    blocks=(
        speed_block(PAPER),
        speed_block(SMALL),
        Block("summary", _summary, "The answer in short", (PAPER, SMALL)),
        Block("gradient-by-threshold", _by_threshold, "What the gradient adds", (PAPER, SMALL)),
        Block(
            "shares-paper",
            partial(_shares_table, PAPER),
            "How much gradient comes through the stream, at the paper's size",
            (PAPER,),
        ),
        Block("shares", partial(_shares_table, SMALL), "How much gradient comes through the stream", (SMALL,)),
    ),
    verdict=_paper_says,
)
