"""What the committed results say: one table a question, computed from the bundle alone, and sentences to quote.

Times are steps to a threshold of in-context accuracy (split ic). A run that never gets there is censored at its last
planned step, as is one that diverged. Ratios are of restricted means, paired by seed (pseudo-values of the log
ratio); intervals and p-values are Student's over pairs, the p-values Holm-adjusted over all rows of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparison import compare
from analysis.statistics import adjust, grouped_intervals
from analysis.survival import restricted_mean, shared_horizon, times_of
from analysis.thresholds import Rule, threshold_times
from experiments.bundle import Bundle

THRESHOLD = 0.95
THRESHOLDS = (0.90, 0.95, 0.98)
RULES: tuple[Rule, ...] = ("first", "sustained")
REFERENCE = "classic"
LAST_STEP = 75_000
"""Of the paper's schedule."""
MEASURED = ("test", "ic", "ic2", "iw")
ASKS = {
    "streams-paper": "Which stream speeds up in-context learning, at the paper's size?",
    "streams": "Which stream speeds up in-context learning, in the small preset?",
    "gradient-paper": "Is it the value that the stream carries or its gradient, at the paper's size?",
    "gradient": "Is it the value that the stream carries or its gradient, in the small preset?",
    "windows-paper": "When must the stream be open, at the paper's size?",
    "windows": "When must the stream be open, in the small preset?",
    "controls": "Is it something duller than a stream of values?",
    "connections": "Which connection helps, in how many layers?",
    "data": "On which data does it help?",
    "optimisers": "Does it help with every optimiser and rate?",
    "mechanism": "Which heads and routes do it?",
    "lm": "Does the stream help a language model to identify indirect objects, and is it the gradient?",
    "lm-sizes": "Does what it brings grow with the model?",
    "lm-nested": "Does it help with relations inside relations?",
}


def times(
    bundle: Bundle,
    name: str,
    threshold: float = THRESHOLD,
    rule: Rule = "first",
    split: str = "ic",
    measure: str = "accuracy",
) -> pd.DataFrame:
    """Return one row a run of an experiment: condition, variant, seed, steps to the threshold (NaN: censored), last.

    The threshold is one of a measure on a split.

    Raises:
        UnknownNameError: for an experiment that the bundle does not hold.
    """
    metrics = bundle.metrics(name)
    found = [
        threshold_times(rows, threshold, split, measure, rule).assign(condition=str(condition))
        for condition, rows in metrics.groupby("condition", sort=False, observed=True)
    ]
    arms = bundle.experiment(name)[["condition", "variant", "seed", "status", "steps", "stops_at"]]
    both = pd.concat(found, ignore_index=True).merge(arms.rename(columns={"steps": "planned"}))
    # A run that ended at a lower accuracy was not followed to this threshold, and those that learn sooner end sooner:
    # to count it as censored there would be biased.
    both = both[~(both.stops_at < threshold)]
    diverged = both.status == "failed"
    return both.assign(last=both["last"].where(~diverged, both.planned)).drop(columns=["planned", "stops_at"])


