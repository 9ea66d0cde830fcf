"""Tokens of a corpus on the disk, made once and mapped into memory ever after."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt
from numpy.lib import format as npy
from tqdm import tqdm

from circuits.common.errors import require
from circuits.common.files import whole_folder, write_atomically
from circuits.common.plain_data import content_hash
from circuits.common.text_coverage import Coverage, shown
from experiments.tasks.text.corpus import Corpus, made
from experiments.tasks.tokenizers import PreTrainedTokenizerBase, fingerprint

LAYOUT = 2
"""Stored tokens of another layout are made anew."""
ARRAYS = ("tokens", "ends", "hashes")
HASHES = "sha256.json"
"""Of every array's file, its hash."""
MOST_UNKNOWN = 0.5
MOST_NAMED = 100
"""Of unknown words, so many are kept for messages."""
CHOOSE = "choose a tokenizer that was made for such texts"


@dataclass(frozen=True)
class TokenStore:
    """The tokens of all documents, one document behind the other."""

    tokens: UInt[np.ndarray, " token"]
    ends: Int[np.ndarray, " document"]
    """Where each document ends in ``tokens``, and the next one begins."""
    hashes: UInt[np.ndarray, " document"]
    """64 bits hashed from each document's text: equal for equal documents, whatever their order."""

    @property
    def lengths(self) -> Int[np.ndarray, " document"]:
        """The number of tokens of each document."""
        return np.diff(self.ends, prepend=0)


def tokenised(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, cache: Path) -> TokenStore:
    """Return the tokens of a corpus; they are made if the cache does not hold them, and only then is it read.

    Of every document they are what the tokenizer makes of it, with what its own template puts before
    (:func:`circuits.loading.tokenizers.opening_tokens`) and behind. When they are made, a
    tokenizer that does not know some words is warned of, with the share of such tokens.

    Raises:
        ValueError: for a corpus that is empty or cannot be read, a tokenizer that knows less than half of its words, or
            one that would lose some without leaving a token, or a cache that cannot be written.
    """
    key = content_hash([LAYOUT, corpus.identity, fingerprint(tokenizer)])
    folder = cache / "tokens" / key[:24]
    if not folder.is_dir():
        made(folder.parent)
        # Runs that start together wait for the first, and find what it has made.
        with whole_folder(folder) as scratch:
            if scratch is not None:
                _write(scratch, corpus, tokenizer)
    _check(folder)
    arrays = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _types(tokenizer))
    return TokenStore(*map(np.asarray, arrays))


def _check(folder: Path) -> None:
    try:
        held = json.loads((folder / HASHES).read_bytes())
        hashes = {f"{name}.npy": held.get(f"{name}.npy") for name in ARRAYS}
    except (OSError, ValueError, AttributeError):
        hashes = {HASHES: None}
    changed = [name for name, digest in hashes.items() if digest != _sha256(folder / name)]
    require(
        not changed,
        f"{', '.join(changed)} in {folder}, where the tokens of a corpus are kept, were changed or damaged; remove the "
        f"folder, and they are made again",
    )


def _sha256(file: Path) -> str:
    if not file.is_file():
        return "missing"
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _types(tokenizer: PreTrainedTokenizerBase) -> dict[str, np.dtype]:
    small = len(tokenizer) <= np.iinfo(np.uint16).max + 1
    types = (np.dtype(np.uint16 if small else np.uint32), np.dtype("i8"), np.dtype("u8"))
    return dict(zip(ARRAYS, types, strict=True))


