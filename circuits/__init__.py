"""What a model is: configurations, the hooked stream transformer, named variants and checkpoints."""

from circuits import variants
from circuits.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, transplant
from circuits.config import ModelConfig, Stream
from circuits.model import HookedStreamTransformer, State
from circuits.naming import UnknownNameError
from circuits.variants import icl_config

__all__ = [
    "CheckpointError",
    "HookedStreamTransformer",
    "ModelConfig",
    "State",
    "Stream",
    "UnknownNameError",
    "icl_config",
    "load_checkpoint",
    "save_checkpoint",
    "transplant",
    "variants",
]
