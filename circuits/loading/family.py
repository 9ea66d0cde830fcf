"""What a family of models is to those who load it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from circuits.config.model import ModelConfig
from circuits.loading.tensors import Tensors

Weights = Iterator[tuple[str, Tensor]]
"""Weights under the names that they have here, each read when it is asked for."""


class Opened(NamedTuple):
    """What a folder holds: the architecture, the tensors as they are there, and the weights that are made of them."""

    config: ModelConfig
    tensors: Tensors
    weights: Weights


@dataclass(frozen=True)
class Family:
    """Models whose folders look alike. What ``open`` gives can be read as long as the stack is open."""

    name: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, ExitStack], Opened]
    split_pattern: str | None = None
    """The regular expression that cuts texts before byte pairs are merged, where tokenizers are files of ranks."""
    special_tokens: tuple[str, ...] = ()
    """What follows the ranks of such a file."""
    whole_vocabulary: bool = False
    """Whether its tokenizers have exactly as many tokens as its models."""