def _write(folder: Path, corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    known, end, n_documents = _Known(corpus, tokenizer), 0, 0
    with ExitStack() as stack:
        types = _types(tokenizer).items()
        append = {name: stack.enter_context(_growing(folder / f"{name}.npy", dtype)) for name, dtype in types}
        for texts in tqdm(corpus.batches(), f"tokenising {corpus.name}", unit=" batches", disable=None):
            tokens, lengths = _encode(texts, corpus, tokenizer)
            append["tokens"](tokens)
            append["ends"](end + np.cumsum(lengths))
            append["hashes"](np.array([_hash(text) for text in texts], dtype=np.uint64))
            end, n_documents = end + len(tokens), n_documents + len(texts)
            known.check(texts, tokens, lengths)
    require(n_documents > 0, f"corpus {corpus.name} is empty: it holds no document that is not blank")
    hashes = {f"{name}.npy": _sha256(folder / f"{name}.npy") for name in ARRAYS}
    write_atomically(folder / HASHES, json.dumps(hashes).encode())
    known.warn()


def _encode(
    texts: Sequence[str], corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " document"]]:
    try:
        encoded = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False)
    except Exception as error:  # the library raises no narrower class
        raise ValueError(
            f"the tokenizer cannot make tokens of corpus {corpus.name}: {error}; {CHOOSE}, or leave such text out"
        ) from error
    rows = encoded["input_ids"]
    lengths = np.array([len(row) for row in rows])
    tokens = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    beyond = int(tokens.max(initial=0)) >= len(tokenizer)
    require(not beyond, f"the tokenizer gives token {tokens.max(initial=0)}, but says it has {len(tokenizer)}")
    return tokens, lengths


def _hash(text: str) -> int:
    # JSON may hold halves of surrogate pairs, which have no UTF-8 of their own.
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class _Known:
    """How much of a corpus a tokenizer knows, counted batch by batch."""

    def __init__(self, corpus: Corpus, tokenizer: PreTrainedTokenizerBase):
        self.corpus, self.coverage = corpus, Coverage(tokenizer)
        self.pieces, self.unknown, self.n_tokens = list[str](), 0, 0

    def check(
        self, texts: Sequence[str], tokens: Int[np.ndarray, " token"], lengths: Int[np.ndarray, " document"]
    ) -> None:
        """Count what is unknown of some more documents, given their tokens.

        Raises:
            ValueError: if more than half of all tokens so far are, or text is lost without a token.
        """
        self.n_tokens += len(tokens)
        lost = [piece for text in texts for piece in self.coverage.lost(text)] if self.coverage.can_lose else []
        require(
            not lost,
            f"the tokenizer has no token for some or all of {shown(lost[:1])} in corpus {self.corpus.name}, which "
            f"would be left out without a word ({len(lost)} such words in {len(texts)} documents); {CHOOSE}",
        )
        # A document that writes the unknown token out means it, so only where there is one is the text looked at.
        starts = np.cumsum(lengths) - lengths
        holds = np.isin(tokens, sorted(self.coverage.unknown))
        for i in np.flatnonzero(np.add.reduceat(holds, starts[lengths > 0])):
            found = self.coverage.missing(np.array(texts, dtype=object)[lengths > 0][i])
            self.unknown, self.pieces = self.unknown + len(found), [*self.pieces, *found][:MOST_NAMED]
        require(
            self.unknown <= MOST_UNKNOWN * self.n_tokens,
            f"the tokenizer does not know most of corpus {self.corpus.name}: {self.unknown} of {self.n_tokens} tokens "
            f"are {self._stand_in}, as for {shown(self.pieces)}; {CHOOSE}",
        )

    def warn(self) -> None:
        """Warn if any token is unknown."""
        if self.unknown:
            share = self.unknown / self.n_tokens
            warnings.warn(
                f"the tokenizer does not know all of corpus {self.corpus.name}: {self.unknown} of {self.n_tokens} "
                f"tokens ({share:.2%}) are {self._stand_in}, as for {shown(self.pieces)}; a model learns nothing of "
                f"such words",
                UserWarning,
                stacklevel=2,
            )

    @property
    def _stand_in(self) -> str:
        return ", ".join(map(repr, self.coverage.written))


@contextmanager
def _growing(path: Path, dtype: np.dtype) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what writes more values behind the others into an array's file."""
    length = 0
    with path.open("wb") as file:

        def head() -> None:
            # For the present length; numpy pads it so that any length has room.
            file.seek(0)
            about = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
            npy.write_array_header_1_0(file, about)

        def append(values: np.ndarray) -> None:
            nonlocal length
            file.write(values.astype(dtype).tobytes())
            length += len(values)

        head()
        yield append
        head()
        file.flush()
        os.fsync(file.fileno())
