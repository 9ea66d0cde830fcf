"""How much memory there is, and how many copies of a batch fit into a share of it.

``max_memory`` bounds by how many bytes a question makes the process grow, at its peak, above where it stood before.
What lives at one time is counted: activations that are kept, those of a forward pass, logits, attention patterns, and
what a gradient keeps. Counts are upper bounds, and are known before anything is run on more than one example.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import psutil
import torch
from torch import Tensor

from analysis.metrics import Metric, ReadMetric
from circuits.common.errors import whole
from circuits.model import HookedStreamTransformer

MOST_EXAMPLES = 2048
"""In one forward, however much memory there is: larger batches fall out of the cache and gain nothing."""
GAPS = 1.3
"""By how much more than is counted a process may grow. With glibc it grew by up to 1.6 times what lived at one time
where tensors are below 32 MiB and come from a heap with gaps (by 1.0 times where each is mapped by itself); the counts
are upper bounds, of which a third to nine tenths live."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def copies_within(max_memory: int | None, one: int, examples: int, device: torch.device, held: int = 0) -> int:
    """Return how many copies of some examples, of ``one`` bytes each, go into one forward pass.

    ``max_memory=None`` is a quarter of what is free; ``held`` bytes are kept beside the copies.
    """
    bound = bound_for(max_memory, held + one, device)
    return max(1, min((bound - held) // one, MOST_EXAMPLES // examples))


def logits_of_one(model: HookedStreamTransformer, n_pos: int) -> int:
    """Return the bytes of the logits of one example, in single precision at least, as metrics take them."""
    return n_pos * model.config.readout.d_vocab_out * max(4, model.W_U.element_size())


def beside_logits(metric: Metric, logits: int) -> int:
    """Return the bytes that a metric makes of logits of so many: one of anyone's gets a copy, and makes two more."""
    return 0 if isinstance(metric, ReadMetric) else 3 * logits


def run_of_one(model: HookedStreamTransformer, n_pos: int) -> int:
    """Return the bytes of a forward pass of one example, in which nothing is kept."""
    config = model.config
    heads = config.n_heads * config.d_head
    passed = sum(len({*block.attn.passes_own, *block.attn.passes_mixed}) for block in model.layers)
    wide = 3 * config.mlp.width_in if config.mlp else 0
    of_position = 8 * config.d_model + (8 + passed) * heads + 3 * config.n_heads * n_pos + wide
    return n_pos * of_position * model.W_U.element_size() + 2 * logits_of_one(model, n_pos)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def bound_for(max_memory: int | None, one: int, device: torch.device) -> int:
    """Return how many bytes may live at one time, ``max_memory=None`` being a quarter of what is free."""
    given = None if max_memory is None else whole("max_memory", max_memory, least=0)
    bound = free_memory(device) // 4 if given is None else given
    needed = math.ceil(one * GAPS)
    if bound < needed:
        raise ValueError(
            f"max_memory = {bound:,} bytes is less than one copy of the pair needs, about {needed:,}; allow more, or "
            f"patch fewer examples at a time (pair[:n])"
        )
    return max(one, int(bound / GAPS))


def in_batches(n: int, size: int) -> Iterator[slice]:
    """Return the slices that part ``n`` examples into batches of at most ``size``."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
