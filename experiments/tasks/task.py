"""What a task is: data with its splits, a loss and measures; and what a model can also be trained on and asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from analysis.gradients.shares import By
from analysis.gradients.split import GradientSplit
from analysis.heads.attention_scores import HeadScores
from analysis.pairs import Pair
from circuits.model import HookedStreamTransformer

Row = tuple[str, str, float]
"""Set, measure, value."""
HeadScorer = Callable[[HookedStreamTransformer], HeadScores]
"""A model to what can be said of its heads: the columns of :func:`analysis.heads.attention_scores.one_table`."""


@runtime_checkable
class TrainingNumbers(Protocol):
    """What a task must know of a training: how much is looked at."""

    @property
    def n_eval(self) -> int:
        """Sequences in every evaluation set, or windows that the validation loss is a mean over."""
        ...

    @property
    def n_questions(self) -> int:
        """Prompts in every set of questions."""
        ...


@runtime_checkable
class Task(Protocol):
    """What every task is. Equal arguments give equal batches; nothing depends on the order of calls.

    Its model is a transformer, or the associative memory, which is measured and not trained.
    """

    config: Any
    seed: int
    watched: tuple[str, str]
    """The set and the measure that tell how far a training is."""
    splits: Mapping[str, str]
    """What is asked of, with what each is; where none is named, the first is taken."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that token numbers are of; ``None`` for numbers or vectors without one."""
        ...

    def sample(self, n: int, split: str = ..., seed: int = 0) -> Any:
        """Return a batch of ``n`` sequences of a split."""
        ...

    def loss(self, model: Any, batch: Any, /) -> Tensor:
        """Return the mean loss of a batch, in nats, by the hooked model."""
        ...

    def evaluation_sets(self, training: TrainingNumbers) -> Any:
        """Return what :meth:`measures` looks at."""
        ...

    def measures(self, model: Any, sets: Any, /) -> list[Row]:
        """Return set, measure and value of everything that is measured of a model in evaluation mode."""
        ...


@runtime_checkable
class TrainedTask(Task, Protocol):
    """What a trainer and an analysis ask of a task beside that.

    The evaluation sets' ``measured`` says what is measured, by set.
    """

    corruptions: Mapping[str, str]
    """What a corrupt input differs in from its clean one; where none is named, the first is taken."""
    logs_training_loss: bool
    """Whether the mean loss of the batches between two evaluations is logged beside the measures."""

    def fast_loss(self, model: HookedStreamTransformer) -> Callable[[Any], Tensor]:
        """Return :meth:`loss` as a function of the batch, by the fastest path that says the same where no hook is."""
        ...

    def compiled_backward(self, model: HookedStreamTransformer) -> Callable[[Any], Tensor] | None:
        """Return the backward pass compiled as one graph, or ``None`` where compiling the loss is all there is."""
        ...

    def counted(self, batch: Any) -> Tensor:
        """Return how many predictions a batch's loss is a mean over."""
        ...

    def measures(self, model: HookedStreamTransformer, sets: Any, compiled: bool = False, /) -> list[Row]:
        """Return set, measure and value of everything that is measured of a model in evaluation mode."""
        ...

    def held_out(self, n: int = ..., split: str = "train") -> Any:
        """Return sequences of a split, drawn as no step draws them: none that is trained on, but of a corpus, which is
        finite, where those of "train" are."""
        ...

    def split_gradient(
        self, model: HookedStreamTransformer, batch: Any, activations: Sequence[str] = (), by: By = "total"
    ) -> GradientSplit:
        """Return the split by route of the gradient of a batch's loss."""
        ...

    def pairs(self, n: int, corruption: str = ..., seed: int = 0, split: str = ...) -> Pair:
        """Return ``n`` clean/corrupt pairs."""
        ...

    def sequences(self, n: int, split: str = ..., seed: int = 1) -> Pair:
        """Return ``n`` sequences of a split with their answers, as the clean side of a pair."""
        ...

    def head_scorer(self, n: int, split: str = ..., seed: int = 1) -> HeadScorer:
        """Return the function of a model to what can be said of its heads, on ``n`` sequences of a split."""
        ...
