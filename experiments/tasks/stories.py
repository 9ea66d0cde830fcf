"""Short stories in plain English, made by a grammar, in which few sentences are about indirect objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from analysis.heads.attention_scores import AttentionScore
from analysis.pairs import Pair
from circuits.common.errors import known, require, whole
from circuits.common.plain_data import content_hash
from experiments.tasks.indirect_objects.task import IOITask, in_tokens_of
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.sentences.templates import Phrasebook, Templates, choose, distinct
from experiments.tasks.sentences.tokenizer import plain_english, vocabulary
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.task import TokenTask

SPLITS: dict[str, str] = {"train": "stories to learn from", "validation": "other stories of the same grammar"}
KINDS = ("opening", "middle", "giving", "ending", "ioi")
"""The kinds of sentences."""
_CHARACTERS = ("A", "B", "C")
_FREE = tuple(slot for slot in words.SLOTS if slot != "place")
"""What is drawn anew for every sentence, beside the place."""


@dataclass(frozen=True)
class StoriesConfig(TokenTaskConfig):
    """How stories are made. A window begins with a story and holds as much of the next ones as fits.

    Raises:
        ValueError: for shares outside 0 to 1, windows too short for a sentence, or fields of another type.
    """

    n_ctx: int = 64
    p_ioi: float = 0.3
    """The share of stories with one sentence on an indirect object."""
    p_giving: float = 0.3
    """The share of stories in which things change hands in other words; in a few, the one above takes that place."""
    middles: int = 4
    """Sentences between the opening and the ending."""
    grammar: str = ""
    """The fingerprint of words and sentences, filled in: other words are another corpus."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "grammar", self.grammar or fingerprint())
        for name in ("p_ioi", "p_giving"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, got {getattr(self, name)}")
        most = len(words.MIDDLES)
        if self.n_ctx < 24 or not 1 <= self.middles <= most:
            raise ValueError(f"a window must have 24 tokens at least, and a story 1 to {most} middles, got {self}")


@cache
def fingerprint() -> str:
    """Return the first 12 digits of the hash of all words and sentences, so that a run knows what it learned from."""
    sentences = {name: value for name, value in vars(words).items() if name.isupper()}
    return content_hash([sentences, vocabulary()])[:12]


@dataclass(frozen=True)
class Stories:
    """Some stories as windows, with what their sentences are."""

    batch: TokenBatch
    kinds: Int[Tensor, "story sentence"]
    """The kind of every sentence, an index into ``KINDS``."""
    sentence_starts: Int[Tensor, "story sentence"]
    """Where in its window every sentence begins; may lie beyond the window's end."""


class StoriesTask(TokenTask):
    """Stories on end: every window is drawn from the seeds alone, so the corpus has no end and no file.

    Characters of stories with such sentences are names of training; those of the others are all names.

    Raises:
        ValueError: for stories of another grammar than this version's; from methods, for a number of windows or pairs
            that is not a whole one of 1 or more.
        UnknownNameError: from methods, for an unknown split or corruption (nearest suggested).
    """

    splits = IOITask.splits
    corruptions = IOITask.corruptions

    def __init__(self, config: StoriesConfig | None = None, seed: int = 0, device: str | torch.device = "cpu"):
        super().__init__(config or StoriesConfig(), seed, device, plain_english())
        require(
            self.config.grammar == fingerprint(),
            f"these stories have the grammar {self.config.grammar}, this version makes {fingerprint()}; use the "
            f"version that the run was trained with (its run.json names the commit)",
        )
        self.book = Phrasebook(lambda text: self.tokenizer.encode(text, add_special_tokens=False), device)
        pronouns = (f"{c}.{kind}" for c in _CHARACTERS for kind in words.PRONOUNS)
        self._slots = (*_CHARACTERS, "S", "IO", "P", "place", *pronouns, *_FREE)
        pools = {
            "opening": words.OPENINGS,
            "middle": words.MIDDLES,
            "giving": words.GIVING,
            "ending": words.ENDINGS,
            "ioi": words.TEMPLATES,
        }
        every = [text for kind in KINDS for text in pools[kind]]
        self._templates = Templates(self.book, every, self._slots)
        ends = torch.tensor([len(pools[kind]) for kind in KINDS]).cumsum(0)
        self._first = {kind: int(end) - len(pools[kind]) for kind, end in zip(KINDS, ends, strict=True)}
        self._many = {kind: len(pools[kind]) for kind in KINDS}
        self._ends = ends.to(self.device)
        self._names = self.book.pieces([*words.GIRLS, *words.BOYS])
        held_out = [name in words.HELD_OUT_NAMES for name in (*words.GIRLS, *words.BOYS)]
        self._held_out = torch.tensor(held_out, device=self.device)
        self._fillers = {slot: self.book.pieces(texts) for slot, texts in words.SLOTS.items()}
        self._pronouns = {kind: self.book.pieces(both) for kind, both in words.PRONOUNS.items()}
        self._opening = self.book.special(self.tokenizer.bos_token_id)

    @cached_property
    def ioi(self) -> IOITask:
        """The task on indirect objects in the words of the stories; prompts begin as stories do."""
        return in_tokens_of(self)

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        """Return ``n`` windows of a split; equal arguments give equal windows."""
        return self.stories(n, split, seed).batch

    def questions(self, n: int) -> dict[str, Pair]:
        """Return the evaluation sets of :meth:`IOITask.questions`."""
        return self.ioi.questions(whole("n", n))

    def pairs(self, n: int, corruption: str = "flip", seed: int = 0, split: str = "train") -> Pair:
        """Return clean/corrupt prompts, as :meth:`IOITask.pairs`."""
        return self.ioi.pairs(whole("n", n), corruption, seed, split)

    def head_scores(self, pair: Pair) -> list[AttentionScore]:
        """Return the scores of the kinds of heads of the IOI circuit, as :meth:`IOITask.head_scores`."""
        return self.ioi.head_scores(pair)

    # --- the generator ----------------------------------------------------------------------------------------------

    def stories(self, n: int, split: str = "train", seed: int = 0) -> Stories:
        """Return ``n`` windows and what their sentences are; each holds two stories, the second mostly cut."""
        n = whole("n", n)
        generator = self.generator(known("split", split, SPLITS), seed)
        # The shortest sentences have five tokens.
        per_window = 1 + self.n_ctx // (5 * (self.config.middles + 2) + 1)
        has_ioi, has_giving = (
            torch.rand(n * per_window, generator=generator, device=self.device) < p
            for p in (self.config.p_ioi, self.config.p_giving)
        )
        which = self._sentences(has_ioi, has_giving, generator)
        fillers = self._fillings(which, has_ioi | has_giving, generator)
        places = self._templates.fill(which, fillers)  # story sentence place
        opening = torch.full((len(places), 1), self._opening, device=self.device)
        flat = torch.cat([opening, places.flatten(1)], 1).reshape(n, -1)
        laid = self.book.lay(flat, self.tokenizer.pad_token_id)
        short = max(0, self.n_ctx - laid.tokens.shape[1])
        tokens = torch.nn.functional.pad(laid.tokens, (0, short), value=self.tokenizer.pad_token_id)
        width = places.shape[2]
        at = torch.arange(which.shape[1] * per_window, device=self.device)
        # Before the places of a sentence stand those of the sentences before it and one opening a story.
        starts = laid.starts[:, at * width + at // which.shape[1] + 1]
        kinds = torch.bucketize(which, self._ends, right=True).reshape(n, -1)
        return Stories(TokenBatch(tokens[:, : self.n_ctx].contiguous()), kinds, starts)

    def _sentences(
        self, has_ioi: Bool[Tensor, " n"], has_giving: Bool[Tensor, " n"], generator: torch.Generator
    ) -> Int[Tensor, "n sentence"]:
        """The template of every sentence."""
        n, middles = len(has_ioi), self.config.middles
        drawn = {kind: self._first[kind] + choose(n, self._many[kind], generator) for kind in KINDS}
        # Different middles in a story, then one of them (or the opening) gives way to a special sentence.
        between = self._first["middle"] + distinct(n, middles, self._many["middle"], generator)
        which = torch.cat([drawn["opening"][:, None], between, drawn["ending"][:, None]], 1)
        places = distinct(n, 2, middles + 1, generator)
        for kind, has, at in (("giving", has_giving, places[:, :1]), ("ioi", has_ioi, places[:, 1:])):
            at = at.clamp(min=1) if kind == "giving" else at
            which = torch.where(
                has[:, None] & (at == torch.arange(which.shape[1], device=self.device)), drawn[kind][:, None], which
            )
        return which

    def _fillings(
        self, which: Int[Tensor, "n sentence"], only_trained: Bool[Tensor, " n"], generator: torch.Generator
    ) -> Int[Tensor, "n sentence slot"]:
        """What fills the slots of every sentence."""
        n, sentences = which.shape
        keys = torch.rand(n, len(self._names), generator=generator, device=self.device)
        keys = keys.masked_fill(only_trained[:, None] & self._held_out, -1.0)
        people = keys.topk(len(_CHARACTERS)).indices
        boys = (people >= len(words.GIRLS)).long()
        slots = {c: self._names[people[:, i]] for i, c in enumerate(_CHARACTERS)}
        slots |= {
            f"{c}.{kind}": both[boys[:, i]] for i, c in enumerate(_CHARACTERS) for kind, both in self._pronouns.items()
        }
        slots["P"] = self._fillers["place"][choose(n, len(words.PLACES), generator)]
        # In such a sentence either name may stand first, and be repeated.
        swapped = choose((n, 2), 2, generator).bool()
        a, b = slots["A"], slots["B"]
        s_first = swapped[:, 0] == swapped[:, 1]
        slots["S"], slots["IO"] = torch.where(s_first, a, b), torch.where(s_first, b, a)
        per_sentence = {slot: value[:, None].expand(n, sentences) for slot, value in slots.items()}
        is_ioi = (which >= self._first["ioi"]) & swapped[:, :1]
        per_sentence |= {
            "A": torch.where(is_ioi, b[:, None], per_sentence["A"]),
            "B": torch.where(is_ioi, a[:, None], per_sentence["B"]),
        }
        for slot in ("place", *_FREE):
            some = self._fillers[slot]
            per_sentence[slot] = some[choose((n, sentences), len(some), generator)]
        return torch.stack([per_sentence[slot] for slot in self._slots], -1)


def statistics(task: StoriesTask, n: int = 2_000, split: str = "train") -> pd.DataFrame:
    """Return what a corpus is made of, a row a fact (fact, value), counted on ``n`` windows.

    Shares of sentences and tokens are of those that stand whole in their windows.
    """
    made = task.stories(n, split)
    tokens = made.batch.tokens
    real = tokens != task.tokenizer.pad_token_id
    # Between a story's last sentence and the next one stands the token that opens a story.
    ends = made.sentence_starts[:, 1:] - (made.kinds[:, :-1] == KINDS.index("ending")).long()
    whole = ends <= task.n_ctx
    kinds = made.kinds[:, :-1][whole]
    lengths = (ends - made.sentence_starts[:, :-1])[whole]
    rows: dict[str, float] = {
        "windows": n,
        "tokens a window": task.n_ctx,
        "word types": task.d_vocab,
        "word types seen": int(tokens[real].unique().numel()),
        "names": len(words.GIRLS) + len(words.BOYS),
        "names held out": len(words.HELD_OUT_NAMES),
        "share of tokens that are padding": 1 - float(real.float().mean()),
        "tokens a sentence": float(lengths.float().mean()),
    }
    rows |= {f"share of sentences: {kind}": float((kinds == i).float().mean()) for i, kind in enumerate(KINDS)}
    rows["share of tokens in sentences on indirect objects"] = float(
        lengths[kinds == KINDS.index("ioi")].sum() / lengths.sum()
    )
    shares = tokens[real].bincount().float() / tokens[real].numel()
    rows["entropy of single words (nats)"] = float(-(shares[shares > 0] * shares[shares > 0].log()).sum())
    return pd.DataFrame({"fact": list(rows), "value": list(rows.values())})
