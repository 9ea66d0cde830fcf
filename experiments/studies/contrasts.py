"""The contrasts of a plan, judged as it declared, and what departed from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.statistics.paired_seeds import PairedSeeds
from analysis.statistics.survival import paired_restricted, shared_horizon, times_of
from circuits.common.errors import require
from circuits.common.text_table import interval, markdown
from experiments.studies.committed_results import Bundle
from experiments.studies.pictures import ratios_picture
from experiments.studies.plan import Plan
from experiments.studies.study import Block, Experiment, Picture
from experiments.studies.times import beside, ratios_of, times, told, verdict
from experiments.studies.wording import shown
from figures.words import listed


def judged(plan: Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a contrast of the plan: what, contrast, and the columns of
    :func:`analysis.statistics.comparison.judge` with estimate called ratio, margin and same_as, as
    :func:`experiments.studies.times.verdict` reads them; they are one family.

    ``runs`` is what :func:`experiments.studies.times.times` returns. A ratio is of restricted mean steps over the seeds
    that all arms have, up to the step to which all were followed; of four arms it is the first ratio over the second,
    so that 1 is no interaction. A contrast has no ratio where no run of its arms gets to the threshold, or fewer of an
    arm's than the plan wants, and where all of its arms went as those of an earlier one, which ``same_as`` names; both
    stay in the family that was declared. Two arms that went the same way (``same_as`` is the reference) are no part of
    it.

    Raises:
        ValueError: if fewer than two seeds are shared by all arms.
    """
    shared = set.intersection(*({*runs.seed[runs.variant == arm]} for arm in plan.arms))
    require(
        len(shared) >= 2,
        f"a plan's contrasts are paired by seed and need two or more that all of its arms have, got {sorted(shared)}: "
        f"train what is missing of {', '.join(plan.arms)}",
    )
    runs = runs[runs.seed.isin(shared)].sort_values("seed", kind="stable")
    horizon = shared_horizon(runs)
    reached = _reached(runs, horizon)
    rows, pairs, few, first = [], {}, [], {}
    for i, (what, of) in enumerate((contrast.what, contrast.of) for contrast in plan.contrasts):
        ways = tuple(tuple(runs.curve[runs.variant == arm]) for arm in of)
        share, alike = reached[list(of)], len(of) == 2 and ways[0] == ways[1]
        if not alike:
            pairs[i] = paired(runs, of, horizon)
        few.append(share.max() == 0 or share.min() < plan.least_reached)
        same_as = of[1] if alike else beside(first.setdefault(ways, of), of)
        rows.append({"what": what, "contrast": told(of), "pairs": len(shared), "same_as": same_as})
    table = pd.DataFrame(rows)
    found = ratios_of(pairs, table.index, plan.smallest_of_interest)
    found[pd.Series(few) | (table.same_as != "")] = np.nan
    return pd.concat([table.assign(margin=plan.smallest_of_interest), found], axis=1)


def _reached(runs: pd.DataFrame, horizon: float) -> pd.Series:
    """The share of every arm's runs that got to the threshold before the horizon."""
    return (runs.steps < horizon).groupby(runs.variant).mean()


def paired(runs: pd.DataFrame, of: Sequence[str], horizon: float) -> PairedSeeds:
    """Return the pairs of a ratio of two arms, or of the ratio of two ratios of four, of restricted mean steps.

    ``runs`` is a time frame in which all these arms have the same seeds.
    """
    first, *second = (
        paired_restricted(times_of(runs, a), times_of(runs, b), horizon, "ratio")
        for a, b in zip(of[::2], of[1::2], strict=True)
    )
    return _between(first, second[0]) if second else first


def _between(first: PairedSeeds, second: PairedSeeds) -> PairedSeeds:
    """The ratio of two ratios: every seed's log ratio less its other."""

    def measure(a: np.ndarray, b: np.ndarray) -> float | np.ndarray:
        return first.measure(a, b) - second.measure(a, b)

    return PairedSeeds("ratio", measure, first.scores - second.scores, min(first.seen, second.seen))


def decided(plan: Plan, experiment: Experiment, bundle: Bundle) -> pd.DataFrame:
    """Return :func:`judged` at the threshold that decides."""
    return judged(plan, times(bundle, experiment, plan.primary))


def decided_picture(name: str, plan: Plan, experiment: Experiment) -> Picture:
    """Return the figure of the contrasts of two arms at the threshold that decides, adjusted over all contrasts."""

    def ratios(bundle: Bundle) -> pd.DataFrame:
        arms = [c.of for c in plan.contrasts]
        named = {"variant": [of[0] for of in arms], "reference": [of[1] for of in arms], "condition": ""}
        return decided(plan, experiment, bundle).assign(**named)[[len(of) == 2 for of in arms]]

    return ratios_picture(name, experiment, ratios)


