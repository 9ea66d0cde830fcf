"""What the committed results say: one table a question, computed from the bundle alone, and sentences to quote.

Times are steps to a threshold of in-context accuracy (split ic), interpolated between evaluations. A run that never
gets there is censored at its last planned step, as is one that diverged. Every question has comparisons of its own
(:func:`contrasts`). Ratios are of restricted means, paired by seed (pseudo-values of the log ratio); intervals and
p-values are Student's over pairs, both Bonferroni-adjusted over the distinct comparisons of a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.comparison import judge
from analysis.statistics.intervals import BOUNDED, grouped_intervals
from analysis.statistics.paired_seeds import Contrast, PairedSeeds, paired_seeds
from analysis.statistics.survival import paired_restricted, restricted_mean, shared_horizon, times_of
from analysis.statistics.thresholds import Rule, threshold_times
from experiments.studies.committed_results import Bundle

THRESHOLD = 0.95
THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
RULES: tuple[Rule, ...] = ("interpolated", "sustained")
REFERENCE = "classic"
MARGIN = 1.05
"""Ratios between 1 / MARGIN and this are no difference that matters: a fifth of what the paper says of its stream."""
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
_CARRIERS = (("value", REFERENCE), ("key", REFERENCE), ("query", REFERENCE), ("key", "value"), ("query", "value"))
_GRADIENT = (
    ("value", REFERENCE),
    ("value-stop", REFERENCE),
    ("value-stop", "value"),
    ("value-gradient-only", REFERENCE),
)
CONTRASTS: dict[str, tuple[tuple[str, str], ...]] = {
    "streams-paper": _CARRIERS,
    "streams": _CARRIERS,
    "gradient-paper": _GRADIENT,
    "gradient": _GRADIENT,
    "data": (("value", REFERENCE), ("value-stop", "value")),
    "lm": (
        *_GRADIENT,
        ("value-gradient-only", "value"),
        ("resformer-constant", REFERENCE),
        ("cumulative", REFERENCE),
    ),
}
"""Which variant is compared with which, by experiment; for the others see :func:`contrasts`."""
AGAINST_VALUE = ("windows", "windows-paper", "controls")
"""Experiments that ask whether something does as well as the value stream."""


def contrasts(name: str, variants: Iterable[str]) -> list[tuple[str, str]]:
    """Return the comparisons that answer an experiment's question, as (variant, reference)."""
    there = list(dict.fromkeys(variants))
    if name in CONTRASTS:
        return [pair for pair in CONTRASTS[name] if set(pair) <= set(there)]
    others = [v for v in there if v != REFERENCE]
    if name not in AGAINST_VALUE:
        return [(v, REFERENCE) for v in others]
    alike = [(v, REFERENCE) for v in others if v == "value" or v.startswith(REFERENCE)]
    return alike + [(v, "value") for v in others if v != "value"]


def times(
    bundle: Bundle,
    name: str,
    threshold: float = THRESHOLD,
    rule: Rule = "interpolated",
    split: str = "ic",
    measure: str = "accuracy",
) -> pd.DataFrame:
    """Return one row a run of an experiment: condition, variant, seed, steps to the threshold (NaN: censored), last,
    status, and curve (see :func:`analysis.threshold_times`).

    The threshold is one of a measure on a split.

    Raises:
        UnknownNameError: for an experiment that the bundle does not hold.
    """
    return _times(bundle, name, _curves(bundle, name, split, measure), threshold, rule)


def _curves(bundle: Bundle, name: str, split: str, measure: str) -> pd.DataFrame:
    metrics = bundle.metrics(name)
    return metrics[(metrics.split == split) & (metrics.measure == measure)]


