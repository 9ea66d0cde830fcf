"""What one process that trains by itself does, where several that share a model would talk to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from circuits.model import HookedStreamTransformer
from experiments.runs.run import Run
from experiments.runs.saved_shards import State, drop_shards, newest_state, read_shards

Loss = Callable[[Any], Tensor]
"""The loss of a batch, or of the rows of one."""


class Alone:
    """One process that trains by itself. Several that share a model are
    :class:`experiments.training.several_processes.Sharded`."""

    rank, world = 0, 1

    def wrap(self, model: HookedStreamTransformer) -> HookedStreamTransformer:
        """Return the model as it is trained here."""
        return model

    def compiled(self, model: HookedStreamTransformer, loss: Loss) -> Loss:
        """Return the model's loss, compiled."""
        return torch.compile(loss)

    def part(self, batch: Any) -> Any:
        """Return the rows that this process computes."""
        return batch

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a number over all processes."""
        return value

    def agreed(self, stop: bool) -> bool:
        """Return whether any process wants to stop."""
        return stop

    def finish_gradients(self, parameters: Iterable[Tensor], most: float | None) -> None:
        """Make gradients those of the whole batch, and bring the norm of all together to ``most``."""
        if most is not None:
            torch.nn.utils.clip_grad_norm_(parameters, most)

    def whole(self, model: HookedStreamTransformer) -> HookedStreamTransformer:
        """Return the model with all its weights here, for evaluating and storing it."""
        return model

    def save(self, run: Run, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Write where to resume."""
        run.write_state(tensors, about)
        drop_shards(run.path)

    def load(self, run: Run, tensors: dict[str, Tensor]) -> State | None:
        """Return what was saved last, by however many processes, or ``None``; ``tensors`` are the present ones."""
        newest = newest_state(run.path)
        if newest is None:
            return None
        return read_shards(newest, {}) if newest.is_dir() else run.read_state()
