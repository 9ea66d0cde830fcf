"""Ticks of logarithmic axes: round numbers, at least five, and no digits between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

_STEPS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
"""What powers of ten are multiplied by, from the fewest ticks to the most."""
_FEWEST = 5
"""So many ticks are shown at least."""


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Return the ticks of a logarithmic axis from ``low`` to ``high``, two numbers above 0.

    They are the fewest of some round numbers that are five or more: powers of ten, these and 2 and 5 times them, or
    where both ends are near each other, multiples of one number.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = ([float(f"{step * 10.0**power:.2g}") for power in powers for step in steps] for steps in _STEPS)
    spans = (10.0**power * step for power in range(powers[-1], powers[0] - 4, -1) for step in (5, 2, 1))
    evenly = (
        [float(f"{i * span:.6g}") for i in range(math.ceil(low / span), math.floor(high / span) + 1)] for span in spans
    )
    inside = ([tick for tick in ticks if low <= tick <= high] for every in (found, evenly) for ticks in every)
    shown = next((ticks for ticks in inside if len(ticks) >= _FEWEST), [])
    return {"type": "log", "tickvals": shown, "ticktext": [f"{tick:g}" for tick in shown]}


def log_axis(values: pd.Series) -> dict[str, Any]:
    """Return a logarithmic axis for numbers, of which those above 0 are shown, with :func:`log_ticks`."""
    known = values[(values > 0) & np.isfinite(values)]
    if known.empty:
        return {"type": "log"}
    low, high = math.log10(known.min()) - 0.06, math.log10(known.max()) + 0.06
    return {"range": [low, high], **log_ticks(10**low, 10**high)}
