"""How soon runs learn, and where they end: the contrasts that studies share, computed from the bundle alone.

Times are steps to an experiment's threshold (in context: of accuracy on novel classes, split ic), interpolated between
evaluations. A run that never gets there is censored at its last planned step, as is one that diverged. Every question
has comparisons of its own (:attr:`Experiment.contrasts`). Ratios are of restricted means, paired by seed (pseudo-values
of the log ratio); intervals and p-values are Student's over pairs, both Bonferroni-adjusted over the distinct
comparisons of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.comparison import judge
from analysis.statistics.intervals import BOUNDED, grouped_intervals
from analysis.statistics.paired_seeds import Contrast, PairedSeeds, paired_seeds
from analysis.statistics.survival import paired_restricted, restricted_mean, shared_horizon, times_of
from analysis.statistics.thresholds import Rule, threshold_times
from experiments.studies.committed_results import Bundle
from experiments.studies.study import REFERENCE, Experiment, against_classic
from figures.trainings.verdicts import TOLD, verdict_of, words_of

THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
RULES: tuple[Rule, ...] = ("interpolated", "sustained")
MARGIN = 1.05
"""Ratios between 1 / MARGIN and this are no difference that matters: a fifth of what the paper says of its stream."""
IN_CONTEXT = {split: (split, "accuracy") for split in ("test", "ic", "ic2", "iw")}
"""Columns of a table of final values: their split and measure."""


def times(
    bundle: Bundle,
    experiment: Experiment,
    threshold: float | None = None,
    rule: Rule = "interpolated",
    split: str | None = None,
) -> pd.DataFrame:
    """Return one row a run: condition, variant, seed, steps to the threshold (NaN: censored), last, status, and curve
    (see :func:`analysis.threshold_times`).

    Threshold and split are the experiment's own where none is given.

    Raises:
        UnknownNameError: for an experiment that the bundle does not hold.
    """
    curves = _curves(bundle, replace(experiment, split=split or experiment.split))
    at = experiment.threshold if threshold is None else threshold
    return times_of_curves(curves, bundle.experiment(experiment.name), at, rule)


def _curves(bundle: Bundle, experiment: Experiment) -> pd.DataFrame:
    metrics = bundle.metrics(experiment.name)
    return metrics[(metrics.split == experiment.split) & (metrics.measure == experiment.measure)]


def times_of_curves(
    curves: pd.DataFrame, arms: pd.DataFrame, threshold: float, rule: Rule = "interpolated"
) -> pd.DataFrame:
    """Return :func:`times` of rows of :meth:`Bundle.metrics` of one split and measure, and of :meth:`Bundle.experiment`
    for the runs that they are of."""
    split, measure = curves.split.iloc[0], curves.measure.iloc[0]
    found = [
        threshold_times(rows, threshold, split, measure, rule).assign(condition=str(condition))
        for condition, rows in curves.groupby("condition", sort=False, observed=True)
    ]
    arms = arms[["condition", "variant", "seed", "status", "steps", "stops_at", "stops_on"]]
    both = pd.concat(found, ignore_index=True).merge(arms.rename(columns={"steps": "planned"}))
    # A run that ended at a lower accuracy was not followed to this threshold, and those that learn sooner end sooner:
    # to count it as censored there would be biased.
    followed = (both.stops_on == f"{split} {measure}") & (both.stops_at >= threshold)
    both = both[both.stops_at.isna() | followed]
    diverged = both.status == "failed"
    return both.assign(last=both["last"].where(~diverged, both.planned)).drop(
        columns=["planned", "stops_at", "stops_on"]
    )


def compared(
    bundle: Bundle, experiment: Experiment, threshold: float | None = None, split: str | None = None
) -> pd.DataFrame:
    """Return :func:`speed` of an experiment, by its own contrasts; threshold and split are as for :func:`times`."""
    runs = times(bundle, experiment, threshold, split=split)
    return speed(runs, experiment.contrasts(runs.variant))


def speed(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return one row a comparison and condition: how soon a variant gets there, against a reference of equal seeds.

    ``runs`` is what :func:`times` returns; ``pairs`` are (variant, reference), by default all against classic. All of
    a row is over the same seeds and up to the same horizon, so that ``ratio`` is steps / reference_steps, which are
    restricted means. Rows with a ratio are one family (see :func:`analysis.statistics.comparison.judge`). Others are of
    too few runs that got there, or of runs that went the same way up to the threshold as their reference's or as those
    of an earlier row, which ``same_as`` names.

    Columns: condition, variant, reference, pairs, reached, reference_reached, diverged (of either), steps,
    reference_steps, same_as, margin, ratio, low, high, p, p_adjusted, smallest, p_equivalent (to 1, within margin).
    """
    wanted = pairs or against_classic(runs.variant)
    rows, judged, first = [], {}, {}
    for condition, there in runs.groupby("condition", sort=False):
        for variant, reference in wanted:
            if {variant, reference} <= set(there.variant):
                row, pair, ways = _pair(there, variant, reference)
                if pair:
                    row["same_as"] = beside(first.setdefault(ways, (variant, reference)), (variant, reference))
                    if not row["same_as"]:
                        judged[len(rows)] = pair
                rows.append({"condition": condition, **row})
    table = pd.DataFrame(rows, columns=list(_ROW))
    table["margin"] = MARGIN
    return pd.concat([table, ratios_of(judged, table.index, MARGIN)], axis=1)


