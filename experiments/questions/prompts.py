"""Prompts on indirect objects, asked of models: matched, and transplanted into another body.

A model is *matched* in the architecture that it was trained in, and *transplanted* where its weights run in another:
the published evaluation script of arXiv 2412.15113 seems to have measured classic weights in a value-stream body.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from circuits.checkpoint import architecture, transplant
from circuits.common.errors import require
from circuits.config.model import ModelConfig
from circuits.model import HookedStreamTransformer
from circuits.streams.variants import streams
from experiments.runs.run import Run
from experiments.tasks.indirect_objects.config import SPLITS
from experiments.tasks.indirect_objects.task import IOITask, Prompts, in_tokens_of
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


def ioi_task(run: Run, device: str = "cpu") -> IOITask:
    """Return the task on indirect objects in the tokens of a run, its prompts opened as its training texts are.

    Raises:
        ValueError: for a run of vectors or numbers, or a tokenizer in which a name is several tokens.
    """
    require(
        run.config.of_tokens,
        f"{run.path.name} is a run of the in-context classifier, which reads no text; name a run of a language model",
    )
    task = run.asker(device)
    require(
        task.tokenizer is not None,
        f"{run.path.name} was trained on numbers, which know no names; ask a run of stories, ioi, nested or text",
    )
    return in_tokens_of(task)
