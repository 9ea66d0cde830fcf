"""What every task inherits whose data are drawn: a configuration, a seed and a device, with nothing else behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from analysis.pairs import Pair
from circuits.common.errors import whole
from circuits.common.plain_data import derive_seed
from experiments.devices import checked_device
from experiments.tasks.kinds import task_name
from experiments.tasks.seeded import SeededTask
from experiments.tasks.shown import ShownTask


class DrawnTask(SeededTask, ShownTask, ABC):
    """What tasks of tokens and of vectors have in common; each brings :meth:`sample`, and ``pairs`` if it asks.

    Raises:
        ValueError: for a device that this machine does not have; from methods too, for a seed that is no whole number.
    """

    tokenizer: Any = None
    """The tokenizer that token numbers are of; ``None`` for a task that makes numbers or vectors directly."""
    splits: Mapping[str, str] = {"train": "sequences to learn from", "validation": "other draws of the same sequences"}
    corruptions: Mapping[str, str] = {}

    def __init__(self, config: Any, seed: int = 0, device: str | torch.device = "cpu"):
        self.config, self.device = config, checked_device(device)
        self.seed = whole("seed", seed, None)

    def generator(self, *labels: str | int) -> torch.Generator:
        """Return a generator on the task's device, seeded by its name, its seed and ``labels``: equal labels give equal
        draws, and different ones have nothing in common."""
        name = task_name(type(self.config).__name__)
        return torch.Generator(self.device).manual_seed(derive_seed(name, self.seed, *labels))

    @abstractmethod
    def sample(self, n: int, split: str = "train", seed: int = 0) -> Any:
        """Return a batch of ``n`` sequences of a split; equal arguments give equal sequences."""

    def pairs(self, n: int, corruption: str = "", seed: int = 0, split: str = "train") -> Pair:
        """Return ``n`` clean/corrupt pairs, the clean ones of a split.

        Raises:
            ValueError: for a task that asks nothing.
        """
        raise ValueError(
            f"{type(self).__name__} has no pairs, so it asks nothing of its own; write its pairs(n, corruption, seed, "
            f"split), or of a corpus ask what Run.asker() returns"
        )

    def compiled_backward(self, model: Any) -> Any:
        """Return ``None``: compiling the loss is all there is."""
        return None

    def held_out(self, n: int = 64, split: str = "train") -> Any:
        """Return ``n`` sequences of a split, drawn as no step draws them; of a corpus, which is finite, those of
        "train" are windows that are trained on, in another order, and those of "validation" are not."""
        return self.sample(n, split, seed=2**40)
