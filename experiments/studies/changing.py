"""Files of one folder that change together or not at all, whenever the process dies that writes them.

New files are first written beside the old ones, into ``.next``, which is then renamed to ``.ready``: from that moment
on the change is made. What remains is to move the files into their places, which whoever comes next does if the process
that began it died.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import rmtree

from filelock import lock_descriptor

from circuits.common.files import write_atomically

NEXT, READY = ".next", ".ready"
WAIT_SECONDS = 0.05

Write = Callable[[Mapping[str, bytes]], None]
"""Replaces files, given by name, all of them or none."""


@contextmanager
def changing(folder: Path) -> Iterator[Write]:
    """Yield what replaces files of a folder, made if need be, while no other process changes it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder) as descriptor:
        lock_descriptor(descriptor, poll_interval=WAIT_SECONDS)
        _finish(folder)
        yield partial(_replace, folder)


def changed_at_once(folder: Path) -> bool:
    """Return whether a change was under way, once it is at its end: here, if the process that began it has died.

    Raises:
        OSError: if it is to be finished here, and the folder cannot be written.
    """
    waited = False
    while (folder / READY).is_dir():
        waited = True
        with _opened(folder) as descriptor:
            if lock_descriptor(descriptor, blocking=False):
                _finish(folder)
                continue
        time.sleep(WAIT_SECONDS)
    return waited


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    rmtree(folder / NEXT, ignore_errors=True)
    (folder / NEXT).mkdir()
    for name, data in files.items():
        write_atomically(folder / NEXT / name, data)
    _flush(folder / NEXT)
    (folder / NEXT).rename(folder / READY)
    _flush(folder)
    _finish(folder)


def _finish(folder: Path) -> None:
    if not (folder / READY).is_dir():
        return
    for file in sorted((folder / READY).iterdir()):
        file.replace(folder / file.name)
    _flush(folder)
    (folder / READY).rmdir()


def _flush(folder: Path) -> None:
    """Bring names to the disk, which a file's own flush does not."""
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    # The folder itself is locked, as a file of its own for the lock would be one more that belongs to no result.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
