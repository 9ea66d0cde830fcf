"""Indirect-object identification of trained models: matched, and transplanted into another body.

A model is *matched* in the architecture that it was trained in, and *transplanted* where its weights run in another:
the published evaluation script of arXiv 2412.15113 seems to have measured classic weights in a value-stream body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd

from analysis.statistics import mean_interval
from circuits.checkpoint import architecture, transplant
from circuits.config import ModelConfig
from circuits.errors import known, require
from circuits.model import HookedStreamTransformer
from circuits.variants import names as variant_names
from circuits.variants import streams
from experiments.asked import ioi_task
from experiments.lm_evaluation import MEASURES, answers
from experiments.lm_runs import LMRun
from experiments.tasks.ioi import SPLITS, IOITask, Prompts

OWN = "own"
"""Stands for the body that weights were trained in."""
CLASSIC, VALUE = "classic", "value"
By = Literal["set", "template", "order"]
BYS: tuple[By, ...] = ("set", "template", "order")
ORDERS = ("ABBA", "BABA")


def in_body(model: HookedStreamTransformer, variant: str, allowed: bool = False) -> HookedStreamTransformer:
    """Return a model's weights in the body of a variant, in evaluation mode; in their own nothing is changed.

    Raises:
        UnknownNameError: for an unknown variant (nearest suggested).
        ValueError: if that is another architecture than theirs, unless ``allowed``; or if they do not fit.
    """
    known("variant", variant, variant_names())
    body: ModelConfig = replace(model.config, streams=streams(variant, model.config.n_layers), name=variant)
    if architecture(body) == architecture(model.config):
        return model
    require(
        allowed,
        f"these are weights of {model.config.name!r}, and {variant!r} is another architecture: they were never trained "
        f"in it; give --transplant to measure them there all the same",
    )
    moved = transplant(model, body)
    if model.tokenizer is not None:
        moved.set_tokenizer(model.tokenizer)
    return moved


def other_body(variant: str) -> str:
    """Return the body that weights of a variant are transplanted into: classic ones into value, others into classic."""
    return VALUE if variant == CLASSIC else CLASSIC


def every_prompt(model: HookedStreamTransformer, task: IOITask, n: int, seed: int = 0) -> pd.DataFrame:
    """Return one row a prompt and measure: set, prompt, template, order, measure, value; ``n`` prompts a set.

    Raises:
        ValueError: for a model in training mode.
    """
    frames = [_of_set(model, split, task.prompts(n, split, seed=seed)) for split in SPLITS if task.has(split)]
    return pd.concat(frames, ignore_index=True)


def _of_set(model: HookedStreamTransformer, split: str, prompts: Prompts) -> pd.DataFrame:
    about = {
        "set": split,
        "prompt": range(len(prompts.pair)),
        "template": [prompts.templates[i] for i in prompts.template.tolist()],
        "order": [ORDERS[i] for i in prompts.baba.tolist()],
    }
    found = answers(model, prompts.pair)
    wide = pd.DataFrame(about | {name: values.tolist() for name, values in found.items()})
    return wide.melt(list(about), var_name="measure", value_name="value")


def measured(run: LMRun, n: int = 200, step: int = -1, bodies: Sequence[str] = (OWN,)) -> pd.DataFrame:
    """Return :func:`every_prompt` of a run's model in some bodies, its own being ``OWN``, with columns saying which.

    Raises:
        RunError: if there is no checkpoint at ``step``.
        ValueError: as :func:`in_body`, and for a run whose tokens know no names.
    """
    model, task = run.load_model(step), ioi_task(run)
    frames = [
        every_prompt(model if body == OWN else in_body(model, body, allowed=True), task, n).assign(body=body)
        for body in bodies
    ]
    about = {"run": run.path.name, "variant": run.config.variant, "size": run.config.size, "seed": run.config.seed}
    return pd.concat(frames, ignore_index=True).assign(**about)


def summary(prompts: pd.DataFrame, by: By = "set") -> pd.DataFrame:
    """Return the mean of every measure with its interval: over prompts of one run, over seeds where there are several.

    Columns: variant, size, body, set, what ``by`` adds, measure, mean, low, high, n, over ("prompts" or "seeds").
    """
    group = ["variant", "size", "body", "set", *([] if known("by", by, BYS) == "set" else [by])]
    rows = []
    for key, values in prompts.groupby([*group, "measure"], sort=False, observed=True):
        by_run = values.groupby("run", observed=True)["value"].mean()
        several = len(by_run) > 1
        found = mean_interval(by_run.to_numpy() if several else values["value"].to_numpy())
        named = dict(zip([*group, "measure"], key, strict=True))
        numbers = {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
        rows.append(named | numbers | {"over": "seeds" if several else "prompts"})
    return pd.DataFrame(rows)


def paper_table(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's table: a row a prompt and model, the probabilities of the right and the wrong name.

    Columns: sentence (1 to 4), prompt (with its names), variant, body, answer ("right", "wrong"), mean, low, high, n;
    means over both choices of the subject, intervals over seeds (of one run there is none).

    Source: arXiv 2412.15113, language-model experiment.
    """
    shown = prompts[(prompts.set == "paper") & prompts.measure.isin(["probability", "wrong_probability"])]
    texts = list(dict.fromkeys(shown.template))
    rows = []
    for (template, variant, body, measure), values in shown.groupby(
        ["template", "variant", "body", "measure"], sort=False, observed=True
    ):
        found = mean_interval(values.groupby("run", observed=True)["value"].mean().to_numpy())
        answer = "right" if measure == MEASURES[0] else "wrong"
        named = {"sentence": texts.index(template) + 1, "prompt": template, "variant": variant, "body": body}
        rows.append(named | {"answer": answer, "mean": found.mean, "low": found.low, "high": found.high, "n": found.n})
    return pd.DataFrame(rows)