def _table(plan: Plan, experiment: Experiment, bundle: Bundle) -> str:
    if said := experiment.waiting(bundle):
        return said
    runs = times(bundle, experiment, plan.primary)
    rows = [
        {
            "contrast": row.what,
            "of": row.contrast,
            "ratio": _ratio(row, "-"),
            "p": "-" if np.isnan(row.ratio) else f"{row.p_adjusted:.2g}",
            "could show": "-" if np.isnan(row.ratio) else shown(row.smallest),
            "verdict": verdict(row),
        }
        for _, row in judged(plan, runs).iterrows()
    ]
    return markdown(pd.DataFrame(rows)) + _too_few(plan, runs)


def _too_few(plan: Plan, runs: pd.DataFrame) -> str:
    """Which arms have too few runs that got to the threshold that decides, so that what they are in the end decides."""
    reached = _reached(runs, shared_horizon(runs))
    few = [arm for arm in plan.arms if reached[arm] < plan.least_reached]
    if not few:
        return ""
    return (
        f"\n\nFewer than {plan.least_reached:.0%} of the runs of {listed(few)} got to {plan.primary:.0%}, so that, as "
        f"was declared, final values decide what is said of {'it' if len(few) == 1 else 'them'}."
    )


def _by_threshold(plan: Plan, experiment: Experiment, bundle: Bundle) -> str:
    if said := experiment.waiting(bundle):
        return said
    found = {f"{at:.0%}": judged(plan, times(bundle, experiment, at)) for at in plan.thresholds}
    rows = [
        {"contrast": contrast.what} | {at: _ratio(table.iloc[i], verdict(table.iloc[i])) for at, table in found.items()}
        for i, contrast in enumerate(plan.contrasts)
    ]
    return markdown(pd.DataFrame(rows))


def _ratio(row: pd.Series, without: str) -> str:
    return without if np.isnan(row.ratio) else interval(row.ratio, row.low, row.high, ".3f")


def departures(plan: Plan, arms: pd.DataFrame) -> list[str]:
    """Return what runs have otherwise than the plan declared, in sentences; none if nothing.

    ``arms`` has columns variant, seed, status: a row a run.
    """
    if arms.empty:
        return ["None is trained yet."]
    said = []
    for arm in plan.arms:
        seeds = {*arms.seed[arms.variant == arm]}
        lacking, more = (sorted(map(int, s)) for s in ({*plan.seeds} - seeds, seeds - {*plan.seeds}))
        said += [f"{arm} lacks the seeds {lacking}."] if lacking else []
        said += [f"{arm} has the seeds {more}, which were not declared."] if more else []
    failed = arms[arms.status == "failed"]
    said += [f"{len(failed)} runs diverged; they count as never getting there."] if len(failed) else []
    return said


def _declared(plan: Plan, experiment: Experiment, bundle: Bundle) -> str:
    arms = bundle.experiment(experiment.name) if bundle.holds([experiment.name]) else pd.DataFrame()
    last = plan.first_seed + plan.n_seeds - 1
    rows = [
        ("declared", plan.declared),
        ("why", plan.why),
        ("arms", "; ".join(plan.arms)),
        ("seeds", f"{plan.n_seeds}, from {plan.first_seed} to {last}"),
        ("threshold that decides", f"{plan.primary:.0%}; also {', '.join(f'{t:.0%}' for t in plan.thresholds)}"),
        ("smallest ratio of interest", f"{plan.smallest_of_interest:g}"),
        ("stop rule", plan.stop_rule),
        ("analysis", plan.analysis),
        ("core-hours", f"{plan.core_hours:g}, measured beforehand"),
        (
            "runs otherwise than declared",
            " ".join(departures(plan, arms)) or "none",
        ),
    ]
    return markdown(pd.DataFrame(rows, columns=["plan", ""]))


def plan_blocks(plan: Plan, experiment: Experiment) -> tuple[Block, ...]:
    """Return the blocks of a declared study's page: what was found, by threshold, and the plan with its departures."""
    texts: dict[str, tuple[str, Callable[[Plan, Experiment, Bundle], str]]] = {
        "": ("what was found", _table),
        "-by-threshold": ("what was found, by threshold", _by_threshold),
        "-declared": ("what was declared, and what departed from it", _declared),
    }
    return tuple(
        Block(
            f"{experiment.name}{end}", partial(text, plan, experiment), f"{experiment.name}: {heading}", (experiment,)
        )
        for end, (heading, text) in texts.items()
    )
