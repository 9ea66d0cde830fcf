"""Seeds as data: intervals, effect sizes, power, corrections for many tests; scipy underneath.

Paired designs are in :mod:`analysis.statistics.paired_seeds`, times to a threshold in
:mod:`analysis.statistics.thresholds`, what censored ones say
in :mod:`analysis.statistics.survival`, and one call for all of it in :mod:`analysis.statistics.comparison`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Float

from circuits.common.errors import known, require, whole

Scale = Literal["linear", "log", "logit", "correlation"]
BOUNDED = frozenset({"accuracy", "probability", "wrong_probability", "preference", "ila", "tila", "tla", "cla"})
"""Measures that lie between 0 and 1."""
POSITIVE = frozenset({"loss"})
"""Measures that are never below 0."""


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval, and how many numbers it is of."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def same(x: np.ndarray) -> bool:
    """Return whether numbers differ by no more than rounding does; no test can say anything of such."""
    return bool(np.ptp(x) <= 1e-12 * np.abs(x).max())


def require_confidence(confidence: float) -> None:
    """Raise ``ValueError`` for a confidence that is no share between 0 and 1, 0 and 1 left out."""
    require(0 < confidence < 1, f"a confidence lies between 0 and 1, got {confidence}: 0.95 is usual")


def scale_of(measure: str) -> Scale:
    """Return the scale on which intervals of a measure are made: ``"logit"`` for those in ``BOUNDED``, ``"log"`` for
    those in ``POSITIVE``."""
    return "logit" if measure in BOUNDED else "log" if measure in POSITIVE else "linear"


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95, scale: Scale = "linear") -> Interval:
    """Return the mean with Student's t interval; a single number has no interval (NaN ends), equal ones no width.

    With ``scale="logit"``, for numbers in [0, 1], the ends are logit(mean) +- t se / (mean (1 - mean)), taken back;
    they stay within [0, 1] and around the mean, and a single 0 or 1 among the numbers makes nothing infinite.
    With ``scale="log"``, for numbers of 0 or more, they are mean times and by exp(t se / mean), which stay above 0.
    With ``scale="correlation"`` it is so of [-1, 1] by Fisher's z: (1 + x) / 2 on the logit scale.

    Raises:
        ValueError: for an unknown scale, a confidence that is none, or a number outside of [0, 1] on the logit scale,
            of [-1, 1] on that of correlations, below 0 on the log scale; for numbers in rows and columns.

    Source: Brown, Cai and DasGupta, Statistical Science 16, 2001, section 4.2, with t for z and the standard error of
    the numbers for the binomial one.
    """
    known("scale", scale, get_args(Scale))
    require_confidence(confidence)
    x = np.asarray(values, dtype=float)
    require(x.ndim == 1, f"a mean is of numbers one after the other, got an array of {x.shape}; give a row or a column")
    if scale == "correlation":
        require(
            bool((np.abs(x) <= 1).all()),
            f"correlations lie between -1 and 1, got {x.min(initial=0)} to {x.max(initial=0)}",
        )
        half = mean_interval((1 + x) / 2, confidence, "logit")
        return Interval(2 * half.mean - 1, 2 * half.low - 1, 2 * half.high - 1, half.n)
    require(scale != "log" or not (x < 0).any(), f"on the log scale numbers are 0 or more, got {x.min(initial=0)}")
    inside = scale != "logit" or bool(((x >= 0) & (x <= 1)).all())
    require(inside, f"on the logit scale numbers lie between 0 and 1, got {x.min(initial=0)} to {x.max(initial=0)}")
    if len(x) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(x.mean())
    if len(x) == 1 or same(x):
        spread = float("nan") if len(x) == 1 else 0.0
        return Interval(mean, mean - spread, mean + spread, len(x))
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(x) - 1) * scipy.stats.sem(x))
    if scale == "linear":
        return Interval(mean, mean - half, mean + half, len(x))
    if scale == "log":
        factor = float(np.exp(half / mean))
        return Interval(mean, mean / factor, mean * factor, len(x))
    centre, half = scipy.special.logit(mean), half / (mean * (1 - mean))
    return Interval(mean, float(scipy.special.expit(centre - half)), float(scipy.special.expit(centre + half)), len(x))


def grouped_intervals(
    frame: pd.DataFrame, by: Sequence[str], confidence: float = 0.95, scale: Scale | None = "linear"
) -> pd.DataFrame:
    """Return :func:`mean_interval` of the column ``value`` for every group, in the order in which groups appear.

    Rows that lack a key are groups of their own. With ``scale=None`` the scale is that of the column ``measure``.

    Columns: those of ``by``, and mean, low, high, n.

    Raises:
        ValueError: as :func:`mean_interval`.
    """
    require_confidence(confidence)
    rows = []
    for key, part in frame.groupby(list(by), sort=False, observed=True, dropna=False):
        chosen = scale or scale_of(str(part["measure"].iloc[0]))
        found = mean_interval(part["value"].to_numpy(), confidence, chosen)
        numbers = {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
        rows.append(dict(zip(by, key, strict=True)) | numbers)
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def paired_ratio(
    values: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Interval:
    """Return the geometric mean of values / reference, pair by pair, with the t interval of the mean log ratio.

    Raises:
        ValueError: if the two are not pairs of positive numbers, or for a confidence that is none.
    """
    a, b = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    if a.shape != b.shape or not all((side > 0).all() and np.isfinite(side).all() for side in (a, b)):
        raise ValueError(
            f"a paired ratio needs as many finite positive numbers on both sides, got {a.tolist()} and {b.tolist()}"
        )
    logs = mean_interval(np.log(a / b), confidence)
    return Interval(float(np.exp(logs.mean)), float(np.exp(logs.low)), float(np.exp(logs.high)), logs.n)


def share_interval(
    moved: Float[np.ndarray, "*more example"],
    gap: Float[np.ndarray, "*shared example"],
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*more"], Float[np.ndarray, "*more"]]:
    """Return the ends of the percentile bootstrap interval of mean(moved) / mean(gap), examples drawn as pairs.

    NaN for one example, and where the gap's own t interval, of the same confidence, holds 0: then no bounded interval
    of the ratio has that confidence (the resamples' gaps have both signs, and their percentiles need not even hold the
    share). Of examples that all have the same share it has no width, whatever the gap.

    Raises:
        ValueError: for a confidence that is none, or a seed that is no whole number of 0 or more.

    Source: Fieller, JRSS B 16, 1954, for where the interval of a ratio is bounded.
    """
    require_confidence(confidence)
    seed = whole("seed", seed, 0)
    if moved.shape[-1] < 2:
        return np.full(moved.shape[:-1], np.nan), np.full(moved.shape[:-1], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        # It tells of an end that is NaN, which is what is returned, and in the words of another method.
        warnings.filterwarnings("ignore", category=scipy.stats.DegenerateDataWarning)
        found = scipy.stats.bootstrap(
            (moved, np.broadcast_to(gap, moved.shape)),
            lambda a, b, axis: a.mean(axis) / b.mean(axis),
            paired=True,
            vectorized=True,
            axis=-1,
            n_resamples=n_resamples,
            confidence_level=confidence,
            method="percentile",
            batch=50,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        share = moved.mean(-1) / np.broadcast_to(gap, moved.shape).mean(-1)
        missed = np.abs(moved - share[..., None] * gap).max(-1)
    known_share = np.isfinite(share) & (missed <= 1e-12 * np.abs(gap).max(-1))
    bounded = np.apply_along_axis(lambda one: _apart_from_zero(one, confidence), -1, gap)
    low, high = (np.where(bounded, end, np.nan) for end in found)
    return np.where(known_share, share, low), np.where(known_share, share, high)


def _apart_from_zero(values: Float[np.ndarray, " example"], confidence: float) -> bool:
    found = mean_interval(values, confidence)
    return not found.low <= 0 <= found.high


# --- effect sizes of pairs: scores are differences, one a pair --------------------------------------------------------


def d_z(scores: Float[np.ndarray, " pair"]) -> float:
    """Return Cohen's d for pairs: mean / standard deviation (n - 1) of the differences; 0 where all are 0.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, section 2.3.5.
    """
    mean, spread = float(np.mean(scores)), float(np.std(scores, ddof=1))
    if np.ptp(scores) <= 1e-12 * np.abs(scores).max():
        return float(np.copysign(np.inf, mean)) if mean else 0.0
    return mean / spread


def g_z(scores: Float[np.ndarray, " pair"]) -> float:
    """Return Hedges' g for pairs: d_z times the exact correction for few pairs; NaN for two, which have none.

    Source: Hedges, Journal of Educational Statistics 6(2), 1981, with n - 1 degrees of freedom.
    """
    m = len(scores) - 1
    if m < 2:
        return float("nan")
    correction = np.exp(scipy.special.gammaln(m / 2) - scipy.special.gammaln((m - 1) / 2)) / np.sqrt(m / 2)
    return float(correction * d_z(scores))


def rank_biserial(scores: Float[np.ndarray, " pair"]) -> float:
    """Return the matched-pairs rank-biserial correlation, in [-1, 1]: the share of ranks above 0 minus that below.

    Ranks are of absolute differences, without zeros, ties sharing theirs; 0 where all are 0.

    Source: Kerby, Comprehensive Psychology 3, 2014.
    """
    moved = scores[scores != 0]
    if len(moved) == 0:
        return 0.0
    ranks = scipy.stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


EFFECTS: dict[str, Callable[[np.ndarray], float]] = {"d_z": d_z, "g_z": g_z, "rank-biserial": rank_biserial}
"""Effect sizes of pairs, by name."""


# --- power ------------------------------------------------------------------------------------------------------------


def smallest_shown(spread: float, n: int, level: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest mean of n differences that a two-sided t test at ``level`` shows with probability ``power``.

    ``spread`` is the standard deviation of the differences, in whose unit the answer is; NaN where there is none.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, section 2.3, by the noncentral t.
    """
    require(n >= 2, f"a t test needs two differences or more, got {n}")
    require(0 < level < 1 and level < power < 1, f"level and power lie between 0 and 1, got {level} and {power}")
    return float(spread) * _shown_effect(n, level, power) if spread > 0 else float("nan")


