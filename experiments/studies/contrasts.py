"""The contrasts of a plan, judged as it declared, and what departed from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.statistics.comparison import judge
from analysis.statistics.paired_seeds import PairedSeeds
from analysis.statistics.survival import paired_restricted, shared_horizon, times_of
from circuits.common.text_table import interval, markdown
from experiments.studies.committed_results import Bundle
from experiments.studies.pictures import ratios_picture
from experiments.studies.plan import Plan
from experiments.studies.study import Block, Experiment, Picture
from experiments.studies.times import times, verdict
from experiments.studies.wording import shown


def judged(plan: Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a contrast of the plan: what, contrast, and the columns of
    :func:`analysis.statistics.comparison.judge` with estimate called ratio, margin and same_as, as
    :func:`experiments.studies.times.verdict` reads them; they are one family.

    ``runs`` is what :func:`experiments.studies.times.times` returns. A ratio is of restricted mean steps over the seeds
    that all arms have, up to the step to which all were followed; of four arms it is the first ratio over the second,
    so that 1 is no interaction. Two arms that went the same way have no ratio (``same_as`` is the reference).

    Raises:
        ValueError: if an arm of a contrast has no run, or fewer than two seeds are shared.
    """
    shared = set.intersection(*({*runs.seed[runs.variant == arm]} for arm in plan.arms))
    runs = runs[runs.seed.isin(shared)].sort_values("seed", kind="stable")
    horizon = shared_horizon(runs)
    same = [c.of[1] if len(c.of) == 2 and _went_alike(runs, *c.of) else "" for c in plan.contrasts]
    differ = [i for i, is_same in enumerate(same) if not is_same]
    pairs = [paired(runs, plan.contrasts[i].of, horizon) for i in differ]
    found = judge(pairs, margin=plan.smallest_of_interest).set_axis(differ)
    named = pd.DataFrame([{"what": c.what, "contrast": told(c.of)} for c in plan.contrasts])
    found = found.rename(columns={"estimate": "ratio"}).reindex(named.index)
    return pd.concat([named, found.assign(margin=plan.smallest_of_interest, same_as=same)], axis=1)


def _went_alike(runs: pd.DataFrame, variant: str, reference: str) -> bool:
    """Whether the runs of two arms measured the same, seed by seed, so that there is no ratio to judge."""
    mine, other = (list(runs.curve[runs.variant == arm]) for arm in (variant, reference))
    return mine == other


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

    return PairedSeeds("ratio", measure, first.scores - second.scores)


def told(of: Sequence[str]) -> str:
    """Return what pages call a contrast of two arms or of four."""
    ratios = [f"{a} / {b}" for a, b in zip(of[::2], of[1::2], strict=True)]
    return ratios[0] if len(ratios) == 1 else f"({ratios[0]}) / ({ratios[1]})"


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
    rows = [
        {
            "contrast": row.what,
            "of": row.contrast,
            "ratio": _ratio(row),
            "p": "-" if row.same_as else f"{row.p_adjusted:.2g}",
            "could show": "-" if row.same_as else shown(row.smallest),
            "verdict": verdict(row),
        }
        for _, row in decided(plan, experiment, bundle).iterrows()
    ]
    return markdown(pd.DataFrame(rows))


def _by_threshold(plan: Plan, experiment: Experiment, bundle: Bundle) -> str:
    if said := experiment.waiting(bundle):
        return said
    found = {f"{at:.0%}": judged(plan, times(bundle, experiment, at)) for at in plan.thresholds}
    rows = [
        {"contrast": contrast.what} | {at: _ratio(table.iloc[i]) for at, table in found.items()}
        for i, contrast in enumerate(plan.contrasts)
    ]
    return markdown(pd.DataFrame(rows))


def _ratio(row: pd.Series) -> str:
    return "-" if row.same_as else interval(row.ratio, row.low, row.high, ".3f")


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
