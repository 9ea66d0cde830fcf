"""Paired designs over seeds: one estimate, its intervals, tests and effect sizes, censored or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
from jaxtyping import Float, Int

from analysis.statistics.intervals import EFFECTS, Interval, require_confidence, same, smallest_shown
from circuits.common.errors import known, require, whole

Contrast = Literal["difference", "ratio", "bounded"]
CONTRASTS = ("difference", "ratio", "bounded")
"""``"bounded"`` is the difference of means of numbers in [0, 1], whose intervals stay between -1 and 1."""
_BACK: dict[str, Any] = {"difference": float, "ratio": np.exp, "bounded": np.tanh}
INTERVALS = ("t", "bootstrap")


@dataclass(frozen=True)
class PairedSeeds:
    """Pairs of runs, one of each variant and seed, and how their contrast is measured.

    ``measure(first, second)`` takes the places of the two groups among all 2n runs (the variant's are 0 to n - 1, the
    reference's n to 2n - 1, a pair n apart), any number of regroupings at once. ``scores`` are its pseudo-values, one a
    pair: what each pair adds to the estimate. For the contrast ``"ratio"`` both are logarithms, for ``"bounded"`` the
    inverse hyperbolic tangent (Fisher's z of a correlation, which lies between -1 and 1 too).
    """

    contrast: Contrast
    measure: Callable[[Int[np.ndarray, "*more pair"], Int[np.ndarray, "*more pair"]], float | np.ndarray]
    scores: Float[np.ndarray, " pair"]
    seen: float = 1.0
    """Of times, the share of all runs that got there before the horizon."""

    def __post_init__(self) -> None:
        n = len(self.scores)
        require(n >= 2, f"a paired comparison needs two pairs or more, got {n}: train more seeds")

    @property
    def estimate(self) -> float:
        """Return variant minus reference, or for a ratio variant divided by reference."""
        return self._back(self._centre)

    @property
    def _centre(self) -> float:
        n = len(self.scores)
        return float(self.measure(np.arange(n), np.arange(n, 2 * n)))

    def _back(self, x: float) -> float:
        return float(_BACK[self.contrast](x))

    @property
    def _spread(self) -> float:
        # Pairs that all say the same up to rounding have no spread.
        return 0.0 if same(self.scores) else float(np.std(self.scores, ddof=1))

    @property
    def _all_differ_alike(self) -> bool:
        return not self._spread and self._centre != 0

    def _t(self) -> Any:
        n, spread = len(self.scores), self._spread
        return scipy.stats.t(n - 1, loc=self._centre, scale=spread / np.sqrt(n)) if spread else None

    def interval(
        self, method: str = "t", confidence: float = 0.95, n_resamples: int = 9_999, seed: int = 0
    ) -> Interval:
        """Return the estimate with its interval over seeds.

        ``"t"`` is Student's with the standard error of the scores (the jackknife's); ``"bootstrap"`` draws whole pairs
        and takes percentiles (BCa can be undefined where censoring makes ties). With few pairs the bootstrap is too
        narrow: of five, some 83 % of 95 % intervals hold the truth. Pairs that all differ alike, and not by nothing,
        have no interval (NaN): how far others would be from them, they cannot say.

        Raises:
            UnknownNameError: for an unknown method (nearest suggested).
            ValueError: for a confidence that is none, or a seed that is no whole number of 0 or more.
        """
        known("interval", method, INTERVALS)
        require_confidence(confidence)
        seed = whole("seed", seed, 0)
        if self._all_differ_alike:
            low = high = float("nan")
        elif method == "t":
            t = self._t()
            low, high = t.interval(confidence) if t else (self._centre, self._centre)
        else:
            low, high = self._bootstrap(confidence, n_resamples, seed)
        return Interval(self.estimate, self._back(low), self._back(high), len(self.scores))

    def _bootstrap(self, confidence: float, n_resamples: int, seed: int) -> tuple[float, float]:
        n = len(self.scores)
        found = scipy.stats.bootstrap(
            (np.arange(n),),
            lambda pairs, axis: np.asarray(self.measure(pairs, pairs + n)),
            vectorized=True,
            method="percentile",
            confidence_level=confidence,
            n_resamples=n_resamples,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        return float(found.low), float(found.high)

    def prediction(self, n_new: int, confidence: float = 0.95) -> Interval:
        """Return the estimate with the interval in which that of so many new pairs lies with this confidence.

        It is Student's with the standard deviation s of these scores and s sqrt(1 / n + 1 / n_new) as its standard
        error; the new pairs are of the same design. It has no width where the pairs have no spread.

        Raises:
            ValueError: for no new pair, or a confidence that is none.

        Source: Hahn, Journal of the American Statistical Association 64, 1969, for the mean of a future sample.
        """
        require(n_new >= 1, f"a prediction is of one new pair or more, got {n_new}")
        require_confidence(confidence)
        n, spread = len(self.scores), self._spread
        half = float(scipy.stats.t.ppf((1 + confidence) / 2, n - 1)) * spread * float(np.sqrt(1 / n + 1 / n_new))
        return Interval(self.estimate, self._back(self._centre - half), self._back(self._centre + half), n)

    def t_p(self) -> float:
        """Return the two-sided p of Student's t test that belongs to the interval ``"t"``.

        Of pairs without spread there is no t. Where none differs it is 1; where all differ alike it is that of the
        exchanges within pairs (:meth:`permutation_p`), 2 / 2**n, the least that n pairs can have without knowing how
        differences are distributed.
        """
        t = self._t()
        if t is None:
            return 0.5 ** (len(self.scores) - 1) if self._all_differ_alike else 1.0
        return float(2 * t.sf(self._centre + abs(self._centre)))

    def equivalence_p(self, margin: float) -> float:
        """Return the p of two one-sided t tests: small where the contrast is shown to lie within the margin.

        Within is between -margin and margin, or for a ratio between 1 / margin and margin. Below a level exactly where
        the interval of confidence 1 - 2 level lies within. Of times that fewer than half of the runs had before the
        horizon it is 1: their restricted means are alike because most are the horizon. Of pairs that all differ alike,
        by less than the margin, it is 1 / 2**n, the chance that n signs are the same; of pairs that do not differ, 0.

        Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.
        """
        least, most = {"ratio": (1.0, np.inf), "difference": (0.0, np.inf), "bounded": (0.0, 1.0)}[self.contrast]
        require(least < margin < most, f"a margin here lies between {least:g} and {most:g}, got {margin}")
        on_scale = {"ratio": np.log, "difference": float, "bounded": np.arctanh}[self.contrast]
        half, t = float(on_scale(margin)), self._t()
        if self.seen < 0.5:
            return 1.0
        if t is None:
            within = 0.5 ** len(self.scores) if self._all_differ_alike else 0.0
            return within if abs(self._centre) < half else 1.0
        return float(t.sf(self._centre + half - abs(self._centre)))

    def smallest_shown(self, level: float = 0.05, power: float = 0.8) -> float:
        """Return the smallest contrast that so many pairs, with this spread, show with probability ``power``.

        It is above 0, or for a ratio above 1 (its inverse is shown as well); NaN where the pairs have no spread. See
        :func:`analysis.statistics.intervals.smallest_shown`.
        """
        return self._back(smallest_shown(self._spread, len(self.scores), level, power))

    def permutation_p(self, n_resamples: int = 9_999, seed: int = 0) -> float:
        """Return the two-sided p of exchanging variant and reference within pairs: for a difference, its sign flips.

        Exact where all 2**n exchanges are no more than ``n_resamples``; otherwise so many are drawn. The least p of n
        pairs is 2 / 2**n: 0.25 for three, below 0.05 from six on.

        Raises:
            ValueError: for a seed that is no whole number of 0 or more.
        """
        seed = whole("seed", seed, 0)
        n = len(self.scores)
        scale = np.abs(self.scores).max() or 1.0  # scipy takes values within 1e-14 as equal, so size must not matter
        found = scipy.stats.permutation_test(
            (np.arange(n), np.arange(n, 2 * n)),
            lambda first, second, axis: np.asarray(self.measure(first, second) / scale),
            permutation_type="samples",
            vectorized=True,
            n_resamples=n_resamples,
            rng=np.random.default_rng(seed),
        )
        return float(found.pvalue)

    def effect(self, name: str = "g_z") -> float:
        """Return an effect size of the scores, positive where the variant's are larger; see ``EFFECTS``."""
        return EFFECTS[known("effect size", name, EFFECTS)](self.scores)


def paired_seeds(
    values: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray, contrast: Contrast = "difference"
) -> PairedSeeds:
    """Return the pairs of two equally long lists of numbers, for their mean difference or geometric mean ratio.

    Raises:
        ValueError: if there are fewer than two pairs, a number is missing, for a ratio not positive, for a bounded
            difference not in [0, 1] or 1 apart in every pair.
    """
    known("contrast", contrast, CONTRASTS)
    a, b = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    require(
        a.shape == b.shape and a.ndim == 1 and bool(np.isfinite([a, b]).all()),
        f"pairs are two equally long lists of finite numbers, got {a.tolist()} and {b.tolist()}",
    )
    if contrast == "ratio":
        require(
            bool((a > 0).all() and (b > 0).all()),
            f"a paired ratio needs positive numbers on both sides, got {a.tolist()} and {b.tolist()}: "
            "take contrast='difference'",
        )
        a, b = np.log(a), np.log(b)
    both = np.concatenate([a, b])
    if contrast != "bounded":
        return PairedSeeds(contrast, lambda first, second: (both[first] - both[second]).mean(-1), a - b)
    centre = float((a - b).mean()) if len(a) else 0.0
    require(
        bool(((both >= 0) & (both <= 1)).all()) and abs(centre) < 1,
        f"a bounded difference is of numbers between 0 and 1 that do not all differ by 1, got {a.tolist()} and "
        f"{b.tolist()}: take contrast='difference'",
    )
    scores = np.arctanh(centre) + (a - b - centre) / (1 - centre**2)  # to first order, what each pair adds
    return PairedSeeds(contrast, lambda first, second: np.arctanh((both[first] - both[second]).mean(-1)), scores)
