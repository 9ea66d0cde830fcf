"""What the committed results say of language models: one table a question, computed from the bundle alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.intervals import grouped_intervals
from analysis.statistics.paired_seeds import PairedSeeds, paired_seeds
from experiments.questions.ioi_tables import ANSWERS, paper_table
from experiments.studies import times as answers
from experiments.studies.committed_results import Bundle
from experiments.studies.times import REFERENCE

WATCHED = ("ioi train", "probability", 0.5)
"""Set, measure and threshold by which the time to identifying indirect objects is told."""
PAPER_SAYS = {REFERENCE: 0.07, "value": 0.41}
"""The probability of the right name that the paper reports."""
LOSS = ("validation", "loss")
FINALS: dict[str, tuple[str, str]] = {
    "validation loss": LOSS,
    "P(IO)": ("ioi train", "probability"),
    "P(IO), held out": ("ioi held-out", "probability"),
    "P(IO), paper": ("ioi paper", "probability"),
    "P(S), paper": ("ioi paper", "wrong_probability"),
    "logit difference": ("ioi train", "logit_difference"),
}
"""Columns of the table of final values: set and measure."""
SIZES_FINALS = {title: where for title, where in FINALS.items() if "paper" not in title}
"""Those of the table by size."""
NESTED_FINALS: dict[str, tuple[str, str]] = {
    "validation loss": LOSS,
    **{f"depth {depth}": (f"depth {depth}", "accuracy") for depth in range(4)},
}


def curves(bundle: Bundle, name: str) -> pd.DataFrame:
    """Return :meth:`Bundle.metrics` with the tokens that a run had seen at every step, of one condition each."""
    metrics = bundle.metrics(name)
    per_step = {row.name: _tokens_per_step(str(row.config)) for row in bundle.runs.itertuples() if _is_lm(row)}
    return metrics.assign(tokens=metrics.step * metrics.run.map(per_step))


def _is_lm(row: Any) -> bool:
    return str(row.name).startswith("lm-")


def _tokens_per_step(config: str) -> int:
    held = json.loads(config)
    # A configuration is stored without what has its default.
    return held["training"].get("batch_size", 32) * held["task"].get("n_ctx", 64)


def compared(bundle: Bundle, name: str) -> pd.DataFrame:
    """Return :func:`experiments.studies.times.compared` at the threshold that is ``WATCHED``."""
    split, measure, threshold = WATCHED
    return answers.compared(bundle, name, threshold, split=split, measure=measure)


def interaction(bundle: Bundle, name: str = "lm") -> PairedSeeds:
    """Return how much sooner value and gradient are together than the two alone, paired by seed, as a ratio of steps.

    Of times to ``WATCHED``: value classic / (value-stop value-gradient-only). Below 1 it takes both; 1 if each does
    its part whatever the other does.

    Raises:
        ValueError: if a run is not there or did not get there.
    """
    split, measure, threshold = WATCHED
    runs = answers.times(bundle, name, threshold, split=split, measure=measure)
    steps = runs.pivot(index="seed", columns="variant", values="steps")
    whole, cut, alone, none = (steps[v].to_numpy() for v in ("value", "value-stop", "value-gradient-only", REFERENCE))
    return paired_seeds(whole * none, cut * alone, "ratio")


def finals(bundle: Bundle, name: str, columns: Mapping[str, tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return where runs end: condition, variant, measure, mean, low, high, n over seeds.

    Intervals of measures between 0 and 1 stay there.
    """
    table = grouped_intervals(ends(bundle, name, columns), ["title", "condition", "variant", "measure"], scale=None)
    return table.drop(columns="measure").rename(columns={"title": "measure"})


