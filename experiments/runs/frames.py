"""Frames as bytes: Parquet that is the same for equal frames, and hashes that do not depend on how it was written."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

DIGITS = 5
"""Decimals that committed results keep; accuracies over 1,000 or 4,000 sequences are exact in them."""


def parquet_bytes(frame: pd.DataFrame, level: int | None = None) -> bytes:
    """Return a frame as Parquet (zstd); equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd", compression_level=level)
    return buffer.getvalue()


SEAL = b"valuestream-sha256"
"""The entry of a Parquet file's metadata that holds the hash of its content."""


class DamagedFrameError(ValueError):
    """A Parquet file that is not as it was written."""


def sealed_bytes(frame: pd.DataFrame) -> bytes:
    """Return a frame as Parquet (zstd) with a hash of its content inside, so that it can be checked by itself."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    # Of what is read back, as some types do not come through.
    seal = _exact_hash(pd.read_parquet(io.BytesIO(parquet_bytes(frame))))
    buffer = io.BytesIO()
    sealed = table.replace_schema_metadata({**(table.schema.metadata or {}), SEAL: seal.encode()})
    parquet.write_table(sealed, buffer, compression="zstd")
    return buffer.getvalue()


def read_sealed(path: Path) -> pd.DataFrame:
    """Return a frame of :func:`sealed_bytes`; one of the first version is not sealed.

    Raises:
        DamagedFrameError: if it is no Parquet file, or its content does not have the hash that it states.
    """
    data = io.BytesIO(path.read_bytes())
    try:
        seal = (parquet.read_schema(data).metadata or {}).get(SEAL)
        frame = pd.read_parquet(data)
        whole = seal is None or seal == _exact_hash(frame).encode()
    except Exception as error:  # the libraries raise many classes for what is no Parquet any more
        raise DamagedFrameError(f"{path} cannot be read: it was changed or damaged ({error})") from error
    if not whole:
        raise DamagedFrameError(f"{path} does not have the hash that it states: it was changed or damaged")
    return frame


def _exact_hash(frame: pd.DataFrame) -> str:
    text = f"{frame.dtypes.to_string()}\n{frame.to_csv(index=False, lineterminator=chr(10))}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


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
