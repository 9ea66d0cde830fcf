"""How much memory there is, and how many copies of a batch fit into a share of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psutil
import torch
from torch import Tensor

from circuits.errors import whole

MOST_EXAMPLES = 2048
"""In one forward, however much memory there is: larger batches fall out of the cache and gain nothing."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def copies_within(max_memory: int | None, one: int, examples: int, device: torch.device, held: int = 0) -> int:
    """Return how many copies of some examples, of ``one`` bytes each, go into one forward pass.

    ``max_memory=None`` is a quarter of what is free; ``held`` bytes are kept beside the copies.

    Raises:
        ValueError: if not even one fits.
    """
    bound = bound_for(max_memory, held + one, device)
    return max(1, min((bound - held) // one, MOST_EXAMPLES // examples))


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def bound_for(max_memory: int | None, one: int, device: torch.device) -> int:
    """Return the bound on memory in bytes, ``max_memory=None`` being a quarter of what is free.

    Raises:
        ValueError: if it is less than ``one``, what a single copy of the pair needs.
    """
    given = None if max_memory is None else whole("max_memory", max_memory, least=0)
    bound = free_memory(device) // 4 if given is None else given
    if bound < one:
        raise ValueError(
            f"max_memory = {bound:,} bytes is less than one copy of the pair needs, about {one:,}; allow more, or "
            f"patch fewer examples at a time (pair[:n])"
        )
    return bound


def in_batches(n: int, size: int) -> Iterator[slice]:
    """Return the slices that part ``n`` examples into batches of at most ``size``."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
