"""Ticks of logarithmic axes: whole numbers of their own, and no digits between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

_NEAR = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2)
"""Ticks of ratios near 1."""


def log_axis(values: pd.Series, near_one: bool = False) -> dict[str, Any]:
    """Return a logarithmic axis for numbers above 0: ticks at 1, 2 and 5 times powers of ten, or at powers alone.

    Where all are ``near_one``, as ratios may be, the ticks are closer.
    """
    known = values[values > 0]
    if known.empty:
        return {"type": "log"}
    low, high = float(known.min()), float(known.max())
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 300 * low else (1,)
    ticks = (
        list(_NEAR)
        if near_one and _NEAR[0] <= low <= high <= _NEAR[-1]
        else [float(f"{step * 10.0**power:.0e}") for power in powers for step in steps]
    )
    ends = np.log10([low, high]) + np.array([-0.06, 0.06])
    shown = [tick for tick in ticks if 10 ** ends[0] <= tick <= 10 ** ends[1]]
    return {"type": "log", "range": ends.tolist(), "tickvals": shown, "ticktext": [f"{tick:g}" for tick in shown]}
