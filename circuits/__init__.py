"""What a model is: configurations, the hooked stream transformer, named variants and checkpoints."""

from circuits import variants
from circuits.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, transplant
from circuits.config import ModelConfig
from circuits.errors import UnknownNameError
from circuits.model import HookedStreamTransformer, State
from circuits.stream_config import Stream
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