def speed(runs: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Return how soon every variant gets there, against the reference, within each condition.

    ``runs`` is what :func:`times` returns. Columns: condition, variant, runs, reached, steps (restricted mean) with
    steps_low and steps_high, pairs, ratio, low, high, p, p_adjusted. The reference's own rows have no ratio.
    """
    rows = [
        _against(rows, str(variant), reference) | {"condition": condition}
        for condition, rows in runs.groupby("condition", sort=False)
        for variant in dict.fromkeys(rows.variant)
    ]
    table = pd.DataFrame(rows)
    compared = table.p.notna()
    table["p_adjusted"] = np.nan
    table.loc[compared, "p_adjusted"] = adjust(table.p[compared].to_numpy(), "holm")
    first = ["condition", "variant", "runs", "reached", "diverged", "steps", "steps_low", "steps_high"]
    return table[[*first, "pairs", "ratio", "low", "high", "p", "p_adjusted"]]


def _against(rows: pd.DataFrame, variant: str, reference: str) -> dict[str, Any]:
    mine = rows[rows.variant == variant]
    known = times_of(mine, variant)
    mean = restricted_mean(known, min(known.known_until, float(mine["last"].max())))
    row = {"variant": variant, "runs": len(mine), "reached": int(mine.steps.notna().sum())}
    row |= {"diverged": int((mine.status == "failed").sum())}
    row |= {"steps": mean.mean, "steps_low": mean.low, "steps_high": mean.high}
    shared = sorted(set(mine.seed) & set(rows.seed[rows.variant == reference]))
    nothing = dict.fromkeys(("ratio", "low", "high", "p"), float("nan"))
    if variant == reference or len(shared) < 2:
        return row | {"pairs": 0} | nothing
    pair = rows[rows.seed.isin(shared) & rows.variant.isin([variant, reference])]
    if not (pair.steps < shared_horizon(pair)).any():
        return row | {"pairs": len(shared)} | nothing
    found = compare(pair, reference, contrast="ratio", test="t", correction="none").iloc[0]
    return row | {"pairs": int(found.pairs), "ratio": found.estimate, **{n: found[n] for n in ("low", "high", "p")}}


def sensitivity(bundle: Bundle, names: Sequence[str]) -> pd.DataFrame:
    """Return :func:`speed` at every threshold and rule, for experiments by name (column experiment)."""
    return pd.concat(
        [
            speed(times(bundle, name, threshold, rule)).assign(experiment=name, threshold=threshold, rule=rule)
            for name in names
            for threshold in THRESHOLDS
            for rule in RULES
        ],
        ignore_index=True,
    )


def final(bundle: Bundle, name: str, measure: str = "accuracy", at_step: int | None = None) -> pd.DataFrame:
    """Return where runs end: condition, variant, split, mean, low, high, n over seeds of a measure at their last step.

    ``at_step`` takes that step instead, of the runs that have it.
    """
    metrics = bundle.metrics(name)
    chosen = metrics[metrics.measure == measure]
    if at_step is None:
        chosen = chosen[chosen.step == chosen.groupby("run")["step"].transform("max")]
    else:
        chosen = chosen[chosen.step == at_step]
    return grouped_intervals(chosen, ["condition", "variant", "split"])


def tuned(runs: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Return every variant at its own best rate against the reference at its own, for each kind of optimiser.

    Conditions are called "<optimiser>, rate <rate>". The best rate has the least restricted mean over the same seeds on
    which it is then compared, alike for every variant.
    """
    parts = runs.assign(
        kind=runs.condition.str.split(", rate ").str[0], rate=runs.condition.str.split(", rate ").str[1]
    )
    best = []
    for (kind, _), rows in parts.groupby(["kind", "variant"], sort=False):
        capped = rows.assign(steps=rows.steps.fillna(rows["last"]))
        rate = capped.groupby("rate")["steps"].mean().idxmin()
        best.append(rows[rows.rate == rate].assign(condition=str(kind)))
    chosen = pd.concat(best, ignore_index=True)
    rates = chosen.drop_duplicates(["condition", "variant"])[["condition", "variant", "rate"]]
    return speed(chosen, reference).merge(rates, on=["condition", "variant"])


def shares(bundle: Bundle, name: str, tensor: str = "blocks.0.attn.W_V") -> pd.DataFrame:
    """Return the stream's share of a one-headed weight's gradient over training: variant, seed, run, step, value.

    The share is |stream| / (|direct| + |stream|) of the norms; see :func:`analysis.split_gradient`.
    """
    rows = bundle.gradients(name)
    chosen = rows[rows.tensor == tensor]
    chosen = chosen.rename(columns={"stream_share": "value"}).astype({"step": int})
    return chosen[["condition", "variant", "seed", "run", "step", "value"]]


PHASES = ("before", "within", "after", "end")
WITHOUT: dict[str, tuple[str, str, str]] = {
    "without head L0H0": ("site", "head", "mean"),
    "its keys' path cut": ("edge", "L0H0 > L1H0.k (residual)", "mean"),
    "stream cut forward": ("site", "forward cut", "-"),
}
"""Columns of the mechanism's table that are accuracies under an ablation: kind, part, method."""
PATCHED: dict[str, tuple[str, str]] = {
    "residual stream restored": ("resid_pre", "-"),
    "stream restored": ("v", "residual"),
    "both restored": ("state", "-"),
}
"""Columns that are normalised effects of patching before layer 1 at the right labels: component, route."""


def mechanism(bundle: Bundle) -> pd.DataFrame:
    """Return one row a preset, variant and phase, means over seeds: accuracy whole and under the ablations of
    ``WITHOUT``, the patching effects of ``PATCHED``, and the faithfulness of the circuit found at the end.

    What a model does not have (a stream, say) is NaN, and so are effects before the transition, which would be shares
    of next to no difference.
    """
    ablated, patched = bundle.frame("mechanism_ablations"), bundle.frame("mechanism_patches")
    group = ["preset", "variant", "phase"]
    columns = {"runs": ablated.groupby(group)["run"].nunique(), "step": ablated.groupby(group)["step"].mean()}
    columns["accuracy"] = ablated.groupby(group)["accuracy"].mean()
    for name, (what, part, method) in WITHOUT.items():
        chosen = ablated[(ablated.what == what) & (ablated.part == part) & (ablated.method == method)]
        first = chosen[chosen["layer"].astype(str).isin(["0", "all"])]
        columns[name] = first.groupby(group)["accuracy_ablated"].mean()
    at = patched[(patched.layer == 1) & (patched.position == "matching label") & (patched.phase != "before")]
    for name, (component, route) in PATCHED.items():
        columns[name] = at[(at.component == component) & (at.route == route)].groupby(group)["effect"].mean()
    columns["faithfulness"] = bundle.frame("mechanism_circuits").groupby(group)["faithfulness"].mean()
    table = pd.DataFrame(columns).reset_index()
    return table.assign(phase=pd.Categorical(table.phase, PHASES)).sort_values(group, ignore_index=True)


def circuits(bundle: Bundle) -> pd.DataFrame:
    """Return the edges of the circuits found at the runs' ends.

    Columns: preset, variant, edge, in how many runs' circuits it is (kept), of how many (runs), its mean effect and
    minimality, and the means over runs of the circuits' faithfulness, incompleteness and size (edges, of).
    """
    edges = bundle.frame("mechanism_edges")
    group = ["preset", "variant"]
    found = edges.groupby([*group, "edge"], sort=False).agg(
        kept=("kept", "sum"), runs=("run", "nunique"), effect=("effect", "mean"), minimality=("edge_minimality", "mean")
    )
    by_run = edges.drop_duplicates("run").groupby(group)[["faithfulness", "incompleteness", "edges", "of"]].mean()
    return found[found.kept > 0].reset_index().merge(by_run.reset_index(), on=group)


# --- in words --------------------------------------------------------------------------------------------------------


def verdict(row: Any) -> str:
    """Return what a row of :func:`speed` says, as a sentence to quote; a null result is one too."""
    where = "" if row.condition == "as in the paper" else f" ({row.condition})"
    if np.isnan(row.ratio):
        return f"{row.variant}{where}: too few runs got there to say anything."
    shown = row.p_adjusted < 0.05
    what = "no difference shown" if not shown else ("sooner" if row.ratio < 1 else "later")
    return (
        f"{row.variant}{where}: {row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}] times {REFERENCE}'s steps, {what} "
        f"(p = {row.p_adjusted:.2g}; {row.reached} of {row.runs} runs got there)."
    )
