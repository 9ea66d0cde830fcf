"""Frames, and numbers with intervals, as text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd


def as_text(frame: pd.DataFrame) -> str:
    """Return a table as text, numbers to the right and words to the left; a word that is missing is a dash."""
    named = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    words = {str(c): frame[c].astype(object).where(frame[c].notna(), "-").astype(str) for c in named}
    widths = {c: max(len(c), int(words[c].str.len().max())) for c in words}
    padded = frame.assign(**{c: words[c].str.ljust(widths[c]) for c in words})
    headed = padded.rename(columns={c: c.ljust(widths[c]) for c in words})
    lines = headed.to_string(index=False, float_format=lambda x: f"{x:.4g}").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame of words as a Markdown table."""
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def rows_of(frame: pd.DataFrame) -> Iterable[Any]:
    """Return a frame's rows as named tuples."""
    return frame.itertuples()


def interval(mean: float, low: float, high: float, form: str) -> str:
    """Return a number with its interval; of numbers without spread, or of one alone, there is none to print."""
    if math.isnan(mean):
        return "-"
    if math.isnan(low):
        return f"{mean:{form}} (no interval)"
    return f"{mean:{form}} (no spread)" if low == high else f"{mean:{form}} [{low:{form}}, {high:{form}}]"
