"""What is asked of a task of one's own before anything is trained on it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from analysis.pairs import Pair
from circuits.common.errors import require
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.task import TrainedTask

_METHODS = [name for name, _ in inspect.getmembers(TrainedTask, inspect.isfunction) if not name.startswith("_")]


def check_methods(name: str, task: Any) -> None:
    """Check that a task's class has what a trainer and an analysis ask of it.

    Raises:
        ValueError: naming what is lacking.
    """
    abstract = getattr(task, "__abstractmethods__", frozenset())
    lacking = [method for method in _METHODS if not hasattr(task, method) or method in abstract]
    require(
        isinstance(task, type) and not lacking,
        f"the task {name!r} is made by a class with every method of TrainedTask, and {task!r} lacks "
        f"{', '.join(lacking) or 'them all'}; make it from TokenTask or VectorTask, which have all but sample",
    )


def check_task(task: Any) -> None:
    """Try out what a task gives.

    Raises:
        ValueError: for a split that is missing, a batch of another kind, shape or range than its configuration says,
            two batches that differ for equal arguments, or pairs that are none.
    """
    name, config = type(task).__name__, task.config
    of_tokens = isinstance(config, TokenTaskConfig)
    wanted = ["train", "validation"] if of_tokens else ["train"]
    missing = [split for split in wanted if split not in task.splits]
    require(not missing, f"{name}.splits lacks {' and '.join(missing)}, which every training needs")
    for split in task.splits:
        batch, again = (_parts(name, task.sample(2, split), of_tokens) for _ in range(2))
        (_check_windows if of_tokens else _check_vectors)(name, task, *batch)
        require(
            all(torch.equal(one, other) for one, other in zip(batch, again, strict=True)),
            f"{name}.sample(2, {split!r}) gave two batches for equal arguments: draw from self.generator(split, seed) "
            f"alone, or no run could be repeated or resumed",
        )
        other = _parts(name, task.sample(2, split, 1), of_tokens)
        require(
            split != "train" or not all(torch.equal(a, b) for a, b in zip(batch, other, strict=True)),
            f"{name}.sample(2, 'train', seed) gives one batch whatever the seed, and the seed is the training's step; "
            f"draw from self.generator(split, seed)",
        )
    for corruption in task.corruptions:
        pair: Any = task.pairs(2, corruption)
        require(isinstance(pair, Pair), f"{name}.pairs(2, {corruption!r}) must give an analysis.Pair, got {type(pair)}")


def _parts(name: str, batch: Any, of_tokens: bool) -> tuple[Tensor, ...]:
    fields = ("tokens",) if of_tokens else ("inputs", "labels")
    found = tuple(getattr(batch, field, None) for field in fields)
    kind = "TokenBatch" if of_tokens else "VectorBatch"
    require(
        all(isinstance(part, Tensor) for part in found),
        f"{name}.sample must give an experiments.{kind}, got {type(batch).__name__}",
    )
    return found  # type: ignore[return-value] # tensors, as was just required


def _check_windows(name: str, task: Any, tokens: Tensor) -> None:
    wanted = (2, task.n_ctx)
    require(
        tuple(tokens.shape) == wanted and not tokens.is_floating_point(),
        f"{name}.sample(2) must give token numbers (n, n_ctx) = {wanted}, got {tokens.dtype} {tuple(tokens.shape)}",
    )
    require(
        bool((tokens >= 0).all()) and bool((tokens < task.d_vocab).all()),
        f"{name}.sample(2) gave token {int(tokens.max())}, and there are d_vocab = {task.d_vocab}, from 0",
    )


def _check_vectors(name: str, task: Any, inputs: Tensor, labels: Tensor) -> None:
    sizes = task.config.sizes
    wanted = (2, sizes.n_tokens, sizes.d_input)
    require(
        tuple(inputs.shape) == wanted and inputs.is_floating_point(),
        f"{name}.sample(2) must give vectors (n, n_tokens, d_input) = {wanted}, got {inputs.dtype} "
        f"{tuple(inputs.shape)}",
    )
    require(
        tuple(labels.shape) == (2,) and bool((labels >= 0).all()) and bool((labels < sizes.n_answers).all()),
        f"{name}.sample(2) must give a label below n_answers = {sizes.n_answers} for each sequence, got {labels}",
    )
