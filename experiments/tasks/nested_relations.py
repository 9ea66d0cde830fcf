"""Relations across nested clauses: who gave what to whom, inside whom; then a question on one of the clauses.

Depth 0 is "Anna gave the ball to Ben. Who gave the ball? Anna"; depth 1 is "Anna, to whom Carl gave the kite, gave the
ball to Ben. Who gave the kite? Carl"; a depth more is another clause inside the innermost one. The clause of level i is
that inside i others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from analysis.heads.attention_scores import AttentionScore, scores_by_role
from analysis.pairs import Pair
from circuits.common.errors import known, require, whole
from circuits.common.fields import checked_value
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.sentences.relations import QUESTIONS, passage
from experiments.tasks.sentences.templates import Laid, Phrasebook, Templates, choose, distinct
from experiments.tasks.sentences.tokenizer import plain_english
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.task import TokenTask

SPLITS: dict[str, str] = {"train": "texts to learn from", "validation": "other draws of the same texts"}
CORRUPTIONS: dict[str, str] = {
    "exchange": "the answer changes places with its like at another level; at depth 0 giver and receiver change "
    "places, or the thing is another one"
}
NAMES = (*words.GIRLS, *words.BOYS)
THINGS = words.SLOTS["thing"]
DEEPEST = len(THINGS) - 2
"""A thing at every level, and one that is in none."""


def text_length(depth: int) -> int:
    """Return the number of tokens of a text: the one that opens it, passage, question and answer."""
    return 8 * depth + 14


@dataclass(frozen=True)
class NestedConfig(TokenTaskConfig):
    """Which depths and questions there are in training, each equally often, and the length of a window.

    Raises:
        ValueError: if there are none or some twice, for a depth below 0 or with more clauses than there are things, or
            a window that cannot hold the deepest text; for fields of another type.
        UnknownNameError: for an unknown kind of question (nearest suggested).
    """

    depths: tuple[int, ...] = (0, 1, 2, 3)
    n_ctx: int = 64
    questions: tuple[str, ...] = tuple(QUESTIONS)
    answers_only: bool = False
    """Whether only the answers count in the loss: who gives what is drawn at random, and most of the rest is noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, given in (("depths", self.depths), ("questions", self.questions)):
            require(bool(given), f"{field} is empty; give one at least")
            require(len(set(given)) == len(given), f"{field} must differ from each other, got {given}")
        for question in self.questions:
            known("question", question, QUESTIONS)
        for depth in self.depths:
            _check_depth(depth, self.n_ctx)


def _check_depth(depth: int, n_ctx: int) -> int:
    """Check a depth, and return it."""
    depth = checked_value(depth, int, "a depth")
    require(depth >= 0, f"a depth counts clauses inside each other and is 0 at least, got {depth}")
    require(depth <= DEEPEST, f"depth {depth} needs {depth + 2} things and there are {len(THINGS)}: {DEEPEST} at most")
    needed = text_length(depth)
    require(
        needed <= n_ctx, f"a text of depth {depth} has {needed} tokens and the window n_ctx = {n_ctx}; make it longer"
    )
    return depth


@dataclass(frozen=True)
class _Drawn:
    """What was chosen for every text. The fillers of ``_SLOTS[:-3]`` are ``entities``; ``answer`` and ``other`` are
    numbers of such slots: that of the answer, and that of what it is exchanged with."""

    template: Int[Tensor, " text"]
    level: Int[Tensor, " text"]
    entities: Int[Tensor, "text entity"]
    answer: Int[Tensor, " text"]
    other: Int[Tensor, " text"]