def told(of: Sequence[str]) -> str:
    """Return what pages call a comparison of two arms or of four."""
    ratios = [f"{a} / {b}" for a, b in zip(of[::2], of[1::2], strict=True)]
    return ratios[0] if len(ratios) == 1 else f"({ratios[0]}) / ({ratios[1]})"


def beside(first: Sequence[str], of: Sequence[str]) -> str:
    """Return what a comparison is called beside a later one whose runs went the same way; nothing if it is that one."""
    if first == of:
        return ""
    return first[0] if len(of) == 2 and first[1] == of[1] else told(first)


def ratios_of(pairs: Mapping[int, PairedSeeds], rows: pd.Index, margin: float) -> pd.DataFrame:
    """Return what is judged of those rows of a table that have pairs, as one family: the columns :data:`JUDGED`, empty
    for the others."""
    found = judge([*pairs.values()], margin=margin).set_axis([*pairs]).rename(columns={"estimate": "ratio"})
    return found[list(JUDGED)].reindex(rows)


_ROW = ("condition", "variant", "reference", "pairs", "reached", "reference_reached", "diverged", "steps")
_ROW += ("reference_steps", "same_as")
JUDGED = ("ratio", "low", "high", "p", "p_adjusted", "smallest", "p_equivalent")
"""Columns of what is judged, which are empty where there is no ratio."""


def _pair(runs: pd.DataFrame, variant: str, reference: str) -> tuple[dict[str, Any], PairedSeeds | None, Any]:
    """A row, its pairs if they say anything, and the ways that both variants' runs went."""
    mine, base = runs[runs.variant == variant], runs[runs.variant == reference]
    shared = sorted(set(mine.seed) & set(base.seed))
    row: dict[str, Any] = {"variant": variant, "reference": reference, "pairs": len(shared), "same_as": ""}
    if not shared:
        return row, None, None
    both = pd.concat([mine, base])
    both = both[both.seed.isin(shared)].sort_values("seed", kind="stable")
    horizon = shared_horizon(both)
    first, second = times_of(both, variant), times_of(both, reference)
    row |= {"reached": int(first.reached.sum()), "reference_reached": int(second.reached.sum())}
    row |= {"diverged": int((both.status == "failed").sum()), "steps": restricted_mean(first, horizon).mean}
    row |= {"reference_steps": restricted_mean(second, horizon).mean}
    if len(shared) < 2 or not (both.steps < horizon).any():
        return row, None, None
    ways = tuple(tuple(both.curve[both.variant == v]) for v in (variant, reference))
    if ways[0] == ways[1]:
        return row | {"same_as": reference}, None, None
    return row, paired_restricted(first, second, horizon, "ratio"), ways


def row_of(table: pd.DataFrame, variant: str, reference: str) -> Any:
    """Return the row of a comparison."""
    return next(table[(table.variant == variant) & (table.reference == reference)].itertuples())


