"""What a model is: configurations, the hooked stream transformer, named variants and checkpoints."""

from typing import TYPE_CHECKING

import circuits.siblings  # noqa: F401
from circuits import variants
from circuits.config import ModelConfig
from circuits.errors import UnknownNameError
from circuits.lazy import lazily
from circuits.lm import LM_SIZES, lm_config, parameter_count
from circuits.stream_config import Stream
from circuits.variants import icl_config

if TYPE_CHECKING:
    from circuits.amicl import AMICL, Sequences
    from circuits.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, transplant
    from circuits.intervening import NothingChangedError, intervened
    from circuits.interventions import Intervention
    from circuits.model import HookedStreamTransformer, State
    from circuits.sites import Site

__getattr__ = lazily(
    "circuits",
    {
        **dict.fromkeys(("AMICL", "Sequences"), "amicl"),
        **dict.fromkeys(("CheckpointError", "load_checkpoint", "save_checkpoint", "transplant"), "checkpoint"),
        **dict.fromkeys(("NothingChangedError", "intervened"), "intervening"),
        "Intervention": "interventions",
        **dict.fromkeys(("HookedStreamTransformer", "State"), "model"),
        "Site": "sites",
    },
)

__all__ = [
    "AMICL",
    "LM_SIZES",
    "CheckpointError",
    "HookedStreamTransformer",
    "Intervention",
    "ModelConfig",
    "NothingChangedError",
    "Sequences",
    "Site",
    "State",
    "Stream",
    "UnknownNameError",
    "icl_config",
    "intervened",
    "lm_config",
    "load_checkpoint",
    "parameter_count",
    "save_checkpoint",
    "transplant",
    "variants",
]
