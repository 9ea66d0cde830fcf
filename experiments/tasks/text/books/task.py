"""Language modelling on books in which sentences on indirect objects are inserted at a rate that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.heads.attention_scores import AttentionScore
from analysis.pairs import Pair
from circuits.common.errors import require, whole
from circuits.common.files import path_of
from circuits.loading.tokenizers import TOKENIZER_JSON
from circuits.model import HookedStreamTransformer
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.repeated_tokens import RepeatsConfig, RepeatsTask
from experiments.tasks.task import Row, TrainingNumbers
from experiments.tasks.text.books.folder import HELD_OUT, TRAIN, read_books
from experiments.tasks.text.books.names import HELD_OUT_NAMES, NAMES
from experiments.tasks.text.books.natural import SOURCE, natural_pair, passages_of_files
from experiments.tasks.text.corpus import Corpus, LocalCorpus, local_files
from experiments.tasks.text.stored_tokens import tokenised
from experiments.tasks.text.task import SPLITS, TextTask, TextTaskConfig
from experiments.tasks.text.windows import Windows
from experiments.tasks.tokenizers import PreTrainedTokenizerBase
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.measures import MEASURES, TokenEvaluationSets, evaluate, validation_loss

FEWEST = 10
"""A generated sentence has so many tokens at least: its shortest template has 14 words and marks."""
REPEATED = "second"
"""The set of repeated tokens, as that of :class:`RepeatsTask` is called."""


@dataclass(frozen=True)
class BooksConfig(TextTaskConfig):
    """A folder that :func:`experiments.tasks.text.books.folder.make_books` made, and how many windows are generated.

    Raises:
        ValueError: for a share outside 0 to 1, or if the numbers contradict each other.
    """

    made = "; 'valuestream books FOLDER' makes it"

    n_ctx: int = 128
    validation: str | float = HELD_OUT
    packed: bool = True
    inserted: float = 0.1
    """The share of training windows that hold generated sentences on indirect objects instead of books."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.inserted <= 1, f"inserted is a share of windows, from 0 to 1, got {self.inserted}")
        require(
            isinstance(self.validation, str) and self.packed,
            "books are held out in a folder of their own and packed; make the configuration with BooksConfig.in_folder",
        )

    @classmethod
    def in_folder(cls, folder: str | Path, **rest: Any) -> BooksConfig:
        """Return the configuration of a folder of books, :meth:`identified`; ``rest`` are ``n_ctx`` and ``inserted``.

        Raises:
            ValueError: if the folder holds no books, or they were changed.
        """
        place = path_of("the folder of books", folder).expanduser()
        require(place.is_dir(), f"there is no folder {folder}; 'valuestream books {folder}' makes it")
        read_books(place)
        found = cls(str(place / TRAIN), str(place / TOKENIZER_JSON), validation=str(place / HELD_OUT), **rest)
        # Of a TextTaskConfig, and it gives what it is given.
        identified = found.identified()
        assert isinstance(identified, BooksConfig)
        return identified

    def prompts(self, tokenizer: PreTrainedTokenizerBase, seed: int, device: str = "cpu") -> IOITask:
        """Return the task on indirect objects whose sentences are inserted, each opened by the token between
        documents; its held-out names are those of persons in the books."""
        config = IOIConfig(NAMES, HELD_OUT_NAMES, n_ctx=self.n_ctx)
        return IOITask(config, tokenizer, seed, device, _between(tokenizer))


