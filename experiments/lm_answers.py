"""What the committed results say of language models: one table a question, computed from the bundle alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.seeds import paired_seeds
from analysis.statistics import adjust, grouped_intervals
from experiments import answers
from experiments.answers import REFERENCE
from experiments.bundle import Bundle
from experiments.ioi_tables import ANSWERS, paper_table
from experiments.text_tables import rows_of

WATCHED = ("ioi train", "probability", 0.5)
"""Set, measure and threshold by which the time to identifying indirect objects is told."""
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
DIFFERENCE = ("difference", "difference_low", "difference_high", "p")
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


def times(bundle: Bundle, name: str) -> pd.DataFrame:
    """Return :func:`experiments.answers.times` of the threshold that is ``WATCHED``."""
    split, measure, threshold = WATCHED
    return answers.times(bundle, name, threshold, split=split, measure=measure)


def at_end(metrics: pd.DataFrame, split: str, measure: str) -> pd.DataFrame:
    """Return one row a run: condition, variant, seed, run and the value at its last step."""
    chosen = metrics[(metrics.split == split) & (metrics.measure == measure)]
    last = chosen[chosen.step == chosen.groupby("run")["step"].transform("max")]
    return last[["condition", "variant", "seed", "run", "value"]]


def finals(bundle: Bundle, name: str, columns: dict[str, tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return where runs end: condition, variant, measure, mean, low, high, n over seeds, and the difference to classic.

    ``difference`` with its interval and p (Student's t over paired seeds, Holm-adjusted over the table's rows).
    """
    metrics = bundle.metrics(name)
    asked = (columns or FINALS).items()
    ends = pd.concat([at_end(metrics, *where).assign(measure=title) for title, where in asked], ignore_index=True)
    table = grouped_intervals(ends, ["measure", "condition", "variant"])
    beside: Any = ends.pivot(index=["measure", "condition", "seed"], columns="variant", values="value")
    differences = pd.DataFrame([_difference(beside.loc[r.measure, r.condition], r.variant) for r in rows_of(table)])
    table = pd.concat([table, differences], axis=1)
    compared = table.p.notna()
    table["p_adjusted"] = np.nan
    table.loc[compared, "p_adjusted"] = adjust(table.p[compared].to_numpy(), "holm")
    return table


def _difference(by_seed: pd.DataFrame, variant: str) -> dict[str, float]:
    pairs = by_seed[[variant, REFERENCE]].dropna() if variant != REFERENCE else by_seed.head(0)
    if len(pairs) < 2:
        return dict.fromkeys(DIFFERENCE, float("nan"))
    compared = paired_seeds(pairs[variant].to_numpy(), pairs[REFERENCE].to_numpy())
    found = compared.interval()
    return dict(zip(DIFFERENCE, (found.mean, found.low, found.high, compared.t_p()), strict=True))


# --- matched and transplanted ----------------------------------------------------------------------------------------


def transplants(bundle: Bundle, measures: Sequence[str] = tuple(ANSWERS)) -> pd.DataFrame:
    """Return IOI of every variant in its own body and another: variant, body, set, measure, mean, low, high, n.

    Intervals are over seeds; the frame "lm_ioi" holds means over prompts of every run.
    """
    held = bundle.frame("lm_ioi")
    chosen = held[held.measure.isin(measures) & (held.by == "set")]
    return grouped_intervals(chosen, ["variant", "body", "set", "measure"])


def paper_prompts(bundle: Bundle, variants: Sequence[str] = (REFERENCE, "value")) -> pd.DataFrame:
    """Return :func:`experiments.ioi_tables.paper_table` of some variants, intervals over seeds."""
    held = bundle.frame("lm_ioi")
    by_template = held[(held.by == "template") & held.variant.isin(variants)]
    return paper_table(by_template.rename(columns={"part": "template"}))


# --- size and cost ---------------------------------------------------------------------------------------------------


def cost(bundle: Bundle) -> pd.DataFrame:
    """Return what a step of every variant costs and what it gains, as ratios to classic of the same size.

    Columns: variant, size, time with time_low and time_high (of a training step), memory (held for the backward pass),
    tokens with tokens_low and tokens_high (to the threshold ``WATCHED``), reached, runs, pairs.
    """
    costs = bundle.frame("lm_cost")
    gains = pd.concat([_gains(bundle, "lm"), _gains(bundle, "lm-sizes")]).drop_duplicates(["size", "variant"])
    return costs[costs.variant != REFERENCE].merge(gains, on=["size", "variant"])


def _gains(bundle: Bundle, name: str) -> pd.DataFrame:
    table = answers.speed(times(bundle, name))
    renamed = {"condition": "size", "ratio": "tokens", "low": "tokens_low", "high": "tokens_high"}
    return table.rename(columns=renamed)[["size", "variant", *list(renamed.values())[1:], "reached", "runs", "pairs"]]


def scaling(bundle: Bundle) -> pd.DataFrame:
    """Return how much the value stream brings at every size, against classic, paired by seed.

    Columns: size, parameters, variant, measure, mean, low, high, pairs, step_time_ratio.
    """
    costs = bundle.frame("lm_cost")[["size", "variant", "parameters", "time"]]
    speed = answers.speed(times(bundle, "lm-sizes"))
    rows = []
    for row in speed[speed.variant != REFERENCE].itertuples():
        numbers = {"mean": row.ratio, "low": row.low, "high": row.high, "pairs": row.pairs}
        rows.append(
            {"size": row.condition, "variant": row.variant, "measure": "tokens to threshold ratio to classic"} | numbers
        )
    ends = finals(bundle, "lm-sizes")
    for title, measure in (("final loss difference", "validation loss"), ("final probability difference", "P(IO)")):
        chosen = ends[(ends.measure == measure) & (ends.variant != REFERENCE)]
        for row in chosen.itertuples():
            numbers = {"mean": row.difference, "low": row.difference_low, "high": row.difference_high, "pairs": row.n}
            rows.append({"size": row.condition, "variant": row.variant, "measure": title} | numbers)
    table = pd.DataFrame(rows)
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
