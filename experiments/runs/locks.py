"""The lock of a run: one process trains it, into the directory that it locked and no other of its name.

``filelock`` locks a descriptor that is opened here, as its own locks would make a deleted directory again, and do not
tell which file they hold.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from experiments.runs.record import RunError

LOCK_SECONDS = 1.0
"""How long to wait for a lock that is taken: who only asks whether a run trains takes it for a moment."""
ASK_SECONDS = (0.0, 0.002, 0.01)
"""How long to wait before each time of asking, as another who asks may hold the lock for a moment."""
GONE = (
    "{} was deleted, moved or replaced while its run was trained, and what was in it with it; put it back, or give the "
    "same command again to train the run from its beginning"
)


@contextmanager
def explained(run: Path) -> Iterator[None]:
    """Turn a full disk, or a directory that is no longer there, into a sentence that says what is safe and what to
    do."""
    try:
        yield
    except FileNotFoundError as error:
        if run.is_dir():
            raise
        raise RunError(GONE.format(run)) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunError(
            f"no space left on the disk while writing into {run}; what was finished is whole, and the run resumes from "
            f"its last saved state: free some space and give the same command again"
        ) from error


@contextmanager
def held_lock(run: Path) -> Iterator[os.stat_result]:
    """Hold a run's lock, and yield what its file is; the lock goes with the process, however it ends.

    Raises:
        RunError: if another process holds it, or its file is a symbolic link.
    """
    with _opened(run, os.O_RDWR | os.O_CREAT) as descriptor:
        last = time.monotonic() + LOCK_SECONDS
        while not lock_descriptor(descriptor, blocking=False):
            if time.monotonic() > last:
                raise RunError(f"another process is training {run}; wait for it, or stop it first")
            time.sleep(LOCK_SECONDS / 20)
        yield os.fstat(descriptor)


def is_held(run: Path) -> bool:
    """Return whether a process holds a run's lock; of a run without one, or one that cannot be asked, none does."""
    try:
        # Some network filesystems lock only what may be written.
        with _opened(run, os.O_RDWR if os.access(run / ".lock", os.W_OK) else os.O_RDONLY) as descriptor:
            for seconds in ASK_SECONDS:
                time.sleep(seconds)
                if lock_descriptor(descriptor, blocking=False):
                    return False
            return True
    except OSError:
        return False


def same_file(file: Path, one: os.stat_result) -> bool:
    """Return whether a path is still that of a file which was there before."""
    try:
        return os.path.samestat(file.stat(follow_symlinks=False), one)
    except FileNotFoundError:
        return False


@contextmanager
def _opened(run: Path, how: int) -> Iterator[int]:
    try:
        # Windows has no symbolic links to refuse here.
        descriptor = os.open(run / ".lock", how | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RunError(f"{run / '.lock'} is a symbolic link, and no lock of a run is one; remove it") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
