"""What titles and subtitles of models' figures are made of: numbers of rows, measures spelt out, of whom it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from figures.words import between, listed, span

DIRECTIONS = {
    "denoise": "clean activations patched into the corrupt run",
    "noise": "corrupt activations patched into the clean run",
}
"""What is patched, by direction."""
LEAST = 0.005
"""Smaller numbers are 0 in two digits."""
_NAMED = 4
"""So many variants are named in a subtitle; more are counted."""


def spelt(name: object) -> str:
    """Return the name of a measure as words."""
    return str(name).replace("_", " ")


def plain(value: float | np.floating, form: str = ".2f") -> str:
    """Return a number in a format, zero without a sign."""
    text = f"{value:{form}}"
    return text if text.strip("+-0.%") else text.lstrip("+-")


def shows(value: float | np.floating) -> bool:
    """Return whether a number is not 0 in two digits: one that is may be the largest of many that are all the same."""
    return bool(abs(value) >= LEAST)


def number(row: Mapping[Any, Any] | pd.Series, of: str = "effect", form: str = ".2f") -> str:
    """Return a number of a row with the ends of its interval, low and high, where it has them."""
    low, high = (float(row.get(end, math.nan)) for end in ("low", "high"))
    return between(float(row[of]) + 0.0, low, high, form)


def largest(frame: pd.DataFrame, column: str = "effect") -> Any:
    """Return the row whose number in a column is the largest, whichever its sign."""
    return frame.iloc[int(frame[column].abs().fillna(-1.0).to_numpy().argmax())]


def joined(*parts: str) -> str:
    """Return those parts of a subtitle that say something, after one another."""
    return ", ".join(part for part in parts if part)


def over(frame: pd.DataFrame, what: str) -> str:
    """Return over how many of something the rows of a frame are: "1 pair", "16 to 64 pairs"; nothing without an n."""
    if "n" not in frame:
        return ""
    return f"{span(frame.n, ',.0f')} {what}{'' if frame.n.max() == 1 else 's'}"


def whom(frame: pd.DataFrame) -> str:
    """Return of which variants and seed, or of how many runs, a frame is, as far as its columns say so."""
    variants, seeds, runs = (_there(frame, column) for column in ("variant", "seed", "run"))
    named = f"{len(variants)} variants" if len(variants) > _NAMED else listed(variants) if variants else ""
    several = f"{len(runs)} runs" if len(runs) > max(1, len(variants)) else ""
    return joined(named, several or (f"seed {seeds[0]}" if len(seeds) == 1 else ""))


def _there(frame: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in dict.fromkeys(frame[column]) if str(value)] if column in frame else []
