"""Does a learned gain tell what a layer uses? Gains and scalars beside the causal share of each route."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics.intervals import Interval, Scale, grouped_intervals, mean_interval
from circuits.common.text_table import interval, markdown
from experiments.studies.committed_results import Bundle
from experiments.studies.study import Arm, Asking, Block, Experiment, Picture, Size, Study
from figures.models.learned_gains import shares_against_gains

SEEDS = 3
FEW = ("nanochat", "modded-nanogpt")
NEAR = 0.1
"""A share that is off by less, on the average, tells the other one."""
TOLD = {"gain_share": "the gain", "size_share": "the size of what it lets in"}
"""What a causal share is told by, and what it is called."""


def _makes(size: Size) -> list[Arm]:
    from experiments.runs.config import lm_run
    from experiments.studies.learned_gains.makes import MAKES, SIZE

    full = size == "full"
    return [
        Arm(lm_run(SIZE, "stories", rule, seed, **parts), condition)
        for seed in range(SEEDS if full else 1)
        for rule, (condition, parts) in MAKES.items()
        if full or rule in FEW
    ]


LEARNED_GAINS = Experiment("learned-gains", _makes, "Does a learned gain tell what a layer uses?")


def ask(roots: Sequence[Path], size: Size = "full") -> dict[str, pd.DataFrame]:
    """Return :func:`experiments.studies.learned_gains.asking.study` of the finished runs in some directories."""
    from experiments.runs.run import runs_in
    from experiments.studies.learned_gains.asking import N_SEQUENCES, study

    there = runs_in(roots, [arm.config for arm in LEARNED_GAINS.arms(size)])
    return study([run for run in there if run.finished], N_SEQUENCES if size == "full" else 64)


def shares(bundle: Bundle) -> pd.DataFrame:
    """Return the frame "learned_gains" where two routes meet, each with the share of the one that is learned.

    ``gain_share`` is |gain| / (|gain| + |other gain|), ``size_share`` the same of what both bring. ``causal_share`` is
    of what is lost without both: what is lost without the route alone, and half of what only goes with both (the
    Shapley value of the route). ``alone``, ``other_alone`` and ``either`` are what is lost without the route alone,
    without the other alone, and only without both, of what is lost without both: they add up to 1.
    """
    found = bundle.frame("learned_gains")
    return with_shares(found[found.both_lost.notna()].reset_index(drop=True))


def with_shares(found: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a frame of gains with the shares of :func:`shares`."""
    gain, other = found.gain.abs(), found.other_gain.abs()
    alone, other_alone = found.lost / found.both_lost, found.other_lost / found.both_lost
    return found.assign(
        gain_share=gain / (gain + other),
        size_share=found["size"] / (found["size"] + found.other_size),
        alone=alone,
        other_alone=other_alone,
        either=1 - alone - other_alone,
        causal_share=(1 + alone - other_alone) / 2,
    )


def of_seeds(values: pd.Series, form: str = ".2f", scale: Scale = "linear") -> str:
    """Return the mean over runs with its interval, as tables have it."""
    found = mean_interval(values.dropna().to_numpy(), scale=scale)
    return interval(found.mean, found.low, found.high, form)


def _layers_table(bundle: Bundle) -> str:
    table = shares(bundle)
    rows = [
        {
            "rule": variant,
            "layer": layer,
            "own gain": of_seeds(part.other_gain),
            "stream's gain": of_seeds(part.gain),
            "gain's share": of_seeds(part.gain_share, scale="logit"),
            "size's share": of_seeds(part.size_share, scale="logit"),
            "causal share": of_seeds(part.causal_share),
            "lost without the stream": of_seeds(part.lost, ".3f"),
            "without own values": of_seeds(part.other_lost, ".3f"),
            "without both": of_seeds(part.both_lost, ".2f"),
        }
        for (variant, layer), part in table[(table.route == "stream") & (table["head"] == "all")].groupby(
            ["variant", "layer"], sort=False, observed=True
        )
    ]
    return markdown(pd.DataFrame(rows))


def _scalars_table(bundle: Bundle) -> str:
    found = bundle.frame("learned_gains")
    rows = [
        {
            "rule": variant,
            "scalar": f"{route}, layer {layer}",
            "beside": "-" if part.other_gain.isna().all() else f"residual stream times {of_seeds(part.other_gain)}",
            "learned": of_seeds(part.gain, ".3f"),
            "size of what it lets in": of_seeds(part["size"]),
            "lost without it": of_seeds(part.lost, ".4f"),
        }
        for (variant, route, layer), part in found[found.route != "stream"].groupby(
            ["variant", "route", "layer"], sort=False, observed=True
        )
    ]
    return markdown(pd.DataFrame(rows))


