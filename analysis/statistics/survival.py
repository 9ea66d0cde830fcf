"""Censored times to a threshold: Kaplan-Meier curves, restricted means and the log-rank test.

A run that has not reached its threshold by its last step is censored there. A time frame has one row a run: variant,
seed, steps (NaN: censored), last; :func:`analysis.threshold_times` makes it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Bool, Float

from analysis.statistics.intervals import Interval, require_confidence
from analysis.statistics.one_run_each import require_columns
from analysis.statistics.paired_seeds import CONTRASTS, Contrast, PairedSeeds
from circuits.common.errors import known, require

TIME_COLUMNS = ("variant", "seed", "steps", "last")
OF_TIMES = "times (threshold_times makes one)"


@dataclass(frozen=True)
class Times:
    """When each run reached the threshold, or else its last step, and whether it reached it."""

    steps: Float[np.ndarray, " run"]
    reached: Bool[np.ndarray, " run"]

    def __post_init__(self) -> None:
        require(
            len(self.steps) > 0 and bool((self.steps >= 0).all()),
            f"times need one run or more and steps of 0 or more, got {self.steps.tolist()}",
        )

    @property
    def known_until(self) -> float:
        """Return the step up to which the curve is known: the last observation if censored, else infinity."""
        last = self.steps.max()
        return float(last) if (~self.reached[self.steps == last]).any() else float("inf")

    def censored(self) -> scipy.stats.CensoredData:
        """Return the times as scipy takes them."""
        return scipy.stats.CensoredData.right_censored(self.steps, ~self.reached)


def times_of(frame: pd.DataFrame, variant: str) -> Times:
    """Return one variant's times, in the order of its seeds.

    Raises:
        ValueError: if the frame is no time frame, lacks the variant, or names a seed twice.
    """
    require_columns(frame, TIME_COLUMNS, OF_TIMES)
    known("variant", variant, list(dict.fromkeys(frame["variant"])))
    rows = frame[frame["variant"] == variant].sort_values("seed", kind="stable")
    twice = rows["seed"][rows["seed"].duplicated()].tolist()
    require(not twice, f"{variant!r} has seeds {twice} more than once: give one row a run")
    steps, last = rows["steps"].to_numpy(dtype=float), rows["last"].to_numpy(dtype=float)
    reached = ~np.isnan(steps)
    late = steps[reached] > last[reached]
    require(not late.any(), f"{variant!r} has runs that reached the threshold after their last step")
    return Times(np.where(reached, steps, last), reached)


# --- the curve --------------------------------------------------------------------------------------------------------


def kaplan_meier(times: Times, confidence: float = 0.95) -> pd.DataFrame:
    """Return the share of runs still below the threshold: step, survival, low, high, at_risk, events.

    One row for step 0 and one for each step observed, the share being that after the step. The band is pointwise, by
    Greenwood's variance of log(-log survival); it has no width where the share is 1 or 0.

    Raises:
        ValueError: for a confidence that is none.

    Source: Kaplan and Meier, JASA 53, 1958.
    """
    require_confidence(confidence)
    curve = scipy.stats.ecdf(times.censored()).sf
    with warnings.catch_warnings():
        # Where the share is 1 or 0 the transform is infinite; those ends are filled in below.
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        band: Any = curve.confidence_interval(confidence, method="log-log")  # two curves; the stubs say two numbers
    steps, share = curve.quantiles, curve.probabilities
    sure = (share <= 0) | (share >= 1)
    at_risk, events = _counts(times, steps)
    found = pd.DataFrame(
        {
            "step": steps,
            "survival": share,
            "low": np.where(sure, share, band.low.probabilities),
            "high": np.where(sure, share, band.high.probabilities),
            "at_risk": at_risk,
            "events": events,
        }
    )
    if steps[0] == 0:
        return found
    start = {"step": 0.0, "survival": 1.0, "low": 1.0, "high": 1.0, "at_risk": len(times.steps), "events": 0}
    return pd.concat([pd.DataFrame([start]), found], ignore_index=True)


def _counts(times: Times, steps: Float[np.ndarray, " step"]) -> tuple[np.ndarray, np.ndarray]:
    """How many runs were followed up to each step, and how many reached the threshold there."""
    at = times.steps[:, None]
    return (at >= steps).sum(0), ((at == steps) & times.reached[:, None]).sum(0)


def survival_curves(frame: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return every variant's Kaplan-Meier curve, one under the other, with a column variant; see ``kaplan_meier``.

    Raises:
        ValueError: as :func:`times_of` and :func:`kaplan_meier`.
    """
    require_columns(frame, TIME_COLUMNS, OF_TIMES)
    variants = frame["variant"].drop_duplicates()
    curves = [kaplan_meier(times_of(frame, v), confidence).assign(variant=v) for v in variants]
    return pd.concat(curves, ignore_index=True)


