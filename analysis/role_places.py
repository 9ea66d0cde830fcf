"""Where a role stands in a row of a pair: at a word of its clean text, by which of its times, or at a position."""

from __future__ import annotations

import re
from numbers import Integral
from typing import Any

from circuits.common.errors import require
from circuits.model import HookedStreamTransformer

Place = int | tuple[str, int | None]
"""A position, 0 for the first token of a row and -1 for its last; or a word, and which of its times is meant, 1 for the
first and -1 for the last (``None``: it stands there once)."""
Span = tuple[int, int]
"""The first and the last token of a piece of text; or its first character, and the one after its last."""


def checked_place(role: Any, given: Any) -> Place:
    """Return the place of a role that is given as a word, a word and its time, or a position.

    Raises:
        ValueError: for what is none of these.
    """
    if isinstance(role, str) and not isinstance(given, bool):
        match given:
            case Integral():
                return int(given)
            case str(word) if word.strip():
                return word.strip(), None
            case [str(word), Integral() as time] if word.strip() and time and not isinstance(time, bool):
                return word.strip(), int(time)
    raise ValueError(
        f"role {role!r} is a word, as in 'Mary', a word and its time, as in ('Mary', 2) or ('Mary', -1) for the last, "
        f"or the number of a position; got {given!r}"
    )


def position_of(
    model: HookedStreamTransformer, role: str, place: Place, clean: object, corrupt: object, length: int
) -> int:
    """Return the position of a role in a row of ``length`` tokens, from 0; of several tokens of a word, the last.

    ``clean`` and ``corrupt`` are the texts of the row, or token numbers, among which no word is looked for.

    Raises:
        ValueError: for a position that the row does not have, a word that is not in the clean text or stands there more
            than once, or one in whose place the corrupt text has words of another number of tokens.
    """
    if isinstance(place, int):
        there = -length <= place < length
        require(there, f"role {role!r}: the row has {length} tokens, and no position {place}")
        return place % length
    word, time = place
    if not (isinstance(clean, str) and isinstance(corrupt, str)):
        raise ValueError(
            f"role {role!r}: {word!r} is looked for in texts; among token numbers give a position, as in {role!r}: 4"
        )
    begin = _begin(role, word, time, clean)
    span = _tokens_over(model, clean, (begin, begin + len(word)))
    whole = _whole_words(model, corrupt, span)
    other = _tokens_over(model, corrupt, whole)
    require(
        other == span,
        f"role {role!r}: {word!r} is {_count(span)} in the clean text, and in its place the corrupt one has a part of "
        f"{corrupt[slice(*whole)].strip()!r}, which is {_count(other)}; choose words of as many tokens, or give the "
        f"role as a position",
    )
    # What opens the text stands before the tokens of the text itself.
    return length - len(_offsets(model, clean)) + span[1]


def goes_on(text: str, at: int) -> bool:
    """Return whether a word goes on across a place in a text."""
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _begin(role: str, word: str, time: int | None, text: str) -> int:
    """The first character of a word, at one of its times, in a text."""
    begins = [match.start() for match in re.finditer(f"(?={re.escape(word)})", text)]
    whole = [at for at in begins if not goes_on(text, at) and not goes_on(text, at + len(word))]
    require(
        len(whole) == 1 if time is None else abs(time) <= len(whole),
        f"role {role!r}: {word!r} stands {len(whole)} time(s) in {text!r}, whole; name a word that is there, and of "
        f"several the time that is meant, as in ({word!r}, 1)",
    )
    return whole[0 if time is None else time - 1 if time > 0 else time]


def _whole_words(model: HookedStreamTransformer, text: str, span: Span) -> Span:
    """The characters of the words of which some tokens are, or are a part."""
    offsets = _offsets(model, text)
    begin, end = offsets[span[0]][0], offsets[span[1]][1]
    while goes_on(text, begin):
        begin -= 1
    while goes_on(text, end):
        end += 1
    return begin, end


def _tokens_over(model: HookedStreamTransformer, text: str, piece: Span) -> Span:
    inside = [i for i, (begin, end) in enumerate(_offsets(model, text)) if begin < piece[1] and end > piece[0]]
    require(bool(inside), f"no token of {text!r} is of {text[slice(*piece)]!r}")
    return inside[0], inside[-1]


def _offsets(model: HookedStreamTransformer, text: str) -> list[Span]:
    require(
        getattr(model.tokenizer, "is_fast", False),
        "this tokenizer does not say where in a text its tokens stand (it is no fast one of transformers), so no word "
        "is found; give roles as positions",
    )
    return model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


def _count(span: Span) -> str:
    n = span[1] - span[0] + 1
    return f"{n} token" if n == 1 else f"{n} tokens"
