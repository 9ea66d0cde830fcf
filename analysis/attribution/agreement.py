"""How far an estimate is from what it estimates."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import scipy
from torch import Tensor

from circuits.common.errors import whole


@dataclass(frozen=True)
class Agreement:
    """Estimated against exactly patched effects, both as shares of the difference between the clean and corrupt metric.

    The larger half of what is checked has the largest estimates, the rest is drawn at random.
    """

    rank_correlation: float
    """Spearman's, between absolute effects; NaN where either side is constant."""
    worst_error: float
    """The largest |estimate - exact|."""
    checked: int

    def columns(self) -> dict[str, float | int]:
        """Return the numbers as columns for a frame."""
        return asdict(self)


EXACT = Agreement(1.0, 0.0, 0)
"""Of what is not an estimate."""


def agreement(estimated: Tensor, exact: Tensor) -> Agreement:
    """Return how far estimates (one a site or edge) are from exact effects."""
    a, b = estimated.double().cpu().numpy(), exact.double().cpu().numpy()
    if len(a) == 0:
        return Agreement(float("nan"), float("nan"), 0)
    constant = len(a) < 2 or np.ptp(np.abs(a)) == 0 or np.ptp(np.abs(b)) == 0
    correlation = float("nan") if constant else float(scipy.stats.spearmanr(np.abs(a), np.abs(b)).statistic)
    return Agreement(correlation, float(np.abs(a - b).max()), len(a))


def to_check(scores: Tensor, n: int, seed: int = 0) -> list[int]:
    """Return ``n`` of the indices of ``scores`` (or all): half of them the largest, the rest at random.

    Raises:
        ValueError: for a seed that is no whole number of 0 or more.
    """
    seed = whole("seed", seed, 0)
    order = scores.abs().argsort(descending=True, stable=True).tolist()
    largest, others = order[: (n + 1) // 2], order[(n + 1) // 2 :]
    drawn = np.random.default_rng(seed).permutation(len(others))[: n // 2]
    return sorted([*largest, *(others[i] for i in drawn)])
