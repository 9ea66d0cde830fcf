"""In which precision products are computed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from circuits.common.errors import require
from experiments.runs.training_config import TrainingConfig


def precise(training: TrainingConfig, device: torch.device) -> Any:
    """Return the context in which products are computed."""
    if training.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def check_precision(training: TrainingConfig, device: str) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        ValueError: naming both.
    """
    if training.precision == "bfloat16" and torch.device(device).type == "cuda":
        require(torch.cuda.is_bf16_supported(), "this GPU does not compute in bfloat16; train with precision float32")
