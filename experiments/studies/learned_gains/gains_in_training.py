"""Does a learned gain follow what the route does while a model learns? In the classifier, as declared beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics.intervals import grouped_intervals, mean_interval
from circuits.common.text_table import markdown
from experiments.studies.builders import IN_SMALL
from experiments.studies.committed_results import Bundle
from experiments.studies.declared import Declared
from experiments.studies.learned_gains.study import TOLD, in_words, near, of_seeds, ordered, with_shares
from experiments.studies.pictures import curves_picture
from experiments.studies.study import REFERENCE, Arm, Asking, Block, Picture, Size, Study
from figures.trainings.gains_in_training import gains_in_training

ENOUGH = 0.05
"""Nats that are lost without both routes, below which a causal share says nothing."""
SHARES = (*TOLD, "causal_share")
FRAME = "gains_in_training"


def _arm(arm: str, seed: int) -> Arm:
    from circuits.config.gains import SigmoidGain
    from circuits.config.streams import Stream
    from experiments.runs.training_config import Every
    from experiments.studies.schedules import SMALL, named

    kept = replace(SMALL, checkpoint_at=(Every(50),))
    if arm == "nanochat gate":
        return named(arm, "value", seed, kept, streams=(Stream("v", gain=SigmoidGain()),))
    return named(arm, arm, seed, kept)


DECLARED = Declared.of("gains-in-training", _arm, IN_SMALL)
EXPERIMENT = DECLARED.experiment


def ask(roots: Sequence[Path], size: Size = "full") -> dict[str, pd.DataFrame]:
    """Return :func:`experiments.studies.learned_gains.asking.through_training` of the finished runs in some directories
    that have a stream."""
    from experiments.runs.run import runs_in
    from experiments.studies.learned_gains.asking import through_training

    there = runs_in(roots, [arm.config for arm in EXPERIMENT.arms(size)])
    return through_training([run for run in there if run.finished and run.config.variant != REFERENCE])


def shares(bundle: Bundle) -> pd.DataFrame:
    """Return the frame "gains_in_training" with the shares of :func:`experiments.studies.learned_gains.study.shares`,
    at the checkpoints at which enough is lost without both routes to speak of shares."""
    found = bundle.frame(FRAME)
    found = found[(found["head"] == "all") & (found.both_lost >= ENOUGH)].reset_index(drop=True)
    return with_shares(found)


def agreement(bundle: Bundle) -> pd.DataFrame:
    """Return how well a run's causal share is told by that of the gain, and of the size, over its checkpoints.

    Columns: run, variant, told_by, off (mean absolute difference), order (Spearman's rank correlation over checkpoints;
    NaN where a share does not change), checkpoints.
    """
    rows = []
    for (variant, run), part in shares(bundle).groupby(["variant", "run"], sort=False, observed=True):
        for told_by in TOLD:
            # Fixed gains have a share of numbers that are equal but for their last digits.
            moves = part[told_by].round(6).nunique() > 1 and len(part) > 2
            order = part[[told_by, "causal_share"]].corr("spearman").iloc[0, 1] if moves else float("nan")
            off = (part[told_by] - part.causal_share).abs().mean()
            rows.append({"variant": variant, "run": run, "told_by": told_by, "off": off, "order": order})
            rows[-1]["checkpoints"] = len(part)
    return pd.DataFrame(rows)


def _agreement_table(bundle: Bundle) -> str:
    if said := EXPERIMENT.waiting(bundle):
        return said
    rows = []
    for (variant, told_by), part in agreement(bundle).groupby(["variant", "told_by"], sort=False, observed=True):
        off, order = mean_interval(part.off.to_numpy(), scale="logit"), part.order.dropna()
        follows = mean_interval(order.to_numpy(), scale="correlation") if len(order) > 1 else None
        rows.append(
            {
                "gains": variant,
                "told by": TOLD[str(told_by)],
                "runs": len(part),
                "checkpoints": f"{part.checkpoints.min()} to {part.checkpoints.max()}",
                "off by": in_words(off),
                "rank correlation": in_words(follows) if follows else "-",
                "verdict": f"{near(off)}; {ordered(follows) if follows else 'does not change'}",
            }
        )
    return markdown(pd.DataFrame(rows))


def _ends_table(bundle: Bundle) -> str:
    """At the first checkpoint of every run at which enough is lost, and at its last one."""
    if said := EXPERIMENT.waiting(bundle):
        return said
    rows, by_run = (
        [],
        shares(bundle).sort_values("step", kind="stable").groupby(["variant", "run"], sort=False, observed=True),
    )
    for when, table in (("first", by_run.first()), ("last", by_run.last())):
        for variant, part in table.groupby("variant", sort=False, observed=True):
            told = {name: of_seeds(part[name], scale="linear") for name in SHARES}
            words = {"gain_share": "gain's share", "size_share": "size's share", "causal_share": "causal share"}
            told = {words[name]: text for name, text in told.items()}
            rows.append({"gains": variant, "checkpoint": when, "step": f"{part.step.mean():,.0f}"} | told)
    return markdown(pd.DataFrame(rows))


def curves(bundle: Bundle) -> pd.DataFrame:
    """Return means over seeds of the three shares, at steps at which all runs of an arm have them: variant, step,
    share, mean, low, high, n."""
    found = shares(bundle)
    runs_at = found.groupby(["variant", "step"], observed=True).run.transform("nunique")
    found = found[runs_at == found.groupby("variant", observed=True).run.transform("nunique")]
    long = found.melt(["variant", "seed", "step"], list(SHARES), "share")
    return grouped_intervals(long, ["variant", "step", "share"], scale="linear")


def _curves(bundle: Bundle) -> dict[str, Any]:
    off = agreement(bundle).rename(columns={"off": "value"})
    learned = off[off.variant != "value"]
    return {
        "table": curves(bundle),
        "off": grouped_intervals(learned, ["told_by"], scale="logit"),
        "runs": list(bundle.frame(FRAME).run.unique()),
        "of": IN_SMALL,
    }


STUDY = Study(
    name="gains_in_training",
    question="Does a learned gain follow what a route does while a model learns?",
    experiments=(EXPERIMENT,),
    asking=Asking((FRAME,), ask, (EXPERIMENT,)),
    pictures=(
        DECLARED.picture,
        curves_picture("gains_in_training_curves", EXPERIMENT),
        Picture("shares_in_training", gains_in_training, _curves, (EXPERIMENT,), (FRAME,)),
    ),
    blocks=(
        *DECLARED.blocks,
        Block(
            "gains-in-training-agreement",
            _agreement_table,
            "How well a causal share is told, through training",
            (EXPERIMENT,),
        ),
        Block("gains-in-training-ends", _ends_table, "Shares at the first and the last checkpoint", (EXPERIMENT,)),
    ),
)