class NestedTask(TokenTask):
    """The task in the words of the stories (:func:`experiments.tasks.sentences.tokenizer.plain_english`).

    A window is filled with texts, each opened by the token that begins a story; the first is whole, the last is cut. So
    there is no padding, and unless only answers count, those of names and things do too, which nothing tells.

    Raises:
        UnknownNameError: from methods, for an unknown split, corruption or question (nearest suggested).
        ValueError: from methods, for a number of windows or pairs that is not a whole one of 1 or more, and for a depth
            that is not one of 0 or more or whose texts are longer than the window.
    """

    splits = SPLITS
    corruptions = CORRUPTIONS

    def __init__(self, config: NestedConfig | None = None, seed: int = 0, device: str | torch.device = "cpu"):
        super().__init__(config or NestedConfig(), seed, device, plain_english())
        self.book = Phrasebook(lambda text: self.tokenizer.encode(text, add_special_tokens=False), device)
        # Deeper texts than those of training can be asked about, as far as they fit.
        self._n_depths = 1 + max(d for d in range(DEEPEST + 1) if text_length(d) <= self.n_ctx)
        people = ["R", *(f"N{i}" for i in range(self._n_depths))]
        things = [f"O{i}" for i in range(self._n_depths)]
        slots = [*people, *things, "another", "O", "N", "answer"]
        every = [f"{passage(d)} {text} {{answer}}" for d in range(self._n_depths) for text in QUESTIONS.values()]
        self._templates = Templates(self.book, every, slots)
        # One place on, because of the opening; 0 where a template lacks a slot.
        self._place = torch.stack([self._templates.place_of(slot) for slot in slots]) + 1
        self._asked = self._place[slots.index("O")].maximum(self._place[slots.index("N")])
        self._names, self._things = self.book.pieces(NAMES), self.book.pieces(THINGS)
        self._opening = self.book.special(self.tokenizer.bos_token_id)
        # Every question ends with it, and nothing else does.
        self._mark = self.book.tokens("?")[0]

    # --- what a trainer asks ----------------------------------------------------------------------------------------

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        """Return ``n`` windows of a split; equal arguments give equal windows."""
        n = whole("n", n)
        generator = self.generator("sample", known("split", split, SPLITS), seed)
        per_window = -(-self.n_ctx // text_length(min(self.config.depths)))
        drawn = self._draw(n * per_window, self.config.depths, self.config.questions, generator)
        places = rearrange(self._places(drawn), "(n text) place -> n (text place)", n=n)
        tokens = self._lay(places).tokens[:, : self.n_ctx].contiguous()
        return TokenBatch(tokens, tokens == self._mark if self.config.answers_only else None)

    def questions(self, n: int) -> dict[str, Pair]:
        """Return evaluation sets of ``n`` pairs each: "depth 0"... with all questions, "giver"... of all depths."""
        n = whole("n", n)
        by_depth = {f"depth {depth}": self.pairs(n, depth=depth) for depth in self.config.depths}
        return by_depth | {question: self.pairs(n, question=question) for question in self.config.questions}

    # --- what an analysis asks --------------------------------------------------------------------------------------

    def pairs(
        self,
        n: int,
        corruption: str = "exchange",
        seed: int = 0,
        split: str = "train",
        depth: int | None = None,
        question: str | None = None,
    ) -> Pair:
        """Return ``n`` texts up to the question mark with a counterfactual of each, of a depth and a kind of question.

        ``None`` takes those of training, mixed; a deeper text than in training may be asked for. Position roles:
        "answer" and "competing", where the right and the wrong answer stand in the clean passage; "asked", the thing or
        name in the question; END. At depth 0 the wrong thing is not in the clean passage: "competing" is "answer".
        """
        n = whole("n", n)
        known("corruption", corruption, CORRUPTIONS)
        if question is not None:
            known("question", question, QUESTIONS)
        if depth is not None:
            depth = _check_depth(depth, self.n_ctx)
        labels = ("any" if depth is None else depth, question or "any", seed)
        generator = self.generator("pairs", corruption, known("split", split, SPLITS), *labels)
        depths = self.config.depths if depth is None else (depth,)
        drawn = self._draw(n, depths, self.config.questions if question is None else (question,), generator)
        exchanged = replace(drawn, entities=_exchanged(drawn.entities, drawn.answer, drawn.other))
        clean, corrupt = (self._lay(self._places(side, answered=False)) for side in (drawn, exchanged))
        answers, wrong = (self.book.first_tokens(_at(side.entities, side.answer)) for side in (drawn, exchanged))
        ends = clean.lengths - 1
        positions = self._positions(drawn, clean) | {"END": ends[:, None]}
        mask = torch.arange(clean.tokens.shape[1], device=ends.device) <= ends[:, None]
        return Pair(clean.tokens, corrupt.tokens, answers, wrong, positions, ends, mask, self.tokenizer)

    def head_scores(self, pair: Pair) -> list[AttentionScore]:
        """Return the scores of a previous-token head and of attention from END to every other role of a pair.

        They are of the clean sides; padding is left out.
        """
        return scores_by_role(pair)

    # --- the generator ----------------------------------------------------------------------------------------------

    def _draw(self, n: int, depths: tuple[int, ...], questions: tuple[str, ...], generator: torch.Generator) -> _Drawn:
        kinds = torch.tensor([list(QUESTIONS).index(question) for question in questions], device=self.device)
        depth = torch.tensor(depths, device=self.device)[choose(n, len(depths), generator)]
        kind = kinds[choose(n, len(kinds), generator)]
        # As many as the deepest text needs, for all: rows are of one length.
        people = self._names[distinct(n, self._n_depths + 1, len(NAMES), generator)]
        things = self._things[distinct(n, self._n_depths + 1, len(THINGS), generator)]
        level = _below(depth + 1, generator)
        other_level = (level + 1 + _below(depth, generator)) % (depth + 1)
        answer = self._slot(kind, level)
        # At depth 0 there is no other level: the receiver's slot is 0, the giver's 1, and the last is "another".
        alone = torch.where(kind == 2, 2 * self._n_depths + 1, 1 - answer)
        other = torch.where(depth == 0, alone, self._slot(kind, other_level))
        return _Drawn(depth * len(QUESTIONS) + kind, level, torch.cat([people, things], 1), answer, other)

    def _slot(self, kind: Int[Tensor, " text"], level: Int[Tensor, " text"]) -> Int[Tensor, " text"]:
        """The slot of the one at a level who gives or receives, or of what is given: people come R, N0, N1..."""
        things = self._n_depths + 1 + level
        return torch.where(kind == 0, level + 1, torch.where(kind == 1, level, things))

    def _places(self, drawn: _Drawn, answered: bool = True) -> Int[Tensor, "text place"]:
        asked_thing = _at(drawn.entities, self._n_depths + 1 + drawn.level)
        asked_name = _at(drawn.entities, drawn.level + 1)
        answer = _at(drawn.entities, drawn.answer) if answered else torch.zeros_like(asked_name)
        fillers = torch.cat([drawn.entities, torch.stack([asked_thing, asked_name, answer], 1)], 1)
        opening = torch.full((len(fillers), 1), self._opening, device=self.device)
        return torch.cat([opening, self._templates.fill(drawn.template, fillers)], 1)

    def _lay(self, places: Int[Tensor, "text place"]) -> Laid:
        return self.book.lay(places, self.tokenizer.pad_token_id)

    def _positions(self, drawn: _Drawn, laid: Laid) -> dict[str, Int[Tensor, "text 1"]]:
        answer, other = (self._place[slot, drawn.template] for slot in (drawn.answer, drawn.other))
        asked = self._asked[drawn.template]
        roles = {"answer": answer, "competing": torch.where(other == 0, answer, other), "asked": asked}
        return {role: laid.starts.gather(1, place[:, None]) for role, place in roles.items()}


def _below(bounds: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
    """Whole numbers below the bounds, uniform; 0 for a bound of 0."""
    return (torch.rand(len(bounds), generator=generator, device=bounds.device) * bounds).long()


def _at(values: Int[Tensor, "n entity"], index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    return values.gather(1, index[:, None])[:, 0]


def _exchanged(
    entities: Int[Tensor, "n entity"], one: Int[Tensor, " n"], other: Int[Tensor, " n"]
) -> Int[Tensor, "n entity"]:
    a, b = one[:, None], other[:, None]
    return entities.scatter(1, a, entities.gather(1, b)).scatter(1, b, entities.gather(1, a))
