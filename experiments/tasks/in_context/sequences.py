"""The sequences of in-context classification, and pairs of them: what is drawn, from seeds alone."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.pairs import Pair, Positions
from circuits.common.errors import known, require, whole
from experiments.tasks.in_context.batches import CORRUPTIONS, PRESETS, SPLITS, ICLBatch, ICLTaskConfig
from experiments.tasks.vectors import VectorTask


class ICLSequences(VectorTask):
    """Sequences of a preset (``"paper"``, ``"small"``) or a configuration, with class and label vectors from ``seed``.

    Everything is drawn on ``device`` and depends on nothing but the configuration, the seeds and the kind of device.
    """

    def __init__(self, preset: str | ICLTaskConfig = "paper", seed: int = 0, device: str | torch.device = "cpu"):
        named = isinstance(preset, str)
        super().__init__(PRESETS[known("preset", preset, PRESETS)] if named else preset, seed, device)
        generator = self.generator("vectors")
        self.label_vectors = self._vectors(self.config.n_labels, generator)
        self.class_vectors = self._vectors(self.config.n_classes, generator)

    def sample(self, n: int, split: str = "train", seed: int = 0) -> ICLBatch:
        """Return ``n`` sequences of a split; equal arguments give equal sequences.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
            ValueError: if ``n`` is not a whole number of 1 or more, or there are too few classes or labels for the
                split.
        """
        n = whole("n", n)
        self._check_split(known("split", split, SPLITS))
        return self._sample(n, split, self.generator(split, seed))

    def pairs(self, n: int, corruption: str = "labels", seed: int = 0, split: str = "ic") -> Pair:
        """Return ``n`` clean/corrupt pairs of bursty sequences; see ``CORRUPTIONS`` for what differs.

        Position roles: "target item"; "matching" of the clean answer's class, "competing" of the corrupt answer's and
        "other", each " item" and " label".

        Raises:
            UnknownNameError: for an unknown corruption or split (nearest suggested).
            ValueError: for a split whose targets are not in the context, a configuration whose contexts have one class
                only, or if ``n`` is not a whole number of 1 or more.
        """
        n = whole("n", n)
        known("corruption", corruption, CORRUPTIONS)
        if known("split", split, SPLITS) not in ("ic", "ic2"):
            raise ValueError(f"pairs need targets that are in the context: split must be 'ic' or 'ic2', got {split!r}")
        self._check_split(split)
        c = self.config
        require(
            c.n_pairs > c.burstiness,
            f"pairs need two classes in a context, and n_pairs = burstiness = {c.n_pairs} is one; lower burstiness",
        )
        generator = self.generator("pairs", corruption, split, seed)
        clean = self._sample(n, split, generator)
        rival = _choose(~clean.matches, generator)
        rival_class, rival_label = _at(clean.classes, rival), _at(clean.context_labels, rival)
        if corruption == "item":
            source = _at_rows(clean.items, rival)
            corrupt = self._with_target(clean, source, rival_class, rival_label)
        else:
            corrupt = _with_swapped_labels(clean, clean.labels, rival_label)
        positions = _roles(clean.matches, clean.classes[:, :-1] == rival_class[:, None])
        return Pair(clean.inputs, corrupt.inputs, clean.labels, rival_label, positions)

    def label_inputs(self) -> tuple[Float[Tensor, "label d_input"], Int[Tensor, " label"]]:
        """Return every label as an input vector without a position, and its number."""
        vectors = torch.nn.functional.pad(self.label_vectors, (self.config.n_ctx, 0))
        return vectors, torch.arange(self.config.n_labels, device=self.device)

    def _check_split(self, split: str) -> None:
        c = self.config
        require(
            split != "iw" or c.n_classes > c.n_pairs,
            f"the split 'iw' asks for a class that is not in the context: n_classes = {c.n_classes} must be more than "
            f"n_pairs = {c.n_pairs}",
        )
        require(split != "ic2" or c.n_labels >= 2, "the split 'ic2' shifts labels by one, and there is one label only")

    def _vectors(self, n: int, generator: torch.Generator) -> Float[Tensor, "row d_content"]:
        d = self.config.d_content
        return torch.randn(n, d, generator=generator, device=self.device) / math.sqrt(d)

    def _sample(self, n: int, split: str, generator: torch.Generator) -> ICLBatch:
        c = self.config
        novel, bursty = self._kinds(n, split, generator)
        classes, context_labels = self._bursty(n, novel, generator)
        if split in ("train", "test", "iw"):
            free = self._independent(n, outside=split == "iw", generator=generator)
            classes = torch.where(bursty[:, None], classes, free)
            context_labels = torch.where(bursty[:, None], context_labels, free[:, :-1] % c.n_labels)
        labels = classes[:, -1] % c.n_labels
        if split == "ic2":
            labels, context_labels = (labels + 1) % c.n_labels, (context_labels + 1) % c.n_labels
        if split == "train" and c.label_noise:
            context_labels = self._mislabelled(context_labels, generator)
        starts = torch.randint(c.n_ctx - c.n_tokens + 1, (n,), generator=generator, device=self.device)
        items = self._items(classes, generator)
        return ICLBatch(c, items, context_labels, labels, classes, starts, self.label_vectors)

    def _kinds(self, n: int, split: str, generator: torch.Generator) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
        """Which sequences have novel classes, and which are bursty; novel ones always are."""
        if split in ("ic", "ic2", "iw"):
            every = torch.ones(n, dtype=torch.bool, device=self.device)
            return (every if split == "ic" else ~every), (~every if split == "iw" else every)
        draws = torch.rand(2, n, generator=generator, device=self.device)
        novel = draws[0] < self.config.p_novel
        return novel, novel | (draws[1] < self.config.p_bursty)

    def _bursty(
        self, n: int, novel: Bool[Tensor, " n"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "n item"], Int[Tensor, "n pair"]]:
        """Few distinct labels, a class for each, each repeated, shuffled; the target's class is one of them."""
        c = self.config
        distinct = c.n_pairs // c.burstiness
        keys = torch.rand(n, c.n_labels, generator=generator, device=self.device)
        labels = keys.topk(distinct, sorted=True).indices
        per_label = torch.where(novel, c.n_novel // c.n_labels, c.n_classes // c.n_labels)[:, None]
        which = torch.rand(n, distinct, generator=generator, device=self.device, dtype=torch.float64) * per_label
        classes = labels + c.n_labels * which.long() + torch.where(novel, c.n_classes, 0)[:, None]
        order = torch.rand(n, c.n_pairs, generator=generator, device=self.device).argsort(1) % distinct
        target = torch.randint(c.n_pairs, (n, 1), generator=generator, device=self.device)
        with_target = torch.cat([order, order.gather(1, target)], 1)
        return classes.gather(1, with_target), labels.gather(1, order)

    def _mislabelled(self, labels: Int[Tensor, "n pair"], generator: torch.Generator) -> Int[Tensor, "n pair"]:
        shift = torch.randint(1, self.config.n_labels, labels.shape, generator=generator, device=self.device)
        wrong = torch.rand(labels.shape, generator=generator, device=self.device) < self.config.label_noise
        return torch.where(wrong, (labels + shift) % self.config.n_labels, labels)

    def _independent(self, n: int, outside: bool, generator: torch.Generator) -> Int[Tensor, "n item"]:
        """Known classes, uniform and independent; with ``outside`` the target's is one that is not in the context."""
        c = self.config
        classes = torch.randint(c.n_classes, (n, c.n_pairs + 1), generator=generator, device=self.device)
        if outside:
            keys = torch.rand(n, c.n_classes, generator=generator, device=self.device)
            classes[:, -1] = keys.scatter(1, classes[:, :-1], -1.0).argmax(1)
        return classes

    def _items(self, classes: Int[Tensor, "n item"], generator: torch.Generator) -> Float[Tensor, "n item d_content"]:
        """(mu + eps eta) / sqrt(1 + eps^2), with mu of the class and eta drawn anew for every occurrence."""
        c, n = self.config, len(classes)
        blocks = -(-n // c.n_novel)
        vectors = torch.cat([self.class_vectors, self._vectors(blocks * c.n_novel, generator)])
        block = torch.arange(n, device=self.device)[:, None] // c.n_novel
        rows = torch.where(classes < c.n_classes, classes, classes + block * c.n_novel)
        mu = vectors.index_select(0, rows.flatten()).view(n, -1, c.d_content)
        eta = torch.randn(mu.shape, generator=generator, device=self.device)
        norm = math.sqrt(1 + c.noise**2)
        return mu.mul_(1 / norm).add_(eta, alpha=c.noise / math.sqrt(c.d_content) / norm)

    @staticmethod
    def _with_target(batch: ICLBatch, item: Tensor, classes: Tensor, labels: Tensor) -> ICLBatch:
        items, all_classes = batch.items.clone(), batch.classes.clone()
        items[:, -1], all_classes[:, -1] = item, classes
        parts = (items, batch.context_labels, labels, all_classes, batch.starts, batch.label_vectors)
        return ICLBatch(batch.config, *parts)


def _with_swapped_labels(batch: ICLBatch, one: Int[Tensor, " n"], other: Int[Tensor, " n"]) -> ICLBatch:
    old, a, b = batch.context_labels, one[:, None], other[:, None]
    swapped = torch.where(old == a, b, torch.where(old == b, a, old))
    return ICLBatch(batch.config, batch.items, swapped, other, batch.classes, batch.starts, batch.label_vectors)


def _choose(allowed: Bool[Tensor, "n pair"], generator: torch.Generator) -> Int[Tensor, " n"]:
    keys = torch.rand(allowed.shape, generator=generator, device=allowed.device)
    return keys.masked_fill(~allowed, -1.0).argmax(1)


def _at(values: Int[Tensor, "n pair"], index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    return values.gather(1, index[:, None])[:, 0]


def _at_rows(values: Float[Tensor, "n item d"], index: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    where = repeat(index, "n -> n 1 d", d=values.shape[-1])
    return rearrange(values.gather(1, where), "n 1 d -> n d")


def _roles(matching: Bool[Tensor, "n pair"], competing: Bool[Tensor, "n pair"]) -> Positions:
    n, n_pairs = matching.shape
    groups = {"matching": matching, "competing": competing, "other": ~(matching | competing)}
    roles: Positions = {}
    for name, mask in groups.items():
        pairs = rearrange(mask.nonzero()[:, 1], "(n place) -> n place", n=n)
        roles |= {f"{name} item": 2 * pairs, f"{name} label": 2 * pairs + 1}
    return roles | {"target item": torch.full((n, 1), 2 * n_pairs, device=matching.device)}


ROLES = (
    *(f"{group} {kind}" for group in ("matching", "competing", "other") for kind in ("item", "label")),
    "target item",
)
"""Position roles of a pair, in the order in which a person reads a sequence."""
