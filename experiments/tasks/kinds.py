"""What configurations of tasks are: of tokens or of vectors; and what a task is called, of the name of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from circuits.common.fields import Checked


@dataclass(frozen=True)
class TaskConfig(Checked):
    """A frozen dataclass that says which data there are, and checks itself; one of the two kinds below."""

    @property
    def n_tokens(self) -> int:
        """How many tokens or vectors a sequence has."""
        raise NotImplementedError


class TokenTaskConfig(TaskConfig):
    """The configuration of a task of token numbers; without a tokenizer it also says ``d_vocab``, how many there are.

    Every field that changes the data is in it, as runs are named by its hash.
    """

    n_ctx: int
    """Tokens in a window: a field of every one, in whichever place."""

    @property
    def n_tokens(self) -> int:
        """How many tokens a window has."""
        return self.n_ctx


class VectorSizes(NamedTuple):
    """What a model must fit."""

    n_tokens: int
    """Vectors in a sequence."""
    d_input: int
    """The width of a vector."""
    n_answers: int
    """How many answers there are to tell apart at the last position."""
    one_hot: int | None = None
    """The first so many components of a vector are its one-hot position; ``None``: vectors say nothing of it."""


class VectorTaskConfig(TaskConfig):
    """The configuration of a task of sequences of vectors, each with one answer at its last position."""

    @property
    def sizes(self) -> VectorSizes:
        """What a model must fit."""
        raise NotImplementedError(f"{type(self).__name__} does not say its sizes: give it the property sizes")

    @property
    def n_tokens(self) -> int:
        """How many vectors a sequence has."""
        return self.sizes.n_tokens


def task_name(kind: str) -> str:
    """Return what a task is called, of the name of its configuration's class: "stories" of ``StoriesConfig``."""
    return kind.removesuffix("Config").removesuffix("Task").lower()
