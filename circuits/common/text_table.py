"""Frames as text."""

from __future__ import annotations

import pandas as pd


def as_text(frame: pd.DataFrame) -> str:
    """Return a table as text, numbers to the right and words to the left."""
    words = {str(c): frame[c].astype(str) for c in frame if not pd.api.types.is_numeric_dtype(frame[c])}
    widths = {c: max(len(c), int(words[c].str.len().max())) for c in words}
    padded = frame.assign(**{c: words[c].str.ljust(widths[c]) for c in words})
    named = padded.rename(columns={c: c.ljust(widths[c]) for c in words})
    lines = named.to_string(index=False, float_format=lambda x: f"{x:.4g}").split("\n")
    return "\n".join(line.rstrip() for line in lines)
