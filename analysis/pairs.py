"""A clean and a corrupt input that differ in one thing, with their answers and the positions that matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from analysis.shown_pair import ShownPair
from analysis.text_pairs import parts_of_rows, rows_of_lists
from circuits.common.errors import known, require, whole
from circuits.interventions.replacement import position_numbers
from circuits.model import HookedStreamTransformer

Positions = dict[str, Int[Tensor, "batch _"]]
"""Positions by role, one row an example: ``{"target item": (batch 1), "matching label": (batch 2), ...}``."""


ReadAt = int | Int[Tensor, " batch"]
"""The position whose logits are read; a tensor holds one for every example (for prompts of different lengths)."""


@dataclass(frozen=True, repr=False)
class Pair(ShownPair):
    """A batch of clean/corrupt inputs; row i of one belongs to row i of the other.

    Raises:
        ValueError: if shapes, kinds or numbers of answers differ, there is no example, a position is not in the inputs
            or is padding, or two different inputs have one answer, saying which.
    """

    clean: Tensor
    """Inputs (batch pos d_input) or tokens (batch pos)."""
    corrupt: Tensor
    answers: Int[Tensor, " batch"]
    """The right answer to the clean input."""
    wrong: Int[Tensor, " batch"]
    """The right answer to the corrupt input, a wrong one to the clean input."""
    positions: Positions = field(default_factory=dict)
    read_at: ReadAt | None = None
    """``None``: the last position that is no padding."""
    mask: Bool[Tensor, "batch pos"] | None = None
    """Which positions hold the inputs, and not padding; ``None``: all."""
    tokenizer: Any = field(default=None, compare=False)
    """What tells token numbers in words, to show them; ``None``: numbers are shown."""

    def __post_init__(self) -> None:
        self._check_inputs()
        for name in ("answers", "wrong"):
            object.__setattr__(self, name, whole_numbers(name, getattr(self, name)).to(self.clean.device))
        if not len(self.answers) == len(self.wrong) == len(self.clean):
            raise ValueError(
                f"{len(self.clean)} inputs with {len(self.answers)} answers and {len(self.wrong)} wrong ones"
            )
        self._check_mask()
        require(isinstance(self.positions, Mapping), f"positions are given by role, got {self.positions!r}")
        given = {role: self._places(role, places) for role, places in self.positions.items()}
        object.__setattr__(self, "positions", given)
        object.__setattr__(self, "read_at", self._read_at())
        self._check_within("read_at", torch.as_tensor(self.read_at).to(self.clean.device).expand(len(self))[:, None])
        self._check_answers()

    def _places(self, role: str, places: Any) -> Int[Tensor, "batch _"]:
        what = f"positions of {role!r}"
        numbers = position_numbers(what, places)
        require(numbers.ndim > 0, f"{what} must be (batch, n), one or more for each example, got {places!r}")
        if len(numbers) != len(self.clean):
            raise ValueError(f"{what} are given for {len(numbers)} of {len(self.clean)} examples")
        require(
            numbers.ndim == 2 and numbers.shape[1] > 0,
            f"{what} must be (batch, n), one or more for each example, got {tuple(numbers.shape)}",
        )
        self._check_within(what, numbers)
        return numbers

    def _check_inputs(self) -> None:
        for name in ("clean", "corrupt"):
            side = getattr(self, name)
            require(isinstance(side, Tensor), f"{name} inputs are a tensor, got {type(side).__name__}")
        if self.clean.shape != self.corrupt.shape:
            raise ValueError(
                f"clean inputs are {tuple(self.clean.shape)} and corrupt ones {tuple(self.corrupt.shape)}: a pair "
                f"needs equal batch sizes and lengths, position by position"
            )
        if self.clean.dtype != self.corrupt.dtype:
            raise ValueError(
                f"clean inputs are {self.clean.dtype} and corrupt ones {self.corrupt.dtype}: make them of one kind"
            )
        require(
            self.clean.ndim in (2, 3) and self.clean.numel() > 0,
            f"a pair holds at least one example, (batch, pos) tokens or (batch, pos, d_input) vectors, got "
            f"{tuple(self.clean.shape)}",
        )

    def _check_mask(self) -> None:
        if self.mask is None:
            return
        object.__setattr__(self, "mask", torch.as_tensor(self.mask))
        assert self.mask is not None, "as it was"
        shape = tuple(self.clean.shape[:2])
        require(
            self.mask.dtype == torch.bool and tuple(self.mask.shape) == shape,
            f"a mask says True where an input stands and False where padding does, in the shape (batch, pos) = "
            f"{shape}; got {tuple(self.mask.shape)} of {self.mask.dtype}",
        )
        empty = (~self.mask.any(1)).nonzero()[:, 0].tolist()
        require(not empty, f"the mask says that example {empty[:1]} is padding and nothing else; leave it out")

    def _read_at(self) -> ReadAt:
        if self.read_at is None:
            return -1 if self.mask is None else last_of(self.mask)
        at = position_numbers("read_at", self.read_at)
        if at.ndim == 0:
            return int(at)
        require(at.ndim == 1, f"read_at is one position, or one for each example, got {tuple(at.shape)}")
        if len(at) != len(self.clean):
            raise ValueError(f"read_at has {len(at)} positions for {len(self.clean)} examples")
        return at

    def _check_within(self, what: str, places: Int[Tensor, "batch _"]) -> None:
        outside = places[(places < -self.n_pos) | (places >= self.n_pos)]
        if len(outside):
            raise ValueError(f"{what}: {int(outside[0])} is not a position of inputs of {self.n_pos} positions")
        if self.mask is not None:
            real = self.mask.gather(1, places.to(self.mask.device) % self.n_pos)
            bad = (~real.all(1)).nonzero()[:, 0].tolist()
            require(not bad, f"{what}: in {len(bad)} of {len(self)} examples (first: {bad[:1]}) that is padding")

    def _check_answers(self) -> None:
        differ = (self.clean != self.corrupt).flatten(1).any(1)
        same = (differ & (self.answers == self.wrong)).nonzero()[:, 0].tolist()
        require(
            not same,
            f"the answer and the wrong one are the same number in {len(same)} of {len(self)} examples (first: "
            f"{same[:1]}): no metric tells them apart; give another wrong answer, or leave those examples out",
        )

    @classmethod
    def one_sided(
        cls,
        inputs: Tensor,
        answers: Int[Tensor, " batch"],
        positions: Positions | None = None,
        read_at: ReadAt | None = None,
        mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> Pair:
        """Return a pair of inputs with themselves, for questions that look at one side (ablation, head scores).

        Raises:
            ValueError: as :class:`Pair`; and nothing can be patched between its sides.
        """
        return cls(inputs, inputs, answers, answers, positions or {}, read_at, mask)

    @classmethod
    def from_text(
        cls,
        model: HookedStreamTransformer,
        clean: str | Sequence[str | Sequence[int]],
        corrupt: str | Sequence[str | Sequence[int]],
        answers: str | int | Sequence[str | int],
        wrong: str | int | Sequence[str | int],
        roles: Mapping[str, Any] | None = None,
    ) -> Pair:
        """Return the pair of texts in the tokens of the model's tokenizer, padded on the right, with a mask.

        One of each for all rows, or a list with one for each. Answers are words of one token, with their leading space
        where the tokenizer keeps spaces, and are read at the last token of each row, which has the role END. ``roles``
        are words of the clean texts: ``"Mary"``, or ``("Mary", 2)`` for the second time that it stands there (-1: the
        last), and stand at the last token of their word; or positions from 0, what opens a text counted. Token numbers
        in place of texts (a list a row) and of words need no tokenizer; their roles are positions.

        Raises:
            ValueError: for a model without a tokenizer and lists of different lengths; and, naming the row, for words
                that the tokenizer does not know, clean and corrupt texts that are the same or of different lengths in
                tokens, answers that are not one token, equal or go on the text's last word, and roles that are not
                there, stand there more than once, or have words of as many tokens on one side only.
        """
        return cls(**parts_of_rows(model, rows_of_lists(clean, corrupt, answers, wrong, roles or {})))

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def n_pos(self) -> int:
        """The length of the inputs."""
        return self.clean.shape[1]

    @property
    def reads(self) -> Int[Tensor, " batch"]:
        """Where the logits of every example are read, counted from the start."""
        at = torch.as_tensor(self.read_at, device=self.clean.device)
        return (at % self.n_pos).expand(len(self))

    def __getitem__(self, rows: slice | int) -> Pair:
        """Return the pairs of some rows, or of one."""
        if not isinstance(rows, slice):
            row = whole("the row of a pair", rows, least=-len(self))
            require(-len(self) <= row < len(self), f"there is no pair {row}: there are {len(self)}")
            rows = slice(row % len(self), row % len(self) + 1)
        require((rows.step or 1) > 0, f"rows of a pair are taken forwards, got a step of {rows.step}")
        positions = {role: places[rows] for role, places in self.positions.items()}
        parts = (self.clean[rows], self.corrupt[rows], self.answers[rows], self.wrong[rows])
        read_at = self.read_at[rows] if isinstance(self.read_at, Tensor) else self.read_at
        mask = None if self.mask is None else self.mask[rows]
        return Pair(*parts, positions, read_at, mask, self.tokenizer)

    def require_difference(self) -> None:
        """Refuse pairs between which nothing can be patched.

        Raises:
            ValueError: if clean and corrupt inputs are the same in every example.
        """
        if torch.equal(self.clean, self.corrupt):
            raise ValueError("clean and corrupt inputs are the same everywhere: nothing can be patched between them")

    def require_two_answers(self, of: str, instead: str) -> None:
        """Refuse pairs whose answer and wrong answer are one in every example, for what compares the two.

        Raises:
            ValueError: if they are; ``of`` says what would be 0 whatever the model does, ``instead`` what to take.
        """
        require(
            not torch.equal(self.answers, self.wrong),
            f"the answer and the wrong one are the same in every example, as Pair.one_sided makes them, so {of} is 0 "
            f"whatever the model says; take {instead}, or give a pair with wrong answers",
        )

    def where(self, position: int | str | None) -> Bool[Tensor, "batch pos"]:
        """Return where a position, or a role, is in every example; ``None`` is everywhere.

        Raises:
            UnknownNameError: for a role that the pair does not have (nearest suggested).
        """
        mask = torch.zeros(len(self), self.n_pos, dtype=torch.bool, device=self.clean.device)
        if position is None:
            return ~mask
        if not isinstance(position, str):
            mask[:, int(position)] = True
            return mask
        known("position role", position, self.positions)
        return mask.scatter_(1, self.positions[position].to(mask.device) % self.n_pos, True)


def whole_numbers(name: str, values: Any) -> Int[Tensor, " example"]:
    """Return whole numbers, one an example.

    Raises:
        ValueError: for anything else; it is called ``name``.
    """
    try:
        numbers = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} are whole numbers, one an example, got {values!r}") from error
    integers = not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)
    require(
        integers and numbers.ndim == 1,
        f"{name} are whole numbers, one an example, got {tuple(numbers.shape)} of {numbers.dtype}",
    )
    return numbers.long()


def last_of(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """Return the last position of every example that is no padding."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)