def _between(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token between documents, which opens prompts too."""
    token: Any = tokenizer.eos_token_id
    return int(token)


class BooksTask(TextTask):
    """Windows of books, and at a rate of generated sentences, each opened by the token between documents.

    Asked are the loss on held-out documents, all and by source; repeated random tokens, which induction heads continue;
    generated prompts, and the paper's (:class:`IOITask`); and natural indirect objects of the held-out documents
    ("natural") and of those that are trained on ("natural seen").

    Raises:
        ValueError: as :class:`TextTask`, and for a tokenizer in which a name is several tokens.
    """

    splits = IOITask.splits
    corruptions = IOITask.corruptions

    @cached_property
    def ioi(self) -> IOITask:
        """The task on indirect objects whose sentences are inserted."""
        return self.config.prompts(self.tokenizer, self.seed, str(self.device))

    @property
    def sources(self) -> list[str]:
        """The splits of held-out documents by source, "validation austen" and so on."""
        return [split for split in self._windows if split not in SPLITS]

    # --- what a trainer asks ----------------------------------------------------------------------------------------

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        """Return ``n`` windows of step ``seed``, as :meth:`TextTask.sample`; of "train" the last ones are generated.

        Up to any step the share of those is the one that is stated, to less than one window, and the books go on where
        they were: an epoch of them has each of their windows once.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
            ValueError: if ``n`` is not a whole number of 1 or more.
        """
        if split != "train":
            return super().sample(n, split, seed)
        first, end = seed * (n := whole("n", n)), (seed + 1) * n
        generated_first, generated_end = (math.floor(self.config.inserted * at) for at in (first, end))
        held = list[torch.Tensor]()
        if n > (generated := generated_end - generated_first):
            held.append(self.walk("train", first - generated_first, end - generated_end).tokens)
        if generated:
            held.append(self.generated(generated, seed))
        return TokenBatch(torch.cat(held))

    def generated(self, n: int, seed: int = 0) -> torch.Tensor:
        """Return ``n`` windows (n, n_ctx) of generated sentences, one behind the other as packed documents are."""
        sentences = self.ioi.sample(-(-n * self.n_ctx // FEWEST), "train", seed)
        assert sentences.counted is not None
        # What is predicted of a sentence is all but its first token.
        inside = torch.cat([torch.ones_like(sentences.counted[:, :1]), sentences.counted[:, :-1]], 1)
        return sentences.tokens[inside][: n * self.n_ctx].reshape(n, self.n_ctx)

    def evaluation_sets(self, training: TrainingNumbers) -> BooksEvaluationSets:
        """Return the validation windows, those by source, repeated tokens and the questions."""
        return BooksEvaluationSets(self, training.n_eval, training.n_questions)

    def measures(self, model: HookedStreamTransformer, sets: TokenEvaluationSets, compiled: bool = False) -> list[Row]:
        """Return (set, measure, value): those of every task of tokens; the loss by source; and of repeated tokens the
        loss where they are repeated, and by how much it is below that where they first stand ("drop"), in nats.

        Raises:
            ValueError: for a model in training mode.
        """
        rows = evaluate(model, sets)
        assert isinstance(sets, BooksEvaluationSets)
        rows += [(source, "loss", validation_loss(model, held)) for source, held in sets.by_source.items()]
        first, again = (validation_loss(model, held) for held in sets.repeated)
        return [*rows, (REPEATED, "loss", again), (REPEATED, "drop", first - again)]

    # --- what is asked ----------------------------------------------------------------------------------------------

    def questions(self, n: int) -> dict[str, Pair]:
        """Return the evaluation sets of :meth:`IOITask.questions`, "second" of repeated tokens, and all natural
        indirect objects that fit into a window: "natural", "natural seen"."""
        pair = self._repeats.pairs(whole("n", n))
        clean, corrupt, right, wrong = (
            self._repeated[held] for held in (pair.clean, pair.corrupt, pair.answers, pair.wrong)
        )
        return {
            **self.ioi.questions(n),
            REPEATED: Pair(clean, corrupt, right, wrong, pair.positions, pair.read_at, tokenizer=self.tokenizer),
            **self.natural,
        }

    @cached_property
    def natural(self) -> dict[str, Pair]:
        """The natural indirect objects by set (:mod:`experiments.tasks.text.books.natural`), without empty sets."""
        places = {"natural": self.config.validation, "natural seen": self.config.corpus}
        files = {name: Path(place).expanduser() / f"{SOURCE}.jsonl" for name, place in places.items()}
        opening = [_between(self.tokenizer)]
        found = {
            name: natural_pair(held, self.tokenizer, opening, self.n_ctx, self.device)
            for name, held in passages_of_files(files).items()
        }
        return {name: pair for name, pair in found.items() if pair is not None}

    def pairs(self, n: int, corruption: str = "flip", seed: int = 0, split: str = "train") -> Pair:
        """Return clean/corrupt prompts, as :meth:`IOITask.pairs`."""
        return self.ioi.pairs(n, corruption, seed, split)

    def head_scores(self, pair: Pair) -> Sequence[AttentionScore]:
        """Return the scores of the kinds of heads of the IOI circuit, as :meth:`IOITask.head_scores`."""
        return self.ioi.head_scores(pair)

    def repeated(self, n: int) -> tuple[TokenBatch, TokenBatch]:
        """Return ``n`` windows of repeated tokens twice: with the predictions that count where the tokens first stand,
        and where they are repeated."""
        found = self._repeats.sample(n, "validation")
        assert found.counted is not None
        tokens = self._repeated[found.tokens]
        return TokenBatch(tokens, ~found.counted), TokenBatch(tokens, found.counted)

    @cached_property
    def _repeats(self) -> RepeatsTask:
        """Repeated tokens by number: 0 opens, the others are those of :attr:`_repeated`."""
        lag = min(24, (self.n_ctx - 1) // 2)
        config = RepeatsConfig(len(self._repeated) - 1, lag, self.n_ctx, shortest=min(4, lag))
        return RepeatsTask(config, self.seed, self.device)

    @cached_property
    def _repeated(self) -> torch.Tensor:
        """The token between documents, and every one that the training documents hold: of the others, which are bytes,
        a model knows nothing."""
        held = np.flatnonzero(np.bincount(self._windows["train"].store.tokens, minlength=self.d_vocab))
        between = _between(self.tokenizer)
        return torch.tensor([between, *held[held != between].tolist()], device=self.device)

    def _cut(self, corpora: list[Corpus], cache: Path) -> dict[str, Windows]:
        windows, c = super()._cut(corpora, cache), self.config
        for file in local_files(c.validation) or ():
            corpus = LocalCorpus(str(file), (file,), c.column, c.separator, cache)
            store = tokenised(corpus, self.tokenizer, cache)
            windows[f"validation {file.stem}"] = self._windowed(file.stem, store, self._usable(store, corpus))
        return windows


class BooksEvaluationSets(TokenEvaluationSets):
    """Those of every task of tokens, the held-out windows by source, and repeated tokens; drawn once."""

    task: BooksTask

    @property
    def measured(self) -> dict[str, tuple[str, ...]]:
        """What is measured, by set."""
        by_source = dict.fromkeys(self.task.sources, ("loss",))
        return super().measured | by_source | {REPEATED: (*MEASURES, "loss", "drop")}

    @cached_property
    def by_source(self) -> dict[str, TokenBatch]:
        """Held-out windows of every source."""
        return {source: self.task.sample(self.n_eval, source) for source in self.task.sources}

    @cached_property
    def repeated(self) -> tuple[TokenBatch, TokenBatch]:
        """Windows of repeated tokens, as :meth:`BooksTask.repeated`."""
        return self.task.repeated(self.n_eval)
