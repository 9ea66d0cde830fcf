"""What a model is: configurations, the hooked stream transformer, named variants and checkpoints."""

from typing import TYPE_CHECKING

import circuits.common.siblings  # noqa: F401
from circuits.common.errors import UnknownNameError
from circuits.common.lazy_imports import lazily
from circuits.config.model import ModelConfig
from circuits.config.streams import Stream
from circuits.presets import LM_SIZES, icl_config, lm_config, parameter_count
from circuits.streams import variants

if TYPE_CHECKING:
    from circuits.associative_memory import AMICL, Sequences
    from circuits.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, transplant
    from circuits.interventions.applied import NothingChangedError, intervened
    from circuits.interventions.intervention import Intervention
    from circuits.model import HookedStreamTransformer, State
    from circuits.sites import Site

__getattr__ = lazily(
    "circuits",
    {
        "associative_memory": ("AMICL", "Sequences"),
        "checkpoint": ("CheckpointError", "load_checkpoint", "save_checkpoint", "transplant"),
        "interventions.applied": ("NothingChangedError", "intervened"),
        "interventions.intervention": ("Intervention",),
        "model": ("HookedStreamTransformer", "State"),
        "sites": ("Site",),
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