def _times(bundle: Bundle, name: str, curves: pd.DataFrame, threshold: float, rule: Rule) -> pd.DataFrame:
    split, measure = curves.split.iloc[0], curves.measure.iloc[0]
    found = [
        threshold_times(rows, threshold, split, measure, rule).assign(condition=str(condition))
        for condition, rows in curves.groupby("condition", sort=False, observed=True)
    ]
    arms = bundle.experiment(name)[["condition", "variant", "seed", "status", "steps", "stops_at"]]
    both = pd.concat(found, ignore_index=True).merge(arms.rename(columns={"steps": "planned"}))
    # A run that ended at a lower accuracy was not followed to this threshold, and those that learn sooner end sooner:
    # to count it as censored there would be biased. Runs end by their accuracy in context.
    both = both[~(both.stops_at < threshold) if split == "ic" else both.stops_at.isna()]
    diverged = both.status == "failed"
    return both.assign(last=both["last"].where(~diverged, both.planned)).drop(columns=["planned", "stops_at"])


def compared(bundle: Bundle, name: str, threshold: float = THRESHOLD, **asked: Any) -> pd.DataFrame:
    """Return :func:`speed` of an experiment, by its own :func:`contrasts`; ``asked`` is as for :func:`times`."""
    runs = times(bundle, name, threshold, **asked)
    return speed(runs, contrasts(name, runs.variant))


