"""Pairs of objects and labels for the associative memory: given an object again, name its label.

Class and label vectors are fresh in every sequence, so nothing but the sequence tells the answer.

Source: arXiv 2412.15113 (associative memory model); what it asks of ``a`` is asked here on five tasks more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.associative_memory import AMICL, Sequences
from circuits.common.errors import known, require, whole
from circuits.common.fields import Checked
from circuits.common.plain_data import canonical_json, derive_seed, essence
from experiments.tasks.seeded import SeededTask
from experiments.tasks.shown import ShownTask
from experiments.tasks.task import Row, TrainingNumbers


@dataclass(frozen=True)
class AMICLTaskConfig(Checked):
    """The numbers of the task; those with defaults of 0 and 1 make the tasks in ``TASKS``, and can be combined.

    Raises:
        ValueError: if they contradict each other, or are of another type.
    """

    d: int = 100
    n_classes: int = 512
    """Classes are drawn from all but one of them, as in the source."""
    length: int = 20
    """Tokens of the context's pairs and of one object that is asked, with its blank."""
    noise: float = 0.1
    """Of objects, against a class vector of 1; drawn anew at every occurrence, with standard deviation 1/d."""
    n_asks: int = 1
    """Objects that are asked, one after the other behind the context."""
    lag: int = 1
    """How many tokens after its object a label comes."""
    label_noise: float = 0.0
    """Of the context's labels, against a label vector of 1, with standard deviation 1/sqrt(d)."""
    n_distractors: int = 0
    """Random vectors after every ``lag`` pairs of the context."""
    n_attributes: int = 1
    """Where there are several, a label is half its own and half its attribute, which the blank names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.length % 2 == 0 and self.length >= 4, f"length must be even and at least 4, got {self.length}")
        require(self.n_classes >= 2, f"n_classes must be at least 2, got {self.n_classes}")
        for name in ("d", "n_asks", "lag", "n_attributes"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("noise", "label_noise", "n_distractors"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("n_pairs", "n_asks"):
            n = getattr(self, name)
            require(n % self.lag == 0, f"{name} = {n} is not a multiple of lag = {self.lag}")

    @property
    def n_pairs(self) -> int:
        """The number of pairs in the context."""
        return self.length // 2 - 1

    @property
    def n_tokens(self) -> int:
        """The length of a sequence with everything in it."""
        return 2 * (self.n_pairs + self.n_asks) + self.n_distractors * (self.n_pairs // self.lag)

    @property
    def objects(self) -> Int[Tensor, " item"]:
        """The places of all objects: those of the context, then those asked.

        Objects come in groups of ``lag``, each followed by the labels of the group, and by distractors.
        """
        item = torch.arange(self.n_pairs + self.n_asks)
        group = item // self.lag
        behind = group.clamp_max(self.n_pairs // self.lag) * self.n_distractors
        return item + group * self.lag + behind

    @property
    def labels(self) -> Int[Tensor, " item"]:
        """The places of all labels: those of the context, then the blanks."""
        return self.objects + self.lag


TASKS: dict[str, tuple[str, AMICLTaskConfig]] = {
    "pairs": (
        "Object, label, object, label, and last an object and a blank: the label asked for is in the context. "
        "Right is a token that equals it exactly.",
        AMICLTaskConfig(),
    ),
    "several queries": (
        "Three objects are asked, each with a blank behind it, which stays blank; every blank counts.",
        AMICLTaskConfig(n_asks=3),
    ),
    "lag": (
        "Three objects, then their three labels, and so on: a label comes three tokens after its object. A memory "
        "whose reach is 1 remembers the wrong token; one with a reach of 3 meets the task of pairs again.",
        AMICLTaskConfig(n_asks=3, lag=3),
    ),
    "noisy labels": (
        "The context's labels carry half as much noise as signal. Right is a token that lies nearer to the label "
        "vector asked for than to any other of the context, so that a random token is right now and then.",
        AMICLTaskConfig(label_noise=0.5),
    ),
    "distractors": (
        "Four random vectors after every pair, like objects without a label; the pairs themselves stay together.",
        AMICLTaskConfig(n_distractors=4),
    ),
    "conjunction": (
        "Objects of four classes come with either of two attributes, and every combination has a label, half of which "
        "is the attribute. The blank holds an attribute: only object and blank together tell the label.",
        AMICLTaskConfig(n_classes=5, n_attributes=2),
    ),
}
"""What the memory is asked, by name: a description and its configuration."""


@dataclass(frozen=True)
class AMICLBatch:
    """Sequences, and what is right in them."""

    config: AMICLTaskConfig
    sequences: Sequences
    classes: Int[Tensor, "trial item"]
    """What tells the label, the class of every object, with its attribute if any: the context's, then those asked."""
    label_vectors: Float[Tensor, "trial pair d"]
    """The labels of the context's pairs, without noise."""

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def right(self) -> Bool[Tensor, "trial blank pos"]:
        """Which tokens answer a blank: those equal to its label, or nearest to it where labels are noisy."""
        tokens = self.sequences.tokens
        if self.config.label_noise:
            return rearrange(self.nearest(tokens), "trial pos -> trial 1 pos") == self._asked
        vectors = rearrange(self.label_vectors, "trial pair d -> trial pair 1 d")
        chosen = vectors.take_along_dim(rearrange(self._source, "trial blank -> trial blank 1 1"), 1)
        return (rearrange(tokens, "trial pos d -> trial 1 pos d") == chosen).all(-1)

    def nearest(self, vectors: Float[Tensor, "trial any d"]) -> Int[Tensor, "trial any"]:
        """Return the class whose label vector, of those in the context, is nearest to each vector."""
        distances = torch.cdist(vectors, self.label_vectors, compute_mode="donot_use_mm_for_euclid_dist")
        return self.classes.take_along_dim(distances.argmin(-1), 1)

    def correct(self, found: Int[Tensor, "*any trial blank"]) -> Bool[Tensor, "*any trial blank"]:
        """Return which blanks are answered by the tokens at the positions ``found``."""
        trial = torch.arange(len(self))[:, None]
        blank = torch.arange(found.shape[-1])
        return self.right[trial, blank, found]

    @property
    def _asked(self) -> Int[Tensor, "trial blank 1"]:
        return self.classes[:, self.config.n_pairs :, None]

    @property
    def _source(self) -> Int[Tensor, "trial blank"]:
        """The first pair of the context that is of the class asked."""
        return _first_alike(self._asked[..., 0], self.classes[:, : self.config.n_pairs])


