"""How training is told to stop: by Ctrl-C, by the system (SIGTERM) or by a terminal that closes (SIGHUP)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows has no SIGHUP."""


def nothing() -> None:
    """Do nothing."""


@contextmanager
def told_to_stop(
    numbers: Sequence[signal.Signals] = SIGNALS, say: Callable[[], None] = nothing, once: bool = False
) -> Iterator[Event]:
    """Yield an event that these signals set, so that work ends between two steps and is saved.

    What this process ignores (SIGHUP under nohup) stays ignored. ``say`` is called at the first signal; with ``once``
    a second one does what it did before. Outside the main thread no signal arrives, and the event stays unset.
    """
    stop = Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def put_back() -> None:
        for number, handler in heard.items():
            signal.signal(number, handler)

    def on_signal(_number: int, _frame: Any) -> None:
        if not stop.is_set():
            say()
        stop.set()
        if once:
            put_back()

    for number in heard:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        put_back()
