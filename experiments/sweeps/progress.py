"""Progress of many runs: one live table in a terminal, a bar in a notebook, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from circuits.common.screen import in_notebook, say
from experiments.sweeps.forecast import Forecast

if TYPE_CHECKING:  # rich is imported once there is something to draw
    from rich.console import Group
    from rich.live import Live

State = Literal["done", "running", "failed", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "failed", "waiting")
ROWS = 8
"""So many running runs have their own line."""
REDRAW_SECONDS, LINE_SECONDS = 0.5, 30.0
SPEED_SECONDS = 60.0
"""The speed is that of the last minute."""


class Tally:
    """What is known of every run: its state, step and accuracy; and of all together: steps a second and time left.

    Of language models, the accuracy is the validation loss, and ``tokens`` are how many every step of a run sees.
    ``forecast`` tells the time left; where there is none, steps count alike.
    """

    def __init__(
        self, steps: Mapping[str, int], tokens: Mapping[str, int] | None = None, forecast: Forecast | None = None
    ):
        self.steps, self.tokens = dict(steps), dict(tokens or {})
        self.forecast = forecast or Forecast.alike(steps)
        self.states: dict[str, State] = dict.fromkeys(steps, "waiting")
        self.at: dict[str, int] = {}
        self.accuracies: dict[str, float] = {}
        self.made = self.read = 0
        self.started = time.monotonic()
        self._seen = deque([(self.started, 0, 0)])

    def report(self, name: str, step: int, accuracy: float, now: float) -> None:
        """Take one run's progress. What was done in an earlier sitting, or again after a death, is not speed."""
        new = max(0, step - self.at.get(name, step))
        self.made += new
        self.read += new * self.tokens.get(name, 0)
        self.at[name], self.accuracies[name], self.states[name] = step, accuracy, "running"
        self.forecast.report(name, step, now)

    def look(self, now: float) -> None:
        """Note how many steps are made by now, once a second."""
        if now - self._seen[-1][0] < 1:
            return
        self._seen.append((now, self.made, self.read))
        while now - self._seen[0][0] > SPEED_SECONDS:
            self._seen.popleft()

    @property
    def steps_made(self) -> int:
        """How many steps of all runs are done, whenever that was."""
        return sum(n if self.states[name] == "done" else self.at.get(name, 0) for name, n in self.steps.items())

    @property
    def speed(self) -> float:
        """Steps a second, of all runs together; 0 before anything is known."""
        return self._speeds()[0]

    def _speeds(self) -> tuple[float, float]:
        """Steps and tokens a second."""
        (begin, made, read), (end, made_now, read_now) = self._seen[0], self._seen[-1]
        seconds = end - begin
        return ((made_now - made) / seconds, (read_now - read) / seconds) if seconds > 0 else (0.0, 0.0)

    def set(self, name: str, state: State) -> None:
        """Take one run's new state."""
        if state != self.states[name] == "running":
            if state == "done":
                self.forecast.ended(name)
            elif state == "waiting":
                self.forecast.again(name)
        self.states[name] = state

    @property
    def left(self) -> float:
        """Seconds to the end; infinite before anything is known."""
        running, waiting = ({n for n, s in self.states.items() if s == state} for state in ("running", "waiting"))
        return self.forecast.left(running, waiting)

    @property
    def running(self) -> list[str]:
        """The runs that are being trained, by name."""
        return sorted(name for name, state in self.states.items() if state == "running")

    def sentence(self) -> str:
        """Return where all runs stand, as one line."""
        count = Counter(self.states.values())
        counts = f"{len(self.states)} runs: " + ", ".join(f"{count[state]} {state}" for state in STATES)
        if not self.running:
            return f"{counts}; {duration(time.monotonic() - self.started)}"
        steps, tokens = self._speeds()
        read = f", {tokens:,.0f} tokens/s" if tokens else ""
        left = f", {duration(self.left)} left" if math.isfinite(self.left) else ""
        return f"{counts}; {steps:,.0f} steps/s{read}{left}"


def duration(seconds: float) -> str:
    """Return a time in words, coarse: ``40 s``, ``5 min``, ``2 h 05 min``."""
    if seconds < 150:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def table(tally: Tally) -> Group:
    """Return the line of all runs and, below, a table of those that are being trained, as rich draws them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, padding=(0, 2, 0, 0))
    rows.add_column("run", no_wrap=True, overflow="ellipsis")
    for column in ("step", "of", "loss" if tally.tokens else "accuracy"):
        rows.add_column(column, justify="right")
    for name in tally.running[:ROWS]:
        accuracy = tally.accuracies.get(name, math.nan)
        shown = "-" if math.isnan(accuracy) else f"{accuracy:.3f}"
        rows.add_row(name, f"{tally.at.get(name, 0):,}", f"{tally.steps[name]:,}", shown)
    more = len(tally.running) - ROWS
    if more > 0:
        rows.add_row(f"and {more} more", "", "", "")
    return Group(Text(tally.sentence()), *([rows] if tally.running else []))


class Progress:
    """A tally that shows itself on the error stream: a live table, a bar, plain lines, or (``show=False``) nothing."""

    def __init__(
        self,
        steps: Mapping[str, int],
        show: bool = True,
        tokens: Mapping[str, int] | None = None,
        forecast: Forecast | None = None,
    ):
        self.tally, self.show = Tally(steps, tokens, forecast), show
        self.seconds = LINE_SECONDS
        """From one drawing to the next."""
        self._live: Live | None = None
        self._bar: Any = None
        self._drawn = time.monotonic()

    def __enter__(self) -> Progress:
        if self.show and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            # No thread of its own: the trainer's process is single-threaded for speed.
            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
            self.seconds = REDRAW_SECONDS
        elif self.show and in_notebook():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=sum(self.tally.steps.values()), unit=" steps", leave=False)
            self.seconds = REDRAW_SECONDS
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        if self._live is not None:
            self._live.stop()
        if self._bar is not None:
            self._bar.close()

    def report(self, name: str, step: int, accuracy: float) -> None:
        """Take one run's progress."""
        self.tally.report(name, step, accuracy, time.monotonic())
        self.refresh()

    def set(self, name: str, state: State) -> None:
        """Take one run's new state."""
        self.tally.set(name, state)

    def refresh(self) -> None:
        """Draw, if it is time to."""
        now = time.monotonic()
        self.tally.look(now)
        if now - self._drawn >= self.seconds:
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(table(self.tally), refresh=True)
        elif self._bar is not None:
            self._bar.n = self.tally.steps_made
            self._bar.set_description_str(self.tally.sentence())
        elif self.show:
            say(self.tally.sentence(), sys.stderr)
