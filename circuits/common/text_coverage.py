"""What of a text a tokenizer does not know: pieces that become its unknown token, and pieces that leave no token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from circuits.common.errors import require

_SHOWN = 5
_BLANK = "▁"
"""What many tokenizers write for a space; blanks between words may be left out."""


class Coverage:
    """What one tokenizer of transformers knows of texts; nothing here imports transformers.

    A fast tokenizer says from where in a text every token is, so what it does not know is named as it was written. A
    slow one is asked for its tokens only; it always has an unknown token for what it does not know.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None) if _is_fast(tokenizer) else None
        self.unknown: frozenset[int] = _unknown_numbers(tokenizer, self._backend)
        """The numbers that stand for what the tokenizer does not know."""
        self.written = sorted(str(tokenizer.convert_ids_to_tokens(number)) for number in self.unknown)
        """The texts of these tokens, such as ``<unk>``."""
        self._alphabet = None if self._backend is None else _alphabet_of(self._backend)
        self._known_words: dict[str, bool] = {}

    @property
    def can_lose(self) -> bool:
        """Whether there may be text that leaves no token at all, so that it has to be looked for."""
        return self._alphabet is not None

    def numbers(self, text: str) -> list[int]:
        """Return the token numbers of a text, without the tokens that the tokenizer adds by itself."""
        encoded = self._encoded(text)
        unknown, lost = self._unknown_pieces(text, encoded), self._lost_pieces(text, encoded)
        does = f"which would become {', '.join(map(repr, self.written))}"
        require(
            not unknown,
            f"the tokenizer does not know {shown(unknown)}, {does}; write words that it knows, as they stand in its "
            f"vocabulary (tokenizer.get_vocab()), or use a tokenizer and a model that know these",
        )
        require(
            not lost,
            f"the tokenizer has no token for some or all of {shown(lost)}, which would be left out without a word; "
            f"write what it knows (tokenizer.get_vocab()), or use a tokenizer and a model that know these",
        )
        return encoded["input_ids"]

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a text as :meth:`numbers`, unknown ones among them."""
        return self._encoded(text)["input_ids"]

    def behind(self, before: str, text: str) -> list[int]:
        """Return the token numbers that a text adds behind another, as :meth:`encode`; of its own where tokens of both
        run together.

        Many tokenizers begin every text as if there were a space before it, so what goes on is other tokens than what
        begins.
        """
        head, whole = self.encode(before), self.encode(before + text)
        return whole[len(head) :] if whole[: len(head)] == head else self.encode(text)

    def missing(self, text: str) -> list[str]:
        """Return the pieces of a text that would become the unknown token or be lost, in their order; none: [].

        A text that names the unknown token itself (``"<unk>"``) means it.
        """
        encoded = self._encoded(text)
        return [*self._unknown_pieces(text, encoded), *self._lost_pieces(text, encoded)]

    def lost(self, text: str) -> list[str]:
        """Return the words of a text of which some or all leaves no token, in their order; none: []."""
        return self._lost_pieces(text, self._encoded(text)) if self.can_lose else []

    def _encoded(self, text: str) -> Any:
        where = {} if self._backend is None else {"return_offsets_mapping": True}
        try:
            return self._tokenizer(text, add_special_tokens=False, verbose=False, **where)
        except Exception as error:  # the library raises no narrower class
            unknown = [*self._lost_in(text)] if isinstance(self._alphabet, _Words) and _has_utf8(text) else []
            what = shown(unknown) if unknown else repr(text if len(text) <= 60 else f"{text[:60]}...")
            raise ValueError(
                f"the tokenizer cannot make tokens of {what} ({error}); write words that it knows, or use a tokenizer "
                f"and a model that know these"
            ) from error

    def _unknown_pieces(self, text: str, encoded: Any) -> list[str]:
        numbers = encoded["input_ids"]
        if self.unknown.isdisjoint(numbers):
            return []
        if self._backend is None:
            number, tokens = self._tokenizer.convert_tokens_to_ids, self._tokenizer.tokenize(text)
            return [token for token in tokens if token not in self.written and number(token) in self.unknown]
        spans = zip(numbers, encoded["offset_mapping"], strict=True)
        pieces = (text[start:end].strip() or _word_at(text, start) for n, (start, end) in spans if n in self.unknown)
        return [piece for piece in pieces if piece not in self.written]

    def _lost_pieces(self, text: str, encoded: Any) -> list[str]:
        if self._alphabet is None:
            return []
        added = self._backend.get_added_tokens_decoder()
        pieces, begin = list[str](), 0
        # Added tokens are found before a text is cut into words, and are none of these.
        for number, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if number in added:
                pieces, begin = [*pieces, *self._lost_in(text[begin:start])], max(begin, end)
        return [*pieces, *self._lost_in(text[begin:])]

    def _lost_in(self, text: str) -> Iterator[str]:
        assert self._alphabet is not None, "asked only where text can be lost"
        normalizer, splitter = self._backend.normalizer, self._backend.pre_tokenizer
        # What these two take away, as accents or marks between words, is left out by intention.
        text = text if normalizer is None else normalizer.normalize_str(text)
        words = splitter.pre_tokenize_str(text) if splitter is not None else [(text, (0, len(text)))] if text else []
        for word, (start, end) in words:
            if word not in self._known_words:
                self._known_words[word] = self._alphabet.knows(word)
            if not self._known_words[word]:
                yield text[start:end].strip() or word


class _Words:
    """A vocabulary of whole words without a token for others: the library stops at them."""

    def __init__(self, backend: Any):
        self._number = backend.token_to_id

    def knows(self, word: str) -> bool:
        """Return whether a word leaves tokens for all of it."""
        return self._number(word) is not None


class _Characters:
    """Byte pair encoding without an unknown token: characters that are no tokens vanish."""

    def __init__(self, backend: Any):
        self._number, self._model = backend.token_to_id, backend.model
        self._prefix = self._model.continuing_subword_prefix or ""
        self._suffix = self._model.end_of_word_suffix or ""

    def knows(self, word: str) -> bool:
        """Return whether a word leaves tokens for all of it."""
        whole = getattr(self._model, "ignore_merges", False) and self._number(word) is not None
        return whole or all(self._has(word, place) for place in range(len(word)))

    def _has(self, word: str, place: int) -> bool:
        if word[place].isspace() or word[place] == _BLANK:
            return True
        before, behind = self._prefix if place else "", self._suffix if place == len(word) - 1 else ""
        if self._number(f"{before}{word[place]}{behind}") is not None:
            return True
        return self._model.byte_fallback and _has_bytes(self._number, word[place].encode("utf-8", "surrogatepass"))


def shown(pieces: Sequence[str]) -> str:
    """Return some pieces as a person reads them, each once and few of many."""
    return few([repr(piece) for piece in dict.fromkeys(pieces)])


def few(told: Sequence[str]) -> str:
    """Return the first of some texts, and how many more there are."""
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return ", ".join(told[:_SHOWN]) + more


def _is_fast(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "is_fast", False)) and getattr(tokenizer, "backend_tokenizer", None) is not None


def _unknown_numbers(tokenizer: Any, backend: Any) -> frozenset[int]:
    found = {getattr(tokenizer, "unk_token_id", None)}
    if backend is not None:
        # A bare tokenizer.json has an unknown token that nobody may have told transformers of.
        name = getattr(backend.model, "unk_token", None)
        found.add(None if name is None else backend.token_to_id(name))
        if found == {None} and type(backend.model).__name__ == "Unigram":
            found.add(_unigram_unknown(tokenizer))
    return frozenset(number for number in found if number is not None)


@lru_cache(maxsize=8)
def _unigram_unknown(tokenizer: Any) -> int | None:
    # There is no other way to ask, and a vocabulary is long: it is asked once.
    return json.loads(tokenizer.backend_tokenizer.model.__getstate__())["unk_id"]


def _alphabet_of(backend: Any) -> _Words | _Characters | None:
    """What a model that has no unknown token knows; ``None``: it loses nothing, or the library stops by itself."""
    model = backend.model
    name = getattr(model, "unk_token", None)
    if name is not None and backend.token_to_id(name) is not None:
        return None
    kind = type(model).__name__
    if kind == "WordLevel":
        return _Words(backend)
    return _Characters(backend) if kind == "BPE" and not _knows_every_byte(backend) else None


def _knows_every_byte(backend: Any) -> bool:
    """Whether every text has tokens, byte by byte if need be."""
    if backend.model.byte_fallback and _has_bytes(backend.token_to_id, bytes(range(256))):
        return True
    # A backend is one of tokenizers, so that is there.
    from tokenizers.pre_tokenizers import ByteLevel

    parts = (backend.normalizer, backend.pre_tokenizer)
    of_bytes = any(part is not None and b'"ByteLevel"' in part.__getstate__() for part in parts)
    plain = not (backend.model.continuing_subword_prefix or backend.model.end_of_word_suffix)
    return of_bytes and plain and all(backend.token_to_id(letter) is not None for letter in ByteLevel.alphabet())


def _has_bytes(number: Any, data: bytes) -> bool:
    return all(number(f"<0x{byte:02X}>") is not None for byte in data)


def _has_utf8(text: str) -> bool:
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def _word_at(text: str, place: int) -> str:
    before, behind = text[:place].split(), text[place:].split()
    return (behind or before or [""])[0]
