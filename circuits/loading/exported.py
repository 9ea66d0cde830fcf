"""Models of ours that were given to transformers (:func:`circuits.exporting.export.export_huggingface`)."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from circuits.common.errors import require
from circuits.config.model import ModelConfig
from circuits.loading.family import Family, Opened
from circuits.loading.huggingface import CONFIG, has_type, open_weights
from circuits.loading.tensors import read_json
from circuits.model import HookedStreamTransformer

MODEL_TYPE = "valuestream"
WITHIN = "model."
"""Before every weight's name, which is one of the wrapper's."""


def _opened(folder: Path, stack: ExitStack) -> Opened:
    held = read_json(folder / CONFIG).get("architecture")
    require(isinstance(held, dict), f"{folder / CONFIG} has no architecture, which says what the model is")
    assert isinstance(held, dict)
    config, tensors = ModelConfig.from_plain(held), open_weights(folder, stack)
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in HookedStreamTransformer(config).state_dict().items()}
    return Opened(config, tensors, ((name, tensors.take(WITHIN + name, *shape)) for name, shape in shapes.items()))


EXPORTED = Family(MODEL_TYPE, partial(has_type, model_type=MODEL_TYPE), _opened)