def speed(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return one row a comparison and condition: how soon a variant gets there, against a reference of equal seeds.

    ``runs`` is what :func:`times` returns; ``pairs`` are (variant, reference), by default all against classic. All of
    a row is over the same seeds and up to the same horizon, so that ``ratio`` is steps / reference_steps, which are
    restricted means. Rows are one family (see :func:`analysis.statistics.comparison.judge`), comparisons of runs
    that went the
    same way up to the threshold counting once: ``same_as`` names what a variant is the same as, or is empty.

    Columns: condition, variant, reference, pairs, reached, reference_reached, diverged (of either), steps,
    reference_steps, same_as, margin, ratio, low, high, p, p_adjusted, smallest, p_equivalent (to 1, within margin).
    """
    wanted = pairs or [(v, REFERENCE) for v in dict.fromkeys(runs.variant) if v != REFERENCE]
    rows, judged, keys, first = [], {}, {}, {}
    for condition, there in runs.groupby("condition", sort=False):
        for variant, reference in wanted:
            if {variant, reference} <= set(there.variant):
                row, pair, ways = _pair(there, variant, reference)
                if pair:
                    judged[len(rows)], keys[len(rows)] = pair, ways
                    row["same_as"] = first.setdefault(ways, variant)
                rows.append({"condition": condition, **row})
    table = pd.DataFrame(rows, columns=_ROW)
    table["margin"] = MARGIN
    table["same_as"] = table.same_as.where(table.same_as != table.variant, "")
    if not judged:
        return table.assign(**dict.fromkeys(_JUDGED, float("nan")))
    found = judge(list(judged.values()), once=list(keys.values()), margin=MARGIN).set_axis(list(judged))
    return pd.concat([table, found.rename(columns={"estimate": "ratio"}).reindex(table.index)[list(_JUDGED)]], axis=1)


_ROW = [
    "condition",
    "variant",
    "reference",
    "pairs",
    "reached",
    "reference_reached",
    "diverged",
    "steps",
    "reference_steps",
    "same_as",
]
_JUDGED = ("ratio", "low", "high", "p", "p_adjusted", "smallest", "p_equivalent")


def _pair(runs: pd.DataFrame, variant: str, reference: str) -> tuple[dict[str, Any], PairedSeeds | None, Any]:
    """A row, its pairs if they say anything, and the ways that both variants' runs went."""
    mine, base = runs[runs.variant == variant], runs[runs.variant == reference]
    shared = sorted(set(mine.seed) & set(base.seed))
    row: dict[str, Any] = {"variant": variant, "reference": reference, "pairs": len(shared), "same_as": ""}
    if not shared:
        return row, None, None
    both = pd.concat([mine, base])
    both = both[both.seed.isin(shared)].sort_values("seed")
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


def sensitivity(bundle: Bundle, names: Sequence[str], rules: Sequence[Rule] = RULES) -> pd.DataFrame:
    """Return :func:`compared` at every threshold and rule, for experiments by name (column experiment).

    A family is an experiment at one threshold and rule: the thresholds are one question, read at several lines.
    """
    parts = []
    for name in names:
        curves = _curves(bundle, name, "ic", "accuracy")
        for threshold in THRESHOLDS:
            for rule in rules:
                runs = _times(bundle, name, curves, threshold, rule)
                found = speed(runs, contrasts(name, runs.variant))
                parts.append(found.assign(experiment=name, threshold=threshold, rule=rule))
    return pd.concat(parts, ignore_index=True)


def from_gradient(bundle: Bundle, name: str) -> pd.DataFrame:
    """Return what the gradient through the stream adds: threshold, ratio (of value-stop to value), low, high,
    p_adjusted, and share: of the steps that the value stream saves, those that are lost where its gradient is cut.
    """
    table = sensitivity(bundle, (name,), ("interpolated",))
    pair = table.variant + " / " + table.reference
    whole, cut = (table[pair == of].reset_index() for of in (f"value / {REFERENCE}", "value-stop / value"))
    share = (cut.steps - cut.reference_steps) / (whole.reference_steps - whole.steps)
    return cut[["threshold", "ratio", "low", "high", "p_adjusted"]].assign(share=share)


def _rows(frame: pd.DataFrame) -> Iterable[Any]:
    return frame.itertuples()


def final(bundle: Bundle, name: str, measure: str = "accuracy", at_step: int | None = None) -> pd.DataFrame:
    """Return where runs end: condition, variant, split, mean, low, high, n over seeds of a measure at their last step.

    ``at_step`` takes that step instead, of the runs that have it.
    """
    ends = ends_of(bundle, name, measure, at_step)
    return grouped_intervals(ends, ["condition", "variant", "split", "measure"], scale=None).drop(columns="measure")


def ends_of(bundle: Bundle, name: str, measure: str, at_step: int | None = None) -> pd.DataFrame:
    """Return the rows of :meth:`Bundle.metrics` of a measure at the last step of each run, or at a step."""
    metrics = bundle.metrics(name)
    chosen = metrics[metrics.measure == measure]
    last = chosen.groupby("run")["step"].transform("max") if at_step is None else at_step
    return chosen[chosen.step == last]


def differences(ends: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the difference of every variant to classic, paired by seed, within every group: one family.

    ``ends`` has columns of ``by``, measure, variant, seed, value; differences of measures between 0 and 1 have
    intervals between -1 and 1. Columns: those of ``by``, variant, pairs, lower (how many of
    them are below 0), difference, low, high, p, p_adjusted, smallest (see
    :func:`analysis.statistics.comparison.judge`).
    """
    rows, pairs = [], []
    for key, part in ends.groupby(list(by), sort=False, observed=True):
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


def tuned(runs: pd.DataFrame) -> pd.DataFrame:
    """Return every variant at its own best rate against classic at its own, for each kind of optimiser.

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
    rates: Any = chosen.drop_duplicates(["condition", "variant"]).set_index(["condition", "variant"]).rate
    table = speed(chosen)
    at = {column: [rates[r.condition, getattr(r, column)] for r in _rows(table)] for column in ("variant", "reference")}
    return table.assign(rate=at["variant"], reference_rate=at["reference"])


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
    """Return what a row of :func:`speed` says, in a few words; that nothing was shown is said as such.

    "The same" is said of an equivalence test alone, to within ``MARGIN``; "is value" of runs that went the same way.
    """
    if row.same_as:
        return f"is {row.same_as}"
    if np.isnan(row.ratio):
        return "too few got there"
    alike, within = row.p_equivalent < 0.05, f"within {MARGIN - 1:.0%}"
    if row.p_adjusted < 0.05:
        return ("sooner" if row.ratio < 1 else "later") + (f", {within}" if alike else "")
    return f"the same {within}" if alike else "not told apart"
