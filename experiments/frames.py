"""Frames as bytes: Parquet that is the same for equal frames, and hashes that do not depend on how it was written."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pandas as pd

DIGITS = 5
"""Decimals that committed results keep; accuracies over 1,000 or 4,000 sequences are exact in them."""


def parquet_bytes(frame: pd.DataFrame, level: int | None = None) -> bytes:
    """Return a frame as Parquet (zstd); equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd", compression_level=level)
    return buffer.getvalue()


def sha256(path: Path) -> str:
    """Return the SHA-256 (hexadecimal) of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frame_hash(frame: pd.DataFrame) -> str:
    """Return the SHA-256 (hexadecimal) of a frame's text, numbers with ``DIGITS`` decimals.

    It is of the rows in order and of the columns by name, whatever their types, so it survives a round trip through
    Parquet.
    """
    numbers = {name: "float64" for name in frame.select_dtypes("number")}
    ordered = frame[sorted(frame.columns)].astype(numbers)
    text = ordered.to_csv(index=False, float_format=f"%.{DIGITS}f", lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()
