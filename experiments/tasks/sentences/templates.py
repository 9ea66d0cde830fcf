"""Sentences as arrays: templates whose slots are filled for many texts at once, in the tokens of any tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.common.errors import require

Encode = Callable[[str], Sequence[int]]
_SLOT = re.compile(r"\{([^}]*)\}")
WORD = re.compile(r"\w+|[^\w\s]")
"""What a word-level tokenizer takes for a word."""


def slots_of(template: str) -> list[str]:
    """Return the names of a template's slots, in order."""
    return _SLOT.findall(template)


def words_of(texts: Iterable[str]) -> list[str]:
    """Return every word of some texts or templates once, sorted; slots are not words."""
    return sorted({word for text in texts for word in WORD.findall(_SLOT.sub(" ", text))})


def parts_of(template: str) -> list[tuple[str, bool]]:
    """Return a template's parts (text, whether it is a slot's name); the space before a part belongs to it."""
    pieces = _SLOT.split(template)
    found = [(pieces[i] if i % 2 else pieces[i].rstrip(" "), bool(i % 2)) for i in range(len(pieces))]
    return [part for part in found if part[0]]


@dataclass(frozen=True)
class Laid:
    """Texts laid out from pieces, padded on the right."""

    tokens: Int[Tensor, "text pos"]
    starts: Int[Tensor, "text place"]
    """Where the piece of every place begins."""
    lengths: Int[Tensor, " text"]


class Phrasebook:
    """Pieces of text by number, as one tokenizer encodes them. Piece 0 is empty.

    ``within`` encodes pieces as they go on a text, where that is not as ``encode`` does those that begin one.
    """

    def __init__(self, encode: Encode, device: str | torch.device = "cpu", within: Encode | None = None):
        self._encode, self._within, self.device = encode, within or encode, torch.device(device)
        self._number: dict[tuple[str, bool], int] = {("", False): 0}
        self._special: dict[tuple[int, ...], int] = {}
        self._encoded: list[tuple[int, ...]] = [()]
        self._table: tuple[Tensor, Tensor] | None = None

    def piece(self, text: str, begins: bool = False) -> int:
        """Return the number of a piece, with the space before it if it has one, that goes on a text or begins one."""
        if (text, begins) not in self._number:
            self._number[text, begins] = len(self._encoded)
            self._encoded.append(tuple((self._encode if begins else self._within)(text)))
            self._table = None
        return self._number[text, begins]

    def pieces(self, texts: Sequence[str], spaced: bool = True) -> Int[Tensor, " text"]:
        """Return the numbers of several pieces, each after a space unless ``spaced`` is false."""
        return torch.tensor([self.piece(f" {text}" if spaced else text) for text in texts], device=self.device)

    def special(self, tokens: int | Sequence[int] | None) -> int:
        """Return the number of the piece that is this one token, or these; of the empty piece for ``None`` and none."""
        held = (tokens,) if isinstance(tokens, int) else tuple(tokens or ())
        if not held:
            return 0
        if held not in self._special:
            self._special[held] = len(self._encoded)
            self._encoded.append(held)
            self._table = None
        return self._special[held]

    def tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a piece."""
        return self._encoded[self.piece(text)]

    def first_tokens(self, pieces: Int[Tensor, " text"]) -> Int[Tensor, " text"]:
        """Return the first token of every piece."""
        return self._tables()[0][pieces, 0]

    def longest(self, pieces: Int[Tensor, " piece"]) -> Int[Tensor, ""]:
        """Return the piece of most tokens among some."""
        return pieces[self._tables()[1][pieces].argmax()]

    def lay(self, places: Int[Tensor, "text place"], pad: int) -> Laid:
        """Return the texts whose places hold these pieces, one after the other."""
        table, lengths = self._tables()
        each = lengths[places]
        ends = each.cumsum(1)
        total = ends[:, -1]
        width = int(total.max())
        # A last column takes what is past a piece's end, and is cut off.
        out = torch.full((len(places), width + 1), pad, device=self.device)
        starts = ends - each
        for i in range(table.shape[1]):
            where = torch.where(each > i, starts + i, width)
            out.scatter_(1, where, table[places, i])
        return Laid(out[:, :width], starts, total)

    def _tables(self) -> tuple[Tensor, Tensor]:
        if self._table is None:
            longest = max(1, *(len(tokens) for tokens in self._encoded))
            rows = [[*tokens, *[0] * (longest - len(tokens))] for tokens in self._encoded]
            lengths = [len(tokens) for tokens in self._encoded]
            self._table = torch.tensor(rows, device=self.device), torch.tensor(lengths, device=self.device)
        return self._table


class Templates:
    """Templates as rows of places; each place is a fixed piece, or a slot that is filled for every text.

    A slot's filler brings the space before it along, at the beginning of a text too.

    Raises:
        ValueError: for a template that lacks a slot it ``needs``, or has one that is not among ``slots``.
    """

    def __init__(self, book: Phrasebook, templates: Sequence[str], slots: Sequence[str], needs: Sequence[str] = ()):
        self.slots = list(slots)
        for template in templates:
            self._check(template, needs)
        rows = [
            [
                -1 - self.slots.index(text) if is_slot else book.piece(text, begins=i == 0)
                for i, (text, is_slot) in enumerate(parts_of(template))
            ]
            for template in templates
        ]
        width = max(map(len, rows), default=1)
        rows = [row + [0] * (width - len(row)) for row in rows]
        self.codes: Int[Tensor, "template place"] = torch.tensor(rows, device=book.device)

    def _check(self, template: str, needs: Sequence[str]) -> None:
        there = slots_of(template)
        missing = [slot for slot in needs if slot not in there]
        wanted = ", ".join(f"{{{slot}}}" for slot in needs)
        require(not missing, f"the template {template!r} lacks the slot(s) {missing}; it must have each of {wanted}")
        unknown = [slot for slot in there if slot not in self.slots]
        require(
            not unknown,
            f"the template {template!r} has the slot(s) {unknown}, which nothing fills; there are {self.slots}",
        )

    def fill(self, which: Int[Tensor, "*text"], fillers: Int[Tensor, "*text slot"]) -> Int[Tensor, "*text place"]:
        """Return the pieces of the templates ``which``, with every slot's filler in its place."""
        codes = self.codes[which]
        return torch.where(codes < 0, fillers.gather(-1, (-1 - codes).clamp(min=0)), codes)

    def place_of(self, slot: str) -> Int[Tensor, " template"]:
        """Return at which place every template has a slot, -1 where it has none; of several, the last."""
        places = torch.arange(self.codes.shape[1], device=self.codes.device)
        return torch.where(self.codes == -1 - self.slots.index(slot), places, -1).amax(1)


def choose(n: Any, options: int, generator: torch.Generator) -> Tensor:
    """Return whole numbers below ``options``, uniform, of shape ``n``."""
    shape = n if isinstance(n, tuple) else (n,)
    return torch.randint(options, shape, generator=generator, device=generator.device)


def distinct(n: int, k: int, options: int, generator: torch.Generator) -> Int[Tensor, "n k"]:
    """Return ``k`` different whole numbers below ``options`` in every row, uniform."""
    require(options >= k, f"{k} different ones are needed, and there are only {options}")
    keys = torch.rand(n, options, generator=generator, device=generator.device)
    return keys.topk(k).indices