def logrank_p(first: Times, second: Times) -> float:
    """Return the two-sided p of the log-rank test, which takes no account of pairs and wants many runs.

    1 where nothing tells the two apart: no run reached the threshold, or all still followed did so at once.

    Source: Mantel, Cancer Chemotherapy Reports 50, 1966.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = scipy.stats.logrank(first.censored(), second.censored())
    return float(found.pvalue) if np.isfinite(found.statistic) else 1.0


# --- restricted means: the area under the curve up to a horizon -------------------------------------------------------


def shared_horizon(frame: pd.DataFrame, horizon: float | None = None) -> float:
    """Return ``horizon``, or the latest step up to which every variant's curve is known."""
    variants = frame["variant"].drop_duplicates()
    until = {v: times_of(frame, v).known_until for v in variants}
    if horizon is None:
        return min([*until.values(), float(frame["last"].max())])
    for variant, last in until.items():
        _require_known(horizon, last, repr(variant))
    return float(horizon)


def _require_known(horizon: float, last: float, whose: str) -> None:
    require(horizon > 0, f"a horizon is a positive number of steps, got {horizon}")
    require(
        horizon <= last,
        f"the horizon {horizon:g} lies beyond every observation of {whose}, whose last run is censored at {last:g}: "
        f"choose a horizon of at most {last:g}",
    )


def _area(
    steps: Float[np.ndarray, "*more run"], reached: Bool[np.ndarray, "*more run"], horizon: float
) -> Float[np.ndarray, "*more"]:
    """The area under many Kaplan-Meier curves at once, each held at its last value up to the horizon."""
    order = np.lexsort((~reached, steps), axis=-1)  # at one step, runs that reach come before runs that end
    at = np.take_along_axis(steps, order, -1)
    survival = np.cumprod(1 - np.take_along_axis(reached, order, -1) / np.arange(at.shape[-1], 0, -1), axis=-1)
    widths = np.diff(np.minimum(at, horizon), prepend=0.0, append=horizon, axis=-1)
    return np.asarray(widths[..., 0] + (widths[..., 1:] * survival).sum(-1))


def restricted_mean(times: Times, horizon: float, confidence: float = 0.95) -> Interval:
    """Return the mean of min(steps, horizon), the area under the Kaplan-Meier curve, with its interval.

    The variance is Greenwood's integral times n / (n - 1), the interval Student's with n - 1 degrees of freedom: of
    runs that are not censored before the horizon it is :func:`analysis.mean_interval`, of many runs the usual normal
    one. A single run has no interval.

    Raises:
        ValueError: if the horizon is not positive or beyond every observation, or for a confidence that is none.

    Source: Royston and Parmar, BMC Medical Research Methodology 13:152, 2013.
    """
    require_confidence(confidence)
    _require_known(horizon, times.known_until, "these times")
    mean, n = float(_area(times.steps, times.reached, horizon)), len(times.steps)
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    half = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(_variance(times, horizon))
    return Interval(mean, float(mean - half), float(mean + half), n)


def _variance(times: Times, horizon: float) -> float:
    """Greenwood's integral, over events: (area from there on)^2 events / (at risk (at risk - events)); n / (n - 1)."""
    n = len(times.steps)
    steps = np.unique(times.steps[times.reached & (times.steps < horizon)])
    at_risk, events = _counts(times, steps)
    before = np.array([float(_area(times.steps, times.reached, step)) for step in steps])
    after = float(_area(times.steps, times.reached, horizon)) - before
    left = at_risk > events  # where none is left, there is no area from there on
    terms = after[left] ** 2 * events[left] / (at_risk[left] * (at_risk[left] - events[left]))
    return float(terms.sum()) * n / (n - 1)


def paired_restricted(first: Times, second: Times, horizon: float, contrast: Contrast = "difference") -> PairedSeeds:
    """Return the pairs (run i of both has one seed) for the difference or ratio of their restricted means.

    The scores are jackknife pseudo-values; without censoring before the horizon those of a difference are the
    differences of min(steps, horizon). A resample whose last run is censored early holds its curve to the horizon.

    Raises:
        ValueError: if the two are not pairs, fewer than two, at step 0 in a ratio, or the horizon is out of reach.

    Source: Andersen, Hansen and Klein, Lifetime Data Analysis 10, 2004, for the pseudo-values.
    """
    known("contrast", contrast, CONTRASTS)
    require(contrast != "bounded", "times have no bounds: take their difference or ratio")
    n = len(first.steps)
    require(n == len(second.steps), f"pairs need as many runs on both sides, got {n} and {len(second.steps)}")
    require(n >= 2, f"a paired comparison needs two pairs or more, got {n}: train more seeds")
    _require_known(horizon, min(first.known_until, second.known_until), "these times")
    steps, reached = np.concatenate([first.steps, second.steps]), np.concatenate([first.reached, second.reached])
    require(contrast == "difference" or bool((steps > 0).all()), "a ratio needs steps above 0: take a difference")

    def measure(a: np.ndarray, b: np.ndarray) -> float | np.ndarray:
        means = _area(steps[a], reached[a], horizon), _area(steps[b], reached[b], horizon)
        return means[0] - means[1] if contrast == "difference" else np.log(means[0] / means[1])

    others = np.stack([np.delete(np.arange(n), i) for i in range(n)])
    scores = n * measure(np.arange(n), np.arange(n, 2 * n)) - (n - 1) * measure(others, others + n)
    # Rounded to what the sums can resolve, so that equal pairs have equal scores and equal ranks.
    unit = horizon if contrast == "difference" else 1.0
    seen = float((reached & (steps < horizon)).mean())
    return PairedSeeds(contrast, measure, np.round(scores / unit, 12) * unit, seen)
