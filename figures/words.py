"""Findings in words that fit a title."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

MOST = 120
"""Characters of a title that fits one line, or a little more."""


def fitting(*sentences: str) -> str:
    """Return the first of some sentences, from the most to the least telling, that fits a title; else the last."""
    return next((sentence for sentence in sentences if len(sentence) <= MOST), sentences[-1])


def listed(words: Iterable[str]) -> str:
    """Return words as one would say them: a, b and c."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of the numbers in them: L2H0 before L10H0."""
    return sorted(
        names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )


def sentence(words: str) -> str:
    """Return words as a sentence begins: the first letter is a capital, and names in it stay as they are."""
    return words[:1].upper() + words[1:]


def span(numbers: pd.Series | Sequence[float], form: str = ".0f") -> str:
    """Return the least and the largest of some numbers in words, or the one that all are."""
    low, high = (f"{end(numbers):{form}}" for end in (np.min, np.max))
    return low if low == high else f"{low} to {high}"


def between(number: float, low: float, high: float, form: str = ".2f") -> str:
    """Return a number with its interval, where there is one."""
    return f"{number:{form}}" if np.isnan(low) or low == high else f"{number:{form}} [{low:{form}}, {high:{form}}]"


def gates(variants: Iterable[str]) -> str:
    """Return what the names of variants say of their streams' gates, where they say any."""
    told = {"-stop": "its gradient cut, its values kept", "-gradient-only": "its values cut, its gradient kept"}
    there = {end: words for end, words in told.items() if any(str(v).partition(",")[0].endswith(end) for v in variants)}
    return f" Of a stream, {'; '.join(f'{end}: {words}' for end, words in there.items())}." if there else ""


def counted(n: int, what: str) -> str:
    """Return how many of something there are, as in "1 run" or "5 runs"."""
    return f"{n} {what}{'' if n == 1 else 's'}"
