"""Language modelling on a text corpus: windows of its documents, every one once an epoch, some held out.

Source: arXiv 2412.15113 (8M language model): one document a window, truncated to 256 tokens.
"""

from __future__ import annotations

import dataclasses
import glob
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuits.common.errors import known, require, whole
from circuits.common.plain_data import content_hash, derive_seed, essence, register_plain_union
from circuits.loading.tokenizers import opening_tokens
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.text.corpus import Corpus, HubCorpus, LocalCorpus, default_cache, local_files
from experiments.tasks.text.stored_tokens import TokenStore, tokenised
from experiments.tasks.text.windows import JoinedWindows, SeparateWindows, Windows, held_out
from experiments.tasks.tokenizers import PreTrainedTokenizerBase, tokenizer_identity, tokenizer_named
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.task import TokenTask

register_plain_union(str | float)

SPLITS: dict[str, str] = {
    "train": "the windows that are trained on, shuffled anew in every epoch",
    "validation": "the windows held out",
}
Documents = Int[np.ndarray, " document"]
"""Their numbers in a corpus."""


@dataclass(frozen=True)
class TextTaskConfig(TokenTaskConfig):
    """Which documents, as whose tokens, in which windows.

    Raises:
        ValueError: if the numbers contradict each other.
    """

    made: ClassVar[str] = ""
    """How a corpus of this kind is made, as the end of a sentence that says that there is none."""

    corpus: str
    """A data set's name on the Hugging Face hub, or a local file, folder or pattern: .txt, .jsonl, .json, .parquet."""
    tokenizer: str
    """The path of a tokenizer.json or of its folder, or a name on the hub."""
    column: str = "text"
    n_ctx: int = 256
    """The length of a window."""
    split_train: str = "train"
    """Of a data set on the hub; local files have no splits."""
    validation: str | float = 0.01
    """The share of documents that is held out, or a split's name; with local files, the path of others."""
    packed: bool = False
    """False: a window is a document, cut off or padded; true: documents, each with an end token, in full windows."""
    separator: str | None = None
    """What stands between two documents of .txt files, which end lines as they like; ``None``: a line is a document."""
    subset: str | None = None
    """Of a data set on the hub that has several."""
    revision: str | None = None
    """Of a data set on the hub: a commit, so that it stays the same."""
    content: str | None = None
    """The hash of what local files hold and of what they are read as; see :meth:`identified`."""
    tokenizer_content: str | None = None
    """What :func:`experiments.tasks.tokenizers.tokenizer_identity` says of the tokenizer; see :meth:`identified`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_ctx >= 2, f"n_ctx must be at least 2, a token and the one that follows it, got {self.n_ctx}")
        require(self.separator != "", "separator must not be empty; None takes every line as a document")
        require(bool(self.corpus) and bool(self.tokenizer), "a corpus and a tokenizer need names, got an empty one")
        if isinstance(self.validation, str):
            require(bool(self.validation), "validation is a share, a split's name or a path, got an empty string")
        else:
            share = self.validation
            require(0 < share < 1, f"validation, a share of the documents, must lie between 0 and 1, got {share}")

    @classmethod
    def of(cls, corpus: str, tokenizer: str, **rest: Any) -> TextTaskConfig:
        """Return a configuration, :meth:`identified`.

        Raises:
            UnknownNameError: for a field that there is not (nearest suggested).
            ValueError: if a file cannot be read, saying which.
        """
        for name in rest:
            known("field of TextTaskConfig", name, [field.name for field in dataclasses.fields(cls)])
        return cls(corpus, tokenizer, **rest).identified()

    def identified(self) -> TextTaskConfig:
        """Return the configuration with what its files hold, by which a run is named, and not by where they lie.

        Raises:
            ValueError: if a file cannot be read, saying which.
        """
        tokenizer = self.tokenizer_content or tokenizer_identity(tokenizer_named(self.tokenizer))
        content = self.content or _content(_corpora(self, None))
        return dataclasses.replace(self, content=content, tokenizer_content=tokenizer)

    @property
    def of_files(self) -> bool:
        """Whether the corpus is known to be one of local files."""
        return self.content is not None

    @property
    def places(self) -> dict[str, str]:
        """Where the local files and the tokenizer lie, by the field that names them."""
        files = ["corpus", *(["validation"] if isinstance(self.validation, str) else [])] if self.of_files else []
        named = {name: getattr(self, name) for name in (*files, "tokenizer")}
        return {name: str(Path(place).expanduser().resolve()) for name, place in named.items() if _is_path(place)}

    def without_places(self) -> TextTaskConfig:
        """Return the configuration with the last part alone of every path."""
        return dataclasses.replace(self, **{name: Path(place).name for name, place in self.places.items()})

    def identity(self) -> dict[str, Any]:
        """Return what makes it this task and no other, as plain data: of local files what they hold, and not their
        names."""
        plain = essence(self)
        held = (["corpus", "validation"] if self.of_files else []) + ["tokenizer"] * bool(self.tokenizer_content)
        return {name: value for name, value in plain.items() if name not in held or isinstance(value, float)}

    def prompts(self, tokenizer: PreTrainedTokenizerBase, seed: int, device: str = "cpu") -> IOITask:
        """Return the task on indirect objects that asks a model of these texts, in the tokens of its tokenizer.

        Raises:
            ValueError: for a tokenizer in which a name is several tokens.
        """
        return IOITask(IOIConfig(n_ctx=self.n_ctx), tokenizer, seed, device, opening_tokens(tokenizer))


def _is_path(name: str) -> bool:
    return glob.has_magic(name) or Path(name).expanduser().exists()


class TextTask(TokenTask):
    """Windows of a corpus, which is turned into tokens once and kept in ``cache`` (:func:`default_cache`).

    Which documents are held out depends on the corpus alone; the order of the others on ``seed``. Of documents that are
    a window each, those whose window is a held-out one too are not trained on, with a warning. Batches are on
    ``device``. A window that is a document begins with what the tokenizer's template puts before a text
    (:func:`circuits.loading.tokenizers.opening_tokens`), mostly nothing; packed, so does every document within a
    window. A ``tokenizer`` that is at hand spares looking for the one that is named.

    Raises:
        ValueError: for a corpus or tokenizer that cannot be had or does not serve, saying what to do; see
            :mod:`experiments.tasks.text.corpus` and :mod:`experiments.tasks.text.stored_tokens`.
    """

    def __init__(
        self,
        config: TextTaskConfig,
        seed: int = 0,
        device: str | torch.device = "cpu",
        cache: Path | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__(config, seed, device, tokenizer or tokenizer_named(config.tokenizer))
        corpora = _corpora(config, cache)
        self._check_content(corpora)
        self._windows = self._cut(corpora, cache or default_cache())
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def n_windows(self, split: str = "train") -> int:
        """Return the number of windows of a split: an epoch.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        return len(self._windows[known("split", split, self._windows)])

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        """Return the windows of step ``seed`` of a walk through a split, ``n`` at a step; an epoch has each one once.

        Equal arguments give equal windows. No held out window comes twice in a batch: of "validation" there are at most
        as many as there are, and they are the last ones of an epoch where the step would go on into the next.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
            ValueError: if ``n`` is not a whole number of 1 or more.
        """
        n, size = whole("n", n), self.n_windows(split)
        if split == "train":
            return self.walk(split, seed * n, (seed + 1) * n)
        n = min(n, size)
        # An epoch is shuffled anew: across its end a window might come twice.
        first = min(seed * n, (seed * n // size + 1) * size - n)
        return self.walk(split, first, first + n)

    def walk(self, split: str, first: int, end: int) -> TokenBatch:
        """Return the windows from number ``first`` to before ``end`` of a walk through a split, epoch by epoch.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        size = self.n_windows(split)
        places = torch.arange(first, end)
        epochs = places.div(size, rounding_mode="floor")
        rows = [self._order(split, e)[places[epochs == e] % size] for e in epochs.unique().tolist()]
        return self._windows[split].take(torch.cat(rows).numpy()).to(self.device)

    def _shuffled(self, split: str, epoch: int) -> Int[Tensor, " window"]:
        generator = torch.Generator().manual_seed(derive_seed("text", self.seed, split, epoch))
        return torch.randperm(len(self._windows[split]), generator=generator)

    def _check_content(self, corpora: list[Corpus]) -> None:
        c = self.config
        held = {
            "corpus": (c.corpus, c.content, lambda: _content(corpora)),
            "tokenizer": (c.tokenizer, c.tokenizer_content, lambda: tokenizer_identity(self.tokenizer)),
        }
        for what, (name, expected, found) in held.items():
            require(
                expected is None or expected == found(),
                f"{what} {name} is not the one that this configuration was made for, its content is another; restore "
                f"it, or make a configuration for it with TextTaskConfig.of",
            )

    def _cut(self, corpora: list[Corpus], cache: Path) -> dict[str, Windows]:
        c, tokenizer = self.config, self.tokenizer
        require(
            not c.packed or tokenizer.eos_token_id is not None,
            f"packed windows need a token between documents, and tokenizer {c.tokenizer} has no end token (eos): "
            f"choose another tokenizer, or packed=False",
        )
        parts = [(store := tokenised(corpus, tokenizer, cache), self._usable(store, corpus)) for corpus in corpora]
        if isinstance(c.validation, float):
            store, documents = parts[0]
            held = held_out(store.hashes[documents], c.validation)
            require(not held.all(), f"corpus {c.corpus} has no two different documents: one must be held out")
            parts = [(store, documents[~held]), (store, documents[held])]
        windows = {split: self._windowed(split, *part) for split, part in zip(SPLITS, parts, strict=True)}
        train, validation = (windows[split] for split in SPLITS)
        if isinstance(train, SeparateWindows) and isinstance(validation, SeparateWindows):
            windows["train"] = self._apart(train, validation)
        return windows

    def _apart(self, train: SeparateWindows, validation: SeparateWindows) -> SeparateWindows:
        """The windows to train on that are not held out too."""
        apart, c = train.without(validation), self.config
        same = f"the first {c.n_ctx} tokens of documents that are held out, and are not trained on"
        require(
            len(apart) > 0,
            f"all documents of corpus {c.corpus} begin with {same}, so nothing is left; choose a larger n_ctx, or "
            f"packed=True",
        )
        if left := len(train) - len(apart):
            warnings.warn(
                f"{left:,} of {len(train):,} documents of corpus {c.corpus} begin with {same}",
                UserWarning,
                stacklevel=5,
            )
        return apart

    def _usable(self, store: TokenStore, corpus: Corpus) -> Documents:
        shortest = 1 if self.config.packed else 2
        documents = np.flatnonzero(store.lengths >= shortest)
        require(len(documents) > 0, f"corpus {corpus.name} has no document of {shortest} tokens or more")
        return documents

    def _windowed(self, split: str, store: TokenStore, documents: Documents) -> Windows:
        c = self.config
        pad, eos = (getattr(self.tokenizer, role) for role in ("pad_token_id", "eos_token_id"))
        if not c.packed:
            return SeparateWindows(store, documents, c.n_ctx, next(n for n in (pad, eos, 0) if n is not None))
        assert eos is not None
        windows = JoinedWindows(store, documents, c.n_ctx, eos)
        require(
            len(windows) > 0,
            f"the {split} documents of corpus {c.corpus} are {windows.n_tokens} tokens, less than one window of n_ctx "
            f"= {c.n_ctx}: choose a shorter one, more documents, or packed=False",
        )
        return windows


def _corpora(config: TextTaskConfig, cache: Path | None) -> list[Corpus]:
    """The corpus, and the one to validate on if it is another."""
    c = config
    named = [c.validation] if isinstance(c.validation, str) else []
    files = local_files(c.corpus)
    no_files = "separator is what stands between two documents of a .txt file, and {} holds none; leave it out"
    if files is None:
        require(c.separator is None, no_files.format(c.corpus))
        kept = None if cache is None else cache / "datasets"
        splits = [c.split_train, *named]
        return [HubCorpus(c.corpus, c.subset, c.revision, split, c.column, kept) for split in splits]
    corpora = list[LocalCorpus]()
    for name in [c.corpus, *named]:
        found = local_files(name)
        if found is None:
            raise ValueError(f"local files have no split {name!r}: validation must be a share, or the path of a file")
        corpora.append(LocalCorpus(name, found, c.column, c.separator, cache or default_cache()))
    of_text = any(corpus.kind == "text" for corpus in corpora)
    require(c.separator is None or of_text, no_files.format(c.corpus))
    return [*corpora]


def _content(corpora: list[Corpus]) -> str | None:
    prints = [corpus.identity for corpus in corpora if isinstance(corpus, LocalCorpus)]
    return None if not prints else prints[0] if len(prints) == 1 else content_hash(prints)
