"""Curves over seeds, and effects over runs, as columns of the frame that a figure draws: means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.statistics.intervals import Scale, grouped_intervals
from analysis.statistics.one_run_each import require_columns, require_one_run_each

EFFECT_OF = ("variant", "component", "route", "layer", "head", "position")
"""The columns that name what was patched."""


def with_shared_points(frame: pd.DataFrame, group: Sequence[str], of: str, at: str) -> pd.DataFrame:
    """Return the frame with rows more, so that the curves of a group can be compared point by point.

    Within every ``group``, each value of ``of`` is a curve of ``value`` against ``at``. A curve that was measured at
    other points than the rest is read at theirs too, on the straight line between two of its own, never beyond its
    ends. Where curves have the same points, or one only ends earlier, there is no row more.
    """
    more = []
    for _, curves in frame.groupby(list(group), sort=False, observed=True, dropna=False):
        ends = curves.groupby(of, observed=True)[at].agg(["min", "max", "size"])
        # Where a run happened to end says nothing of when the others were measured.
        points = np.unique(curves[at][curves[at] < curves.groupby(of, observed=True)[at].transform("max")])
        within = np.searchsorted(points, ends["max"]) - np.searchsorted(points, ends["min"])
        for key in ends.index[within >= ends["size"]]:
            own = curves[curves[of] == key].sort_values(at, kind="stable")
            lacking = points[(points > own[at].min()) & (points < own[at].max()) & ~np.isin(points, own[at])]
            rows = own.iloc[[0] * len(lacking)]
            more.append(rows.assign(**{at: lacking, "value": np.interp(lacking, own[at], own["value"])}))
    return pd.concat([frame, *more], ignore_index=True) if more else frame


def with_held_ends(frame: pd.DataFrame, group: Sequence[str], of: str, at: str) -> pd.DataFrame:
    """Return the frame with rows more, so that a curve that ended because it had learned goes on at its last value.

    Those are the curves whose rows say so in the column ``stopped``; they go on at the later points of the others of
    their ``group``. Without them a mean would from there on be of those that learn later, or not at all.
    """
    more = []
    for _, curves in frame.groupby(list(group), sort=False, observed=True, dropna=False):
        points = np.unique(curves[at])
        for _, own in curves[curves["stopped"]].groupby(of, observed=True):
            last = own[own[at] == own[at].max()].iloc[:1]
            later = points[points > last[at].item()]
            more.append(last.iloc[[0] * len(later)].assign(**{at: later}))
    return pd.concat([frame, *more], ignore_index=True) if more else frame


def over_seeds(frame: pd.DataFrame, at: str = "step", scale: Scale | None = None) -> pd.DataFrame:
    """Return the frame with columns mean, low, high and n: of ``value`` over seeds, with 95 % t intervals.

    A mean is over the seeds of one variant (and split and measure, where the frame has them) at one ``at``; every row
    says that of its own. Seeds that were measured at other steps are read there too (:func:`with_shared_points`), and
    where the frame has a column ``stopped`` (as :func:`experiments.all_metrics` makes it) runs that ended because they
    had learned count with their last value (:func:`with_held_ends`). The scale is by default that of the measure:
    intervals of what lies between 0 and 1, or is never below 0, stay there (see :func:`analysis.mean_interval`).

    Raises:
        ValueError: for a frame without a column variant, seed, value or ``at``; if a variant and a seed have several
            runs, or a run comes twice.
    """
    require_columns(frame, ["variant", "seed", at, "value"], "measurements (experiments.all_metrics makes one)")
    by = [name for name in ("split", "measure") if name in frame]
    require_one_run_each(frame, at=(*by, at))
    chosen = scale or (None if "measure" in frame else "linear")
    shared = with_shared_points(frame, ["variant", *by], "seed", at)
    if "stopped" in shared:
        shared = with_held_ends(shared, ["variant", *by], "seed", at)
    found = grouped_intervals(shared, ["variant", *by, at], scale=chosen)
    return frame.merge(found, on=["variant", *by, at], how="left")


def with_differences(
    frame: pd.DataFrame, measure: str, reference: str = "classic", at: Sequence[str] = ("split", "tokens")
) -> pd.DataFrame:
    """Return the frame with rows more, of a measure "<measure> minus <reference>'s": every other variant's, by seed.

    They are of the seeds and of the ``at`` that both have; along the last of ``at``, the reference is read between its
    measurements where the other was measured (:func:`with_shared_points`).
    """
    measured = frame[frame.measure == measure]
    shared = with_shared_points(measured, ["seed", *at[:-1]], "variant", at[-1])
    base = shared[shared.variant == reference][["seed", *at, "value"]]
    both = measured[measured.variant != reference].merge(base, on=["seed", *at], suffixes=("", "_reference"))
    both = both.assign(value=both.value - both.value_reference, measure=f"{measure} minus {reference}'s")
    return pd.concat([frame, both.drop(columns="value_reference")], ignore_index=True)


def effects_over_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame of patched sites, where several runs of a variant have a site with their mean and t interval.

    It has columns variant, seed, run, effect, low, high, and those of a patch's result that say where it is.

    Raises:
        ValueError: if a variant and a seed have several runs, or a run has a site more than once (of several
            checkpoints, metrics or directions, say).
    """
    at = list(EFFECT_OF)
    require_one_run_each(frame, at=EFFECT_OF[1:])
    over = {"mean": "over", "low": "over_low", "high": "over_high", "n": "runs"}
    found = grouped_intervals(frame.assign(value=frame.effect), at).rename(columns=over)
    both = frame.merge(found, on=at, how="left").set_index(frame.index)
    ends = {end: both[end].where(both.runs == 1, both[f"over_{end}"]) for end in ("low", "high")}
    return frame.assign(effect=both.over, **ends)
