"""Does the stream help language models, is it the gradient, does it grow with size, and does it help with hierarchy?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.statistics.curves import over_seeds, with_differences
from analysis.statistics.paired_seeds import PairedSeeds, paired_seeds
from experiments.studies import gradient
from experiments.studies.committed_results import Bundle
from experiments.studies.pictures import drawn, ratios_picture
from experiments.studies.study import REFERENCE, Arm, Experiment, Picture, Size, Study, only
from experiments.studies.times import compared, differences, ends, times
from experiments.studies.wording import final_block, speed_block
from figures.trainings.against_classic import scaling as draw_scaling
from figures.trainings.language_models import DEPTHS, IOI_SETS, ioi_curves, loss_curves, nested_curves

PARTS = ("value-stop", "value-gradient-only")
"""The stream with its gradient cut, and with its value cut."""
VARIANTS = (REFERENCE, "value", *PARTS, "resformer-constant", "cumulative")
FEW = VARIANTS[:3]
PAIR = VARIANTS[:2]
SEEDS = 5
SIZES = {"0.2m": SEEDS, "1m": 3, "3m": 3}
"""Of models, and with how many seeds."""
SMALLEST = "0.2m"


def _on_stories(model: str, variants: Sequence[str], seeds: int) -> list[Arm]:
    from experiments.runs.config import lm_run

    return [Arm(lm_run(model, "stories", v, seed), model) for seed in range(seeds) for v in variants]


def _stories(size: Size) -> list[Arm]:
    return _on_stories(SMALLEST, *((VARIANTS, SEEDS) if size == "full" else (FEW, 2)))


def _sizes(size: Size) -> list[Arm]:
    """Classic and value in three sizes; the smallest are those of :func:`_stories`."""
    return [arm for model, n in SIZES.items() for arm in _on_stories(model, PAIR, n)] if size == "full" else []


def _nested(size: Size) -> list[Arm]:
    """Classic and value on relations inside relations, learning from the answers alone."""
    from experiments.runs.config import LM_TRAINING, lm_run
    from experiments.tasks.nested_relations import NestedConfig

    training, task = replace(LM_TRAINING[SMALLEST], steps=4_000, checkpoint_at=()), NestedConfig(answers_only=True)
    seeds = range(SEEDS if size == "full" else 0)
    return [Arm(lm_run(SMALLEST, task, v, seed, training), SMALLEST) for seed in seeds for v in PAIR]


_LEARNED: dict[str, Any] = {"split": "ioi train", "measure": "probability", "threshold": 0.5}
STORIES = Experiment(
    "lm",
    _stories,
    "Does the stream help a language model to identify indirect objects, and is it the gradient?",
    only(
        *gradient.CONTRASTS,
        ("value-gradient-only", "value"),
        ("resformer-constant", REFERENCE),
        ("cumulative", REFERENCE),
    ),
    of="0.2 million parameters, stories",
    **_LEARNED,
)
BY_SIZE = Experiment("lm-sizes", _sizes, "Does what it brings grow with the model?", of="stories", **_LEARNED)
NESTED = Experiment(
    "lm-nested",
    _nested,
    "Does it help with relations inside relations?",
    of="0.2 million parameters, questions on clauses inside clauses",
)
THRESHOLD = f"threshold: {STORIES.threshold:.0%} for the right name on prompts like those of training"
"""What tokens are counted to, in words."""

FINALS: dict[str, tuple[str, str]] = {
    "validation loss": ("validation", "loss"),
    "P(IO)": ("ioi train", "probability"),
    "P(IO), held out": ("ioi held-out", "probability"),
    "P(IO), paper": ("ioi paper", "probability"),
    "P(S), paper": ("ioi paper", "wrong_probability"),
    "logit difference": ("ioi train", "logit_difference"),
}
"""Columns of the table of final values: set and measure."""
SIZES_FINALS = {title: where for title, where in FINALS.items() if "paper" not in title}
"""Those of the table by size."""
NESTED_FINALS = {
    "validation loss": FINALS["validation loss"],
    **{f"depth {depth}": (f"depth {depth}", "accuracy") for depth in range(4)},
}


def curves(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    """Return :meth:`Bundle.metrics` with the tokens that a run had seen at every step."""
    from experiments.runs.config import RunConfig

    metrics = bundle.metrics(experiment.name)
    configs = bundle.runs.set_index("name").config[list(metrics.run.unique())]
    per_step = {run: RunConfig.from_plain(json.loads(text)).tokens_per_step for run, text in configs.items()}
    return metrics.assign(tokens=metrics.step * metrics.run.map(per_step))


def interaction(bundle: Bundle) -> PairedSeeds:
    """Return how much sooner value and gradient are together than the two alone, paired by seed, as a ratio of steps.

    Value classic / (value-stop value-gradient-only), of times to the threshold. Below 1 it takes both; 1 if each does
    its part whatever the other does.

    Raises:
        ValueError: if a run is not there or did not get there.
    """
    steps = times(bundle, STORIES).pivot(index="seed", columns="variant", values="steps")
    whole, cut, alone, none = (steps[v].to_numpy() for v in ("value", "value-stop", "value-gradient-only", REFERENCE))
    return paired_seeds(whole * none, cut * alone, "ratio")


def scaling(bundle: Bundle) -> pd.DataFrame:
    """Return how much the value stream brings at every size, against classic, paired by seed.

    Columns: size, parameters, variant, measure, mean, low, high, pairs, step_time_ratio. The ratios are one family, the
    differences of ``SIZES_FINALS`` another.
    """
    costs = bundle.frame("lm_cost")[["size", "variant", "parameters", "time"]]
    last = differences(ends(bundle, BY_SIZE, SIZES_FINALS))
    words = {"validation loss": "final loss difference", "P(IO)": "final probability difference"}
    ratios = compared(bundle, BY_SIZE).assign(measure="tokens to threshold ratio to classic")
    both = [
        ratios.rename(columns={"ratio": "mean"}),
        last[last.title.isin(words)].assign(measure=last.title.map(words)).rename(columns={"difference": "mean"}),
    ]
    columns = ["condition", "variant", "measure", "mean", "low", "high", "pairs"]
    table = pd.concat([part[columns] for part in both], ignore_index=True).rename(columns={"condition": "size"})
    return table.merge(costs.rename(columns={"time": "step_time_ratio"}), on=["size", "variant"])


def _scaling(bundle: Bundle) -> dict[str, Any]:
    runs = list(bundle.experiment(BY_SIZE.name).name)
    return {"table": scaling(bundle), "runs": runs, "of": f"{BY_SIZE.of}, {THRESHOLD}"}


def by_tokens(bundle: Bundle, experiment: Experiment, splits: Iterable[str], measure: str) -> pd.DataFrame:
    """Return curves over seeds of a measure against tokens."""
    return over_seeds(drawn(curves(bundle, experiment), splits, (measure,)), "tokens")


def _losses(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    losses = drawn(curves(bundle, experiment), ("validation",), ("loss",))
    return over_seeds(with_differences(losses, "loss"), "tokens")


def apart(bundle: Bundle, experiment: Experiment, columns: Mapping[str, tuple[str, str]], measure: str) -> pd.DataFrame:
    """Return the differences to classic at the end that a table of the page has (``columns``), of one measure, with
    their split."""
    table = differences(ends(bundle, experiment, columns))
    table = table.assign(split=[columns[title][0] for title in table.title])
    return table[[columns[title][1] == measure for title in table.title]]


def _picture(
    name: str,
    drawing: Callable[..., go.Figure],
    experiment: Experiment,
    read: Callable[[Bundle, Experiment], pd.DataFrame],
    columns: Mapping[str, tuple[str, str]],
    measure: str,
) -> Picture:
    """A figure of curves that says of their ends what the table of the page says."""

    def arguments(bundle: Bundle) -> dict[str, Any]:
        told = apart(bundle, experiment, columns, measure)
        return {"metrics": read(bundle, experiment), "of": experiment.of, "ends": told}

    return Picture(name, drawing, arguments, (experiment,))


_on_names = partial(by_tokens, splits=IOI_SETS, measure="probability")
_by_depth = partial(by_tokens, splits=DEPTHS, measure="accuracy")
STUDY = Study(
    name="language_models",
    question="Does the stream help language models?",
    experiments=(STORIES, BY_SIZE, NESTED),
    pictures=(
        _picture("lm_loss", loss_curves, STORIES, _losses, FINALS, "loss"),
        _picture("lm_ioi_curves", ioi_curves, STORIES, _on_names, FINALS, "probability"),
        ratios_picture("lm_ratios", STORIES),
        _picture("lm_nested", nested_curves, NESTED, _by_depth, NESTED_FINALS, "accuracy"),
        Picture("lm_scaling", draw_scaling, _scaling, (BY_SIZE,), ("lm_cost",)),
    ),
    blocks=(
        speed_block(STORIES),
        final_block("lm-finals", "Where language models end", STORIES, FINALS),
        speed_block(BY_SIZE),
        final_block("lm-sizes-finals", "Where they end, by size", BY_SIZE, SIZES_FINALS),
        final_block("lm-nested", NESTED.asks, NESTED, NESTED_FINALS),
    ),
)