def agreement(bundle: Bundle) -> pd.DataFrame:
    """Return how well a run's causal shares, head by head, are told by gains and by sizes.

    Columns: run, variant, told_by, off (mean absolute difference), order (Spearman's rank correlation over heads of all
    layers; NaN where one of the two does not vary).
    """
    by_head = shares(bundle)
    by_head = by_head[(by_head.route == "stream") & (by_head["head"] != "all")]
    rows = []
    for (variant, run), part in by_head.groupby(["variant", "run"], sort=False, observed=True):
        for told_by in TOLD:
            off = (part[told_by] - part.causal_share).abs().mean()
            order = part[[told_by, "causal_share"]].corr("spearman").iloc[0, 1]
            rows.append({"run": run, "variant": variant, "told_by": told_by, "off": off, "order": order})
    return pd.DataFrame(rows)


def _agreement_table(bundle: Bundle) -> str:
    found = agreement(bundle)
    parts = [*found.groupby(["variant", "told_by"], sort=False, observed=True)]
    parts += [(("all", told_by), part) for told_by, part in found.groupby("told_by", sort=False)]
    rows = [
        {
            "rule": variant,
            "told by": TOLD[str(told_by)],
            "runs": len(part),
            "off by": of_seeds(part.off, scale="logit"),
            "rank correlation": of_seeds(part.order, scale="correlation"),
        }
        for (variant, told_by), part in parts
    ]
    return markdown(pd.DataFrame(rows))


def _answer(bundle: Bundle) -> str:
    """Whether gains, and sizes, tell causal shares: how far off, with the smallest distance that could have shown."""
    found, sentences = agreement(bundle), []
    for told_by, name in TOLD.items():
        part = found[found.told_by == told_by]
        off = mean_interval(part.off.to_numpy(), scale="logit")
        order = mean_interval(part.order.dropna().to_numpy(), scale="correlation")
        sentences.append(
            f"By {name} a head's causal share is told to within {in_words(off)} on the average ({near(off)}; "
            f"{len(part)} runs tell apart {_half(off):.2f}), and heads' order with a rank correlation of "
            f"{in_words(order)} ({ordered(order)})."
        )
    shares_of = shares(bundle)
    together = shares_of[(shares_of.route == "stream") & (shares_of["head"] == "all")]
    either = mean_interval(together.groupby("run", observed=True).either.mean().to_numpy())
    sentences.append(
        f"Of what is lost without both routes into a layer, a share of {in_words(either)} is lost only without both, "
        f"as there either route does for the other."
    )
    return " ".join(sentences)


def in_words(found: Interval) -> str:
    """Return a mean with its interval, as sentences have it."""
    return interval(found.mean, found.low, found.high, ".2f")


def _half(found: Interval) -> float:
    return (found.high - found.low) / 2


def near(off: Interval) -> str:
    """Return whether shares are near causal ones, as far as their mean distance shows."""
    if off.high < NEAR:
        return f"within {NEAR}"
    return f"not within {NEAR}" if off.low > NEAR else f"{NEAR} is neither shown nor excluded"


def ordered(order: Interval) -> str:
    """Return whether shares go with causal ones, as far as their rank correlation shows."""
    if order.high < 0:
        return "in the opposite order"
    return "in the same order, above chance" if order.low > 0 else "an order is not shown"


def _against(bundle: Bundle) -> dict[str, Any]:
    table = shares(bundle)
    by_head = table[(table.route == "stream") & (table["head"] != "all")]
    # As the text says it: means over runs, with their intervals.
    off = agreement(bundle).rename(columns={"off": "value"})
    return {
        "table": by_head,
        "runs": list(by_head.run.unique()),
        "off": grouped_intervals(off, ["told_by"], scale="logit"),
        "of": "0.2 million parameters, stories",
    }


FRAMES = ("learned_gains",)
STUDY = Study(
    name="learned_gains",
    question=LEARNED_GAINS.asks,
    experiments=(LEARNED_GAINS,),
    asking=Asking(FRAMES, ask, (LEARNED_GAINS,)),
    pictures=(Picture("learned_gains", shares_against_gains, _against, (LEARNED_GAINS,), FRAMES),),
    blocks=(
        Block("learned-gains-answer", _answer, LEARNED_GAINS.asks, (LEARNED_GAINS,)),
        Block("learned-gains-agreement", _agreement_table, "How well a causal share is told", (LEARNED_GAINS,)),
        Block("learned-gains-layers", _layers_table, "Gains, sizes and causal shares, by layer", (LEARNED_GAINS,)),
        Block("learned-gains-scalars", _scalars_table, "Scalars on the residual stream", (LEARNED_GAINS,)),
    ),
)
