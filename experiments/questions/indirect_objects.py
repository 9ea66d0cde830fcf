"""Indirect-object identification of trained models: matched, and transplanted into another body.

A model is *matched* in the architecture that it was trained in, and *transplanted* where its weights run in another:
the published evaluation script of arXiv 2412.15113 seems to have measured classic weights in a value-stream body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from circuits.checkpoint import architecture, transplant
from circuits.common.errors import require
from circuits.config.model import ModelConfig
from circuits.model import HookedStreamTransformer
from circuits.streams.variants import streams
from experiments.questions.ioi_tables import OWN
from experiments.runs.finding import ioi_task
from experiments.runs.run import Run
from experiments.tasks.indirect_objects import SPLITS, IOITask, Prompts
from experiments.tasks.tokens.measures import answers

CLASSIC, VALUE = "classic", "value"
ORDERS = ("ABBA", "BABA")


def body_of(config: ModelConfig, variant: str, allowed: bool = False) -> ModelConfig:
    """Return the body of a variant for weights of another configuration; their own is that configuration itself.

    Raises:
        UnknownNameError: for an unknown variant (nearest suggested).
        ValueError: if that is another architecture than theirs, unless ``allowed``.
    """
    body = replace(config, streams=streams(variant, config.n_layers), name=variant)
    if architecture(body) == architecture(config):
        return config
    require(
        allowed,
        f"these are weights of {config.name!r}, and {variant!r} is another architecture: they were never trained in "
        f"it; give --transplant to measure them there all the same",
    )
    return body


def in_body(model: HookedStreamTransformer, variant: str, allowed: bool = False) -> HookedStreamTransformer:
    """Return a model's weights in the body of a variant, in evaluation mode; in their own nothing is changed.

    Raises:
        UnknownNameError, ValueError: as :func:`body_of`, and if the weights do not fit.
    """
    body = body_of(model.config, variant, allowed)
    if body is model.config:
        return model
    moved = transplant(model, body)
    if model.tokenizer is not None:
        # An empty opening stands for the beginning token, which there may be and not be wanted.
        moved.set_tokenizer(model.tokenizer, model.cfg.default_prepend_bos, model.opening)
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


def measured(run: Run, n: int = 200, step: int = -1, bodies: Sequence[str] = (OWN,)) -> pd.DataFrame:
    """Return :func:`every_prompt` of a run's model in some bodies, its own being ``OWN``, with columns saying which.

    Raises:
        RunError: if there is no checkpoint at ``step``.
        ValueError: as :func:`in_body`, and for a run whose tokens know no names.
    """
    task, model = ioi_task(run), run.load_model(step)
    frames = [
        every_prompt(model if body == OWN else in_body(model, body, allowed=True), task, n).assign(body=body)
        for body in bodies
    ]
    about = {"run": run.path.name, "variant": run.config.variant, "size": run.config.preset, "seed": run.config.seed}
    return pd.concat(frames, ignore_index=True).assign(**about)