def ends(bundle: Bundle, name: str, columns: Mapping[str, tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return one row a run and column of a table: condition, variant, seed, measure, title, and the last value."""
    parts = []
    for title, (split, measure) in (columns or FINALS).items():
        found = answers.ends_of(bundle, name, measure)
        parts.append(found[found.split == split].assign(title=title))
    return pd.concat(parts, ignore_index=True)


# --- matched and transplanted ----------------------------------------------------------------------------------------


def transplants(bundle: Bundle, measures: Sequence[str] = tuple(ANSWERS)) -> pd.DataFrame:
    """Return IOI of every variant in its own body and another: variant, body, set, measure, mean, low, high, n.

    Intervals are over seeds; the frame "lm_ioi" holds means over prompts of every run.
    """
    held = bundle.frame("lm_ioi")
    chosen = held[held.measure.isin(measures) & (held.by == "set")]
    return grouped_intervals(chosen, ["variant", "body", "set", "measure"], scale=None)


def paper_prompts(bundle: Bundle, variants: Sequence[str] = (REFERENCE, "value")) -> pd.DataFrame:
    """Return :func:`experiments.questions.ioi_tables.paper_table` of some variants, intervals over seeds."""
    held = bundle.frame("lm_ioi")
    by_template = held[(held.by == "template") & held.variant.isin(variants)]
    return paper_table(by_template.rename(columns={"part": "template"}))


def on_the_way(bundle: Bundle, split: str = "ioi paper", measure: str = "probability") -> pd.DataFrame:
    """Return what matched classic and value models say as they learn: step, classic, value, gap (means over seeds)."""
    metrics = bundle.metrics("lm")
    chosen = metrics[
        (metrics.split == split) & (metrics.measure == measure) & metrics.variant.isin([REFERENCE, "value"])
    ]
    wide = chosen.pivot_table(index="step", columns="variant", values="value", observed=True)
    return wide.assign(gap=wide["value"] - wide[REFERENCE]).reset_index().rename_axis(columns=None)


# --- size and cost ---------------------------------------------------------------------------------------------------


def cost(bundle: Bundle) -> pd.DataFrame:
    """Return what a step of every variant costs and what it gains, as ratios to classic of the same size.

    Columns: variant, size, time with time_low and time_high (of a training step), memory (held for the backward pass),
    tokens with tokens_low and tokens_high (to the threshold ``WATCHED``), reached, pairs.
    """
    costs = bundle.frame("lm_cost")
    gains = pd.concat([_gains(bundle, "lm"), _gains(bundle, "lm-sizes")]).drop_duplicates(["size", "variant"])
    return costs[costs.variant != REFERENCE].merge(gains, on=["size", "variant"])


def _gains(bundle: Bundle, name: str) -> pd.DataFrame:
    table = _to_classic(bundle, name)
    renamed = {"condition": "size", "ratio": "tokens", "low": "tokens_low", "high": "tokens_high"}
    return table.rename(columns=renamed)[["size", "variant", *list(renamed.values())[1:], "reached", "pairs"]]


def _to_classic(bundle: Bundle, name: str) -> pd.DataFrame:
    table = compared(bundle, name)
    return table[table.reference == REFERENCE]


def scaling(bundle: Bundle) -> pd.DataFrame:
    """Return how much the value stream brings at every size, against classic, paired by seed.

    Columns: size, parameters, variant, measure, mean, low, high, pairs, step_time_ratio. The ratios are one family, the
    differences of ``SIZES_FINALS`` another.
    """
    costs = bundle.frame("lm_cost")[["size", "variant", "parameters", "time"]]
    last = answers.differences(ends(bundle, "lm-sizes", SIZES_FINALS), ["title", "condition"])
    words = {"validation loss": "final loss difference", "P(IO)": "final probability difference"}
    ratios = _to_classic(bundle, "lm-sizes").assign(measure="tokens to threshold ratio to classic")
    both = [
        ratios.rename(columns={"ratio": "mean"}),
        last[last.title.isin(words)].assign(measure=last.title.map(words)).rename(columns={"difference": "mean"}),
    ]
    columns = ["condition", "variant", "measure", "mean", "low", "high", "pairs"]
    table = pd.concat([part[columns] for part in both], ignore_index=True).rename(columns={"condition": "size"})
    return table.merge(costs.rename(columns={"time": "step_time_ratio"}), on=["size", "variant"])


# --- the circuit -----------------------------------------------------------------------------------------------------


def circuits(bundle: Bundle) -> pd.DataFrame:
    """Return one row a run: variant, seed, edges, of (all edges), stream (edges through it) and their share of all
    kept effect, faithfulness, incompleteness, and minimality (mean over the kept edges).

    A circuit holds the edges without which more than 2 % of the logit difference is lost.
    """
    edges = bundle.frame("lm_edges")
    rows = []
    for (variant, seed), all_edges in edges.groupby(["variant", "seed"], observed=True):
        kept = all_edges[all_edges.kept]
        stream = kept[kept.edge.str.contains("(stream)", regex=False)]
        first = all_edges.iloc[0]
        row = {"variant": variant, "seed": seed, "edges": len(kept), "of": len(all_edges), "stream": len(stream)}
        row |= {"stream_share": float(stream.effect.abs().sum() / kept.effect.abs().sum()) if len(kept) else np.nan}
        row |= {name: float(first[name]) for name in ("faithfulness", "incompleteness")}
        rows.append(row | {"minimality": float(kept.edge_minimality.mean())})
    return pd.DataFrame(rows)


def heads(bundle: Bundle) -> pd.DataFrame:
    """Return, of every run, the highest score of any head by kind: variant, seed, score, head (as L0H1), value."""
    held = bundle.frame("lm_heads")
    last = held[held.step == held.groupby("run")["step"].transform("max")]
    best = last.loc[last.groupby(["run", "score"], observed=True)["value"].idxmax()]
    names = [f"L{layer}H{head}" for layer, head in zip(best.layer, best["head"], strict=True)]
    return best.assign(head=names)[["variant", "seed", "score", "head", "value"]].reset_index(drop=True)
