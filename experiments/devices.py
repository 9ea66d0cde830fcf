"""Devices by name, checked before anything is put onto one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from circuits.common.errors import require


def checked_device(name: str | torch.device) -> torch.device:
    """Return a device by its name.

    Raises:
        ValueError: for what names no device, or one that this machine does not have.
    """
    unknown = f"{name!r} names no device; take cpu, cuda or one of several, as in cuda:1"
    # A number is a device of whatever kind is there, and a run is told by the kind.
    require(isinstance(name, (str, torch.device)), unknown)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(unknown) from error
    if device.type == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        require(
            (device.index or 0) < there,
            f"{name} was asked for, and torch sees {there} CUDA device(s) here; take the device cpu, or install torch "
            f"for CUDA where there is a GPU",
        )
    elif device.type not in ("cpu", "meta"):
        other = torch.accelerator.current_accelerator()
        require(
            other is not None and other.type == device.type,
            f"{name} was asked for, and torch sees no such device here; take the device cpu",
        )
    return device


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread within a ``with`` block: on models this small, several wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