def sensitivity(bundle: Bundle, experiments: Sequence[Experiment], rules: Sequence[Rule] = RULES) -> pd.DataFrame:
    """Return :func:`compared` at every threshold and rule, for several experiments (column experiment: their names).

    A family is an experiment at one threshold and rule: the thresholds are one question, read at several lines.
    """
    parts = []
    for experiment in experiments:
        curves, arms = _curves(bundle, experiment), bundle.experiment(experiment.name)
        for threshold in THRESHOLDS:
            for rule in rules:
                runs = times_of_curves(curves, arms, threshold, rule)
                found = speed(runs, experiment.contrasts(runs.variant))
                parts.append(found.assign(experiment=experiment.name, threshold=threshold, rule=rule))
    return pd.concat(parts, ignore_index=True)


def verdict(row: Any) -> str:
    """Return what a row of :func:`speed` says, in a few words; that nothing was shown is said as such.

    "The same" is said of an equivalence test alone, to within the row's margin; "is value" of runs that went the same
    way.
    """
    if row.same_as:
        return f"is {row.same_as}"
    small = verdict_of(row) is TOLD and row.p_equivalent < 0.05
    return words_of(row) + (f", within {row.margin - 1:.0%}" if small else "")


def ends(
    bundle: Bundle, experiment: Experiment, columns: Mapping[str, tuple[str, str]], at_step: int | None = None
) -> pd.DataFrame:
    """Return the last value of every run: the columns of :meth:`Bundle.metrics`, and title.

    ``columns`` are the titles with the split and measure of each; ``at_step`` takes that step instead of the last, of
    the runs that go so far, on the straight line between two evaluations.
    """
    metrics, parts = bundle.metrics(experiment.name), []
    for title, (split, measure) in columns.items():
        chosen = metrics[(metrics.measure == measure) & (metrics.split == split)]
        for _, curve in chosen.groupby(["condition", "variant", "run"], sort=False, observed=True):
            last = curve.step.max()
            step = last if at_step is None else at_step
            if step <= last:
                value = np.interp(step, curve.step, curve["value"])
                parts.append(curve.iloc[:1].assign(step=step, value=value, title=title))
    return pd.concat(parts, ignore_index=True)


def means(ends: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds of :func:`ends`: title, condition, variant, mean, low, high, n.

    Intervals of measures between 0 and 1 stay there.
    """
    table = grouped_intervals(ends, ["title", "condition", "variant", "measure"], scale=None)
    return table.drop(columns="measure")


def differences(ends: pd.DataFrame) -> pd.DataFrame:
    """Return the difference of every variant to classic, paired by seed, by title and condition: one family.

    ``ends`` is what :func:`ends` returns; differences of measures between 0 and 1 have intervals between -1 and 1.
    Columns: title, condition, variant, pairs, lower (how many of them are below 0), difference, low, high, p,
    p_adjusted, smallest (see :func:`analysis.statistics.comparison.judge`).
    """
    rows, pairs, by = [], [], ["title", "condition"]
    for key, part in ends.groupby(by, sort=False, observed=True):
        wide = part.pivot(index="seed", columns="variant", values="value")
        for variant in (v for v in dict.fromkeys(part.variant) if v != REFERENCE and REFERENCE in wide):
            both = wide[[variant, REFERENCE]].dropna()
            if len(both) >= 2:
                kind: Contrast = "bounded" if part.measure.iloc[0] in BOUNDED else "difference"
                pairs.append(paired_seeds(both[variant].to_numpy(), both[REFERENCE].to_numpy(), kind))
                lower = int((both[variant] < both[REFERENCE]).sum())
                rows.append(dict(zip(by, key, strict=True)) | {"variant": variant, "lower": lower})
    columns = ["pairs", "difference", "low", "high", "p", "p_adjusted", "smallest"]
    if not rows:
        return pd.DataFrame(columns=[*by, "variant", "lower", *columns])
    found = judge(pairs).rename(columns={"estimate": "difference"})
    return pd.concat([pd.DataFrame(rows), found[columns]], axis=1)
