"""In-context classification: given items and their labels, label one more item.

Source: arXiv 2412.15113 (in-context learning experiment), after Reddy, arXiv 2312.03002, and Chan et al., 2205.05055.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.common.errors import require
from circuits.last_position import SplitTokens
from experiments.tasks.kinds import VectorSizes, VectorTaskConfig

Split = Literal["train", "test", "ic", "ic2", "iw"]
SPLITS: dict[str, str] = {
    "train": "the training mix",
    "test": "the training mix, other sequences",
    "ic": "novel classes, all bursty: only the context tells the label (chance 1/32; any label of the context 1/4)",
    "ic2": "known bursty classes with every label shifted by one, counted against the shifted label",
    "iw": "known classes, the target not in the context: only the weights can tell",
}
Corruption = Literal["item", "labels"]
CORRUPTIONS: dict[str, str] = {
    "labels": "the labels of two classes of the context are swapped, the target's and another's",
    "item": "the target is an item of another class of the context",
}


@dataclass(frozen=True)
class ICLTaskConfig(VectorTaskConfig):
    """The numbers of the task.

    Raises:
        ValueError: if they contradict each other, or are of another type.
    """

    n_classes: int = 512
    n_labels: int = 32
    n_pairs: int = 8
    n_max: int = 32
    """The position block has 2 n_max + 1 places."""
    d_content: int = 85
    burstiness: int = 2
    """How often each class of a bursty context occurs."""
    p_bursty: float = 0.5
    """Of the sequences with known classes."""
    p_novel: float = 0.5
    noise: float = 0.1
    label_noise: float = 0.0
    """In training, how often a label of the context is another one, uniformly; what is asked for stays right."""
    n_novel: int = 128
    """So many fresh novel classes for every so many sequences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_labels", "burstiness", "d_content"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.noise >= 0, f"noise must not be negative, got {self.noise}")
        require(
            not self.label_noise or self.n_labels >= 2,
            f"label_noise = {self.label_noise} gives other labels, and there is only {self.n_labels}; leave it out",
        )
        if self.n_pairs % self.burstiness:
            raise ValueError(f"n_pairs = {self.n_pairs} is not divisible by burstiness = {self.burstiness}")
        for name in ("n_classes", "n_novel"):
            if getattr(self, name) % self.n_labels or getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)} is not a multiple of n_labels = {self.n_labels}")
        if self.n_pairs // self.burstiness > self.n_labels:
            raise ValueError(
                f"{self.n_pairs // self.burstiness} classes a context need as many of {self.n_labels} labels"
            )
        for name in ("p_bursty", "p_novel", "label_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.n_pairs <= self.n_max:
            raise ValueError(f"{self.n_pairs} pairs do not fit the position block, which is made for {self.n_max}")

    @property
    def n_ctx(self) -> int:
        """The number of one-hot positions."""
        return 2 * self.n_max + 1

    @property
    def n_tokens(self) -> int:
        """The length of a sequence."""
        return 2 * self.n_pairs + 1

    @property
    def sizes(self) -> VectorSizes:
        """What a model must fit."""
        return VectorSizes(self.n_tokens, self.n_ctx + self.d_content, self.n_labels, one_hot=self.n_ctx)


PRESETS: dict[str, ICLTaskConfig] = {"paper": ICLTaskConfig(), "small": ICLTaskConfig(n_max=8, d_content=47)}


@dataclass(frozen=True)
class ICLBatch:
    """Sequences item, label, item, label, ..., target item, and the labels asked for."""

    config: ICLTaskConfig
    items: Float[Tensor, "batch item d_content"]
    """The noisy items of the context, and the target last."""
    context_labels: Int[Tensor, "batch pair"]
    labels: Int[Tensor, " batch"]
    """The right answers."""
    classes: Int[Tensor, "batch item"]
    """The class of every item; novel classes are numbered from n_classes."""
    starts: Int[Tensor, " batch"]
    """The one-hot position of the first token."""
    label_vectors: Float[Tensor, "label d_content"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> ICLBatch:
        """Return some of the sequences."""
        parts = (self.items, self.context_labels, self.labels, self.classes, self.starts)
        return ICLBatch(self.config, *(part[rows] for part in parts), label_vectors=self.label_vectors)

    @cached_property
    def place(self) -> Int[Tensor, " token"]:
        """Where in the sequence each token stands, items first and then labels."""
        places = [*range(0, self.config.n_tokens, 2), *range(1, self.config.n_tokens, 2)]
        return torch.tensor(places, device=self.items.device)

    @cached_property
    def tokens(self) -> SplitTokens:
        """The sequences as the fast path takes them."""
        positions = self.starts[:, None] + self.place
        parts = (self.items, self.context_labels, self.label_vectors, positions, self.place)
        return SplitTokens.join(self.config.n_ctx, *parts)

    @property
    def inputs(self) -> Float[Tensor, "batch pos d_input"]:
        """The sequences as the hooked model takes them."""
        return self.tokens.x[:, self.place.argsort()]

    @cached_property
    def matches(self) -> Bool[Tensor, "batch pair"]:
        """Which pairs of the context are of the target's class."""
        return self.classes[:, :-1] == self.classes[:, -1:]

    @property
    def holds_answer(self) -> Bool[Tensor, "batch pos"]:
        """Which positions hold the label that is asked for."""
        holds = torch.zeros(len(self), self.config.n_tokens, dtype=torch.bool, device=self.labels.device)
        holds[:, 1::2] = self.context_labels == self.labels[:, None]
        return holds
