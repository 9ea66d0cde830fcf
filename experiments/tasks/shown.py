"""How a task shows itself: its splits and corruptions, and the first of its pairs position by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from analysis.pairs import Pair
from circuits.common.errors import require
from circuits.common.showing import Shown

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
else:
    Frame = Any

_LONGEST = 300
"""Characters of a configuration that are shown."""
_PAIRS = 6
"""Examples that are drawn."""


class ShownTask(Shown):
    """What is shown of a task."""

    config: Any
    seed: int
    splits: Mapping[str, str]
    corruptions: Mapping[str, str] = {}

    @property
    def draws(self) -> bool:
        """Whether it has pairs, which can be drawn."""
        return bool(self.corruptions)

    def finding(self) -> str:
        """Return how many splits and corruptions there are, their names, and the configuration."""
        asks = f"corruptions {', '.join(self.corruptions)}" if self.corruptions else "no questions of its own"
        given = [
            f"{f.name} = {getattr(self.config, f.name)!r}"
            for f in dataclasses.fields(self.config)
            if getattr(self.config, f.name) != f.default
        ]
        sizes = shorten(", ".join(given), _LONGEST, placeholder=" ...")
        return f"seed {self.seed}, splits {', '.join(self.splits)}; {asks}; {sizes or 'sizes by default'}"

    def to_frame(self) -> Frame:
        """Return one row a split and a corruption: kind, name, and what it is."""
        import pandas as pd

        rows = [{"kind": "split", "name": name, "what": what} for name, what in self.splits.items()]
        rows += [{"kind": "corruption", "name": name, "what": what} for name, what in self.corruptions.items()]
        return pd.DataFrame(rows)

    def figure(self) -> Any:
        """Return the first pairs of the first corruption, position by position (a plotly figure).

        Raises:
            ValueError: for a task without pairs.
        """
        require(
            bool(self.corruptions),
            f"{type(self).__name__} has no pairs to draw; draw a batch of sample(n), or ask its table by to_frame()",
        )
        task: Any = self
        pair: Pair = task.pairs(_PAIRS, next(iter(self.corruptions)))
        return pair.figure()
