"""Devices by name, checked before anything is put onto one."""

from __future__ import annotations

import torch

from circuits.common.errors import require


def checked_device(name: str | torch.device) -> torch.device:
    """Return a device by its name.

    Raises:
        ValueError: for what names no device, or one that this machine does not have.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} names no device; take cpu, cuda or one of several, as in cuda:1") from error
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    require(
        device.type != "cuda" or (device.index or 0) < there,
        f"{name} was asked for, and torch sees {there} CUDA device(s) here; take --device cpu, or "
        f"install torch for CUDA where there is a GPU",
    )
    return device