@cache
def _shown_effect(n: int, level: float, power: float) -> float:
    """The answer in standard deviations."""
    limit = float(scipy.stats.t.isf(level / 2, n - 1))
    # Given the spread of a sample, which is a chi variable, power is a normal share; nct fails far out.
    chi = scipy.stats.chi.ppf((np.arange(4_000) + 0.5) / 4_000, n - 1) / np.sqrt(n - 1)

    def lacking(shift: float) -> float:
        above, below = (scipy.special.ndtr(side * shift - limit * chi) for side in (1, -1))
        return float((above + below).mean()) - power

    return float(scipy.optimize.brentq(lacking, 0.0, 10.0 + 10.0 * limit)) / np.sqrt(n)


# --- many comparisons ---------------------------------------------------------------------------------------------


def adjust(p: Sequence[float] | np.ndarray, correction: str = "holm") -> Float[np.ndarray, " test"]:
    """Return adjusted p-values, in the order given: reject where one is at most the level wanted.

    ``"holm"`` and ``"bonferroni"`` hold the chance of any false rejection, ``"benjamini-hochberg"`` the share of false
    ones among the rejected.

    Raises:
        ValueError: for an unknown correction or a p outside of [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 6, 1979; Benjamini and Hochberg, JRSS B 57, 1995.
    """
    known("correction", correction, CORRECTIONS)
    each = np.asarray(p, dtype=float)
    require(bool(((each >= 0) & (each <= 1)).all()), f"p-values lie between 0 and 1, got {each.tolist()}")
    return CORRECTIONS[correction](each)


def _holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    order = np.argsort(p, kind="stable")
    steps_down = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps_down, 1.0)
    return adjusted


CORRECTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "holm": _holm,
    "benjamini-hochberg": lambda p: np.asarray(scipy.stats.false_discovery_control(p, method="bh")),
    "bonferroni": lambda p: np.minimum(p * len(p), 1.0),
    "none": lambda p: p,
}
"""Corrections for many comparisons, by name."""
