"""Files and folders that are written whole or not at all, and files that must be there."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from circuits.common.errors import require

LOCAL = (".txt", ".jsonl", ".json", ".parquet", ".model", ".tiktoken")
"""Suffixes that a name on the hub does not have."""


def names_no_file(name: str) -> bool:
    """Return whether a name can only be a local path, or a pattern of some, and nothing is there; a name on the hub
    (``gpt2``, ``owner/name``) is none."""
    path = Path(name).expanduser()
    local = path.is_absolute() or name.startswith(".") or path.suffix in LOCAL or name.count("/") > 1
    return local and not path.exists() and not (glob.has_magic(name) and glob.glob(str(path), recursive=True))


def path_of(what: str, given: Any) -> Path:
    """Return what is given as a path.

    Raises:
        ValueError: for what is neither a string nor a path.
    """
    require(isinstance(given, (str, os.PathLike)), f"{what} is a path, given as a string or a Path, got {given!r}")
    return Path(given)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made, as it or one that it would lie in is a file.

    Raises:
        ValueError: naming the file.
    """
    above = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    inside = "" if above == folder.absolute() else f", as {folder} cannot lie in it"
    require(above.is_dir(), f"{above} is a file: give a folder{inside}")


def made_folder(folder: Path) -> Path:
    """Return a folder, which is made if need be.

    Raises:
        ValueError: as :func:`check_folder`.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def written_file(what: str, given: Any, data: bytes) -> Path:
    """Write a file whole or not at all, in a folder that is made if need be, and return its path.

    Raises:
        ValueError: as :func:`path_of` and :func:`check_folder`.
    """
    file = path_of(what, given)
    made_folder(file.parent)
    write_atomically(file, data)
    return file


def folder_there(path: str | Path) -> Path:
    """Return the folder that others stored a model in.

    Raises:
        ValueError: for what is no path.
        FileNotFoundError: if it is not there, saying how to get one from the hub where the name is one.
    """
    there = path_of("a model's folder", path).expanduser()
    if there.exists():
        return there
    text = str(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise FileNotFoundError(
            f"there is no folder {text}. If that is a name on the Hugging Face hub: nothing is downloaded here. Where "
            f"there is a connection, run 'hf download {text} --local-dir FOLDER', and pass FOLDER"
        )
    raise FileNotFoundError(f"there is no folder {text}; pass the folder that holds the model's files")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to the disk, then renamed over it.

    The folder must be there: one that was deleted meanwhile is not made again unseen.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    # Another for every thread, of this process and of those on other machines.
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_new(path: Path, data: bytes) -> bool:
    """Write a file as :func:`write_atomically` unless there is one; return whether this call wrote it."""
    temporary = _beside(path)
    write_atomically(temporary, data)
    try:
        # A name is given only once, whoever else is about to give it.
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:
        # Some filesystems have no second names.
        if path.exists():
            return False
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path | None]:
    """Yield an empty folder that takes a name once it is written, and nothing has it if that fails; ``None`` if there
    is something under it, so that whoever waited for another process to make it finds it made.

    The folder around it must be there, and a lock (``.NAME.lock``) stays in it.
    """
    from filelock import FileLock

    scratch = folder.with_name(f".{folder.name}.tmp")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if holds_something(folder):
            yield None
            return
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
            if folder.exists():
                folder.rmdir()  # an empty one
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def holds_something(folder: Path) -> bool:
    """Return whether a folder is there and is not empty."""
    return folder.exists() and any(folder.iterdir())