class AMICLTask(SeededTask, ShownTask):
    """A task in ``TASKS`` or a configuration; sequences depend on nothing but it, the seed and their number.

    Raises:
        UnknownNameError: for an unknown task (nearest suggested).
        ValueError: for a seed that is no whole number.
    """

    tokenizer = None
    splits: Mapping[str, str] = {
        "trials": "sequences with classes and labels of their own: nothing but the sequence tells the answer"
    }
    watched = ("trials", "accuracy")

    def __init__(self, task: str | AMICLTaskConfig = "pairs", seed: int = 0):
        self.config = TASKS[known("task", task, TASKS)][1] if isinstance(task, str) else task
        self.seed = seed

    def sample(self, n: int, split: str = "trials", seed: int = 0) -> AMICLBatch:
        """Return ``n`` sequences; equal arguments give equal sequences.

        Raises:
            UnknownNameError: for an unknown split.
            ValueError: if ``n`` is not a whole number of 1 or more, or the seed not a whole number.
        """
        n = whole("n", n)
        known("split", split, self.splits)
        c, generator = self.config, self._generator(seed)
        drawn = self._drawn(n, generator)
        classes, attributes = drawn // c.n_attributes, drawn % c.n_attributes
        # Only vectors of classes that occur are drawn: every pair has its own, and repeated classes share the first.
        class_vectors = _rows(self._vectors(generator, n, c.n_pairs), _first_alike(classes, classes[:, : c.n_pairs]))
        source = _first_alike(drawn[:, : c.n_pairs], drawn[:, : c.n_pairs])
        label_vectors = _rows(self._vectors(generator, n, c.n_pairs), source)
        tokens = self._vectors(generator, n, c.n_tokens)
        blanks = c.labels[c.n_pairs :]
        tokens[:, blanks] = 0
        if c.n_attributes > 1:
            named = _rows(self._vectors(generator, n, c.n_attributes), attributes)
            label_vectors = (label_vectors + named[:, : c.n_pairs]) / math.sqrt(2)
            tokens[:, blanks] = named[:, c.n_pairs :]
        tokens[:, c.objects] = self._noisy(class_vectors, c.noise, 1 / c.d, generator)
        tokens[:, c.labels[: c.n_pairs]] = self._noisy(label_vectors, c.label_noise, 1 / math.sqrt(c.d), generator)
        sequences = Sequences(tokens, blanks, self._vectors(generator, n, c.n_asks))
        return AMICLBatch(c, sequences, drawn, label_vectors)

    def loss(self, memory: AMICL, batch: AMICLBatch) -> Float[Tensor, ""]:
        """Return the mean negative logarithm (nats) of how much of the right tokens the blanks retrieve; of a memory
        without a temperature, which retrieves one token alone, 0 or infinite."""
        return -(memory.weights(batch.sequences) * batch.right).sum(-1).log().mean()

    def evaluation_sets(self, training: TrainingNumbers) -> AMICLBatch:
        """Return the sequences that :meth:`measures` looks at."""
        return self.sample(training.n_eval)

    def measures(self, memory: AMICL, sets: AMICLBatch) -> list[Row]:
        """Return (split, measure, value): the share of blanks that are answered rightly, and the loss."""
        found = memory.scores(sets.sequences).argmax(-1)
        accuracy = float(sets.correct(found).double().mean())
        return [("trials", "accuracy", accuracy), ("trials", "loss", float(self.loss(memory, sets)))]

    def _generator(self, seed: int) -> torch.Generator:
        labels = ("amicl", canonical_json(essence(self.config)), self.seed, seed)
        return torch.Generator().manual_seed(derive_seed(*labels))

    def _vectors(self, generator: torch.Generator, n: int, rows: int) -> Float[Tensor, "n rows d"]:
        return torch.randn(n, rows, self.config.d, generator=generator) / math.sqrt(self.config.d)

    def _drawn(self, n: int, generator: torch.Generator) -> Int[Tensor, "n item"]:
        """Independent classes, with attributes, of the context, and those asked: of random pairs of the context."""
        c = self.config
        # Numbered class * n_attributes + attribute; all but the first class.
        context = torch.randint(c.n_attributes, c.n_attributes * c.n_classes, (n, c.n_pairs), generator=generator)
        picked = torch.randint(c.n_pairs, (n, c.n_asks), generator=generator)
        return torch.cat([context, context.gather(1, picked)], 1)

    @staticmethod
    def _noisy(
        vectors: Float[Tensor, "n rows d"], noise: float, deviation: float, generator: torch.Generator
    ) -> Float[Tensor, "n rows d"]:
        """(vector + noise eta) / sqrt(1 + noise^2), with eta of a standard deviation."""
        if noise == 0:
            return vectors
        eta = deviation * torch.randn(vectors.shape, generator=generator)
        return (vectors + noise * eta) / math.sqrt(1 + noise**2)


def _first_alike(classes: Int[Tensor, "trial item"], context: Int[Tensor, "trial pair"]) -> Int[Tensor, "trial item"]:
    alike = rearrange(classes, "trial item -> trial item 1") == rearrange(context, "trial pair -> trial 1 pair")
    return alike.to(torch.uint8).argmax(-1)


def _rows(vectors: Float[Tensor, "trial pair d"], index: Int[Tensor, "trial item"]) -> Float[Tensor, "trial item d"]:
    return vectors.take_along_dim(repeat(index, "trial item -> trial item 1"), 1)