def without_padding(activation: Tensor, padding: Bool[Tensor, "batch pos"], axis: int = 1) -> Tensor:
    """Return an activation of a pair's inputs whose padding has the mean of what is there in the other examples.

    So a mean over examples is over those that have the position, and another example's activation is never padding's.
    ``padding`` is :func:`is_padding`'s, which knows it from the mask or the tokenizer. ``axis`` is that of the
    positions; the examples are the first.
    """
    if not bool(padding.any()):
        return activation
    shape = [1] * activation.ndim
    shape[0], shape[axis] = padding.shape
    real = ~padding.to(activation.device).view(shape)
    mean = activation.masked_fill(~real, 0).sum(0, keepdim=True) / real.sum(0, keepdim=True).clamp_min(1)
    return torch.where(real, activation, mean)


def check_answers(model: HookedStreamTransformer, answers: Int[Tensor, " example"]) -> None:
    """Refuse answers that the model cannot give."""
    n, low, high = model.config.readout.d_vocab_out, int(answers.min()), int(answers.max())
    require(low >= 0 and high < n, f"answers are numbers of logits, from 0 to {n - 1}, got {low} to {high}")


def check_readable(model: HookedStreamTransformer, pair: Pair) -> None:
    """Refuse a pair whose answers the model cannot give, or that is read where its tokenizer's padding stands."""
    check_answers(model, torch.cat([pair.answers, pair.wrong]))
    padding = is_padding(model, pair)
    at = padding[torch.arange(len(pair), device=pair.clean.device), pair.reads]
    require(
        not bool(at.any()),
        f"in {int(at.sum())} of {len(pair)} examples the position that is read holds the tokenizer's padding token; "
        f"make the pair with Pair.from_text(model, ...), or give mask= or read_at=",
    )
    before = (padding[:, :-1] & ~padding[:, 1:]).any(1)
    require(
        not bool(before.any()),
        f"in {int(before.sum())} of {len(pair)} examples padding stands before what is asked: the model has no mask, "
        f"so it would be attended to, and all positions move; pad on the right, as Pair.from_text(model, ...) does",
    )


def is_padding(model: HookedStreamTransformer, pair: Pair) -> Bool[Tensor, "batch pos"]:
    """Return where a pair's mask says that padding stands; without one, where the tokenizer's own token for it does.

    Where the ending token pads, only a run of it at the end is padding.
    """
    if pair.mask is not None:
        return ~pair.mask.to(pair.clean.device)
    pad, eos = (getattr(model.tokenizer, f"{role}_token_id", None) for role in ("pad", "eos"))
    if pair.clean.is_floating_point() or (pad is None and eos is None):
        return torch.zeros(pair.clean.shape[:2], dtype=torch.bool, device=pair.clean.device)
    if pad is not None and pad != eos:
        return (pair.clean == pad) | (pair.corrupt == pad)
    sides = ((side == eos).flip(1).long().cumprod(1).flip(1).bool() for side in (pair.clean, pair.corrupt))
    return torch.stack(list(sides)).any(0)
