"""Who was it given to? Language models matched and transplanted, and the heads, routes and circuits that answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.statistics.curves import effects_over_runs
from analysis.statistics.intervals import grouped_intervals, mean_interval
from circuits.common.text_table import interval, markdown, rows_of
from experiments.questions.ioi_tables import ANSWERS, model_name, paper_table
from experiments.studies.committed_results import Bundle
from experiments.studies.language_models import PAIR, PARTS, STORIES, by_tokens, interaction
from experiments.studies.study import REFERENCE, Asking, Block, Picture, Size, Study
from experiments.studies.times import compared, row_of, verdict
from experiments.studies.wording import shown
from figures.models.edges import circuit_drawing
from figures.models.head_score_maps import head_score_maps
from figures.models.route_maps import route_maps
from figures.trainings.indirect_objects import ioi_by_sentence
from figures.trainings.language_models import gap_curves

PAPER_SAYS = {REFERENCE: 0.07, "value": 0.41}
"""The probability of the right name that the paper reports."""
FRAMES = ("lm_ioi", "lm_heads", "lm_patches", "lm_edges")


def ask(roots: Sequence[Path], size: Size = "full") -> dict[str, pd.DataFrame]:
    """Return :func:`experiments.studies.indirect_objects.asking.study` of the finished runs in some directories."""
    from experiments.runs.run import runs_in
    from experiments.studies.indirect_objects.asking import study

    there = runs_in(roots, [arm.config for arm in STORIES.arms(size)])
    return study([run for run in there if run.finished])


def transplants(bundle: Bundle) -> pd.DataFrame:
    """Return IOI of every variant in its own body and another: variant, body, set, measure, mean, low, high, n.

    Intervals are over seeds; the frame "lm_ioi" holds means over prompts of every run.
    """
    held = bundle.frame("lm_ioi")
    chosen = held[held.measure.isin(ANSWERS) & (held.by == "set")]
    return grouped_intervals(chosen, ["variant", "body", "set", "measure"], scale=None)


def _transplants_table(bundle: Bundle) -> str:
    table = transplants(bundle)
    sets, answers = ("train", "held-out", "paper"), {"probability": "P(IO)", "wrong_probability": "P(S)"}
    table = table[table.set.isin(sets)].rename(columns={"variant": "weights"})
    text = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(table)]
    table = table.assign(text=text, column=table.measure.map(answers) + ", " + table.set.astype(str))
    wide: Any = table.pivot(index=["weights", "body"], columns="column", values="text")
    order = list(dict.fromkeys(zip(table.weights, table.body, strict=True)))
    columns = [f"{answer}, {part}" for part in sets for answer in answers.values()]
    return markdown(wide.loc[order, columns].reset_index())


def paper_prompts(bundle: Bundle, variants: Sequence[str] = PAIR) -> pd.DataFrame:
    """Return :func:`experiments.questions.ioi_tables.paper_table` of some variants, intervals over seeds."""
    held = bundle.frame("lm_ioi")
    by_template = held[(held.by == "template") & held.variant.isin(variants)]
    return paper_table(by_template.rename(columns={"part": "template"}))


def _prompts_table(bundle: Bundle) -> str:
    table = paper_prompts(bundle)
    model = [model_name(r.variant, r.body) for r in rows_of(table)]
    text = [interval(r.mean, r.low, r.high, ".2f") for r in rows_of(table)]
    named = table.assign(model=model, text=text, column=table.sentence.astype(str) + ", " + table.answer)
    wide: Any = named.pivot(index="model", columns="column", values="text")
    columns = [f"{sentence}, {answer}" for sentence in range(1, 5) for answer in ("right", "wrong")]
    return markdown(wide.loc[list(dict.fromkeys(model)), columns].reset_index())


def _gap(bundle: Bundle) -> str:
    """What matched models say on the paper's prompts as they learn, at their end, and transplanted."""
    metrics = bundle.metrics(STORIES.name)
    on = metrics[(metrics.split == "ioi paper") & (metrics.measure == "probability") & metrics.variant.isin(PAIR)]
    way: Any = on.pivot_table(index="step", columns="variant", values="value", observed=True)
    between = way["value"] - way[REFERENCE]
    off = (way[list(PAPER_SAYS)] - pd.Series(PAPER_SAYS)).abs().sum(axis=1)
    nearest, largest, end = int(off.idxmin()), int(between.idxmax()), int(way.index[-1])

    def at(step: int) -> str:
        found = {v: on[(on.step == step) & (on.variant == v)].value.to_numpy() for v in PAPER_SAYS}
        means = {variant: mean_interval(values, scale="logit") for variant, values in found.items()}
        return " and ".join(f"{interval(m.mean, m.low, m.high, '.2f')} in {v}" for v, m in means.items())

    table = transplants(bundle)
    paper = table[(table.set == "paper") & (table.measure == "probability")]
    of = {(r.variant, r.body): interval(r.mean, r.low, r.high, ".2f") for r in rows_of(paper)}
    as_large = between[largest] >= PAPER_SAYS["value"] - PAPER_SAYS[REFERENCE]
    says = "explains the paper's table as well as a transplant does" if as_large else "does not explain the paper's gap"
    return (
        f"On the paper's four prompts matched models give the right name {at(end)} at their end, step "
        f"{end:,}; transplanted it is {of[REFERENCE, 'value']} for classic weights with a stream and "
        f"{of['value', REFERENCE]} for value-stream weights without one. As they learn, matched models differ "
        f"{'as much as' if as_large else 'less than'} the paper's ({PAPER_SAYS[REFERENCE]:.0%} and "
        f"{PAPER_SAYS['value']:.0%}): it is {at(nearest)} at step {nearest:,}, and the gap is largest at "
        f"step {largest:,}, {way[REFERENCE][largest]:.2f} against {way['value'][largest]:.2f}. A pair that is not "
        f"trained to its end {says}."
    )


def _circuits(bundle: Bundle) -> pd.DataFrame:
    """One row a run: variant, seed, edges, of (all edges), stream (edges through it) and their share of all
    kept effect, faithfulness, incompleteness, and minimality (mean over the kept edges).

    A circuit holds the edges without which more than 2 % of the logit difference is lost.
    """
    rows = []
    for (variant, seed), edges in bundle.frame("lm_edges").groupby(["variant", "seed"], observed=True):
        kept, first = edges[edges.kept], edges.iloc[0]
        stream = kept[kept.route == "stream"]
        row = {"variant": variant, "seed": seed, "edges": len(kept), "of": len(edges), "stream": len(stream)}
        row |= {"stream_share": float(stream.effect.abs().sum() / kept.effect.abs().sum()) if len(kept) else np.nan}
        row |= {name: float(first[name]) for name in ("faithfulness", "incompleteness")}
        rows.append(row | {"minimality": float(kept.edge_minimality.mean())})
    return pd.DataFrame(rows)


def _circuits_table(bundle: Bundle) -> str:
    rows = [
        {
            "variant": r.variant,
            "seed": r.seed,
            "edges": f"{r.edges} of {r.of}",
            "through the stream": f"{r.stream} ({r.stream_share:.0%} of the effect)",
            "faithfulness": f"{r.faithfulness:.2f}",
            "incompleteness": f"{r.incompleteness:.2f}",
            "minimality": f"{r.minimality:.2f}",
        }
        for r in rows_of(_circuits(bundle))
    ]
    return markdown(pd.DataFrame(rows))


def _heads(bundle: Bundle) -> pd.DataFrame:
    """Of every run, the highest score of any head by kind: variant, seed, score, head (as L0H1), value."""
    held = bundle.frame("lm_heads")
    last = held[held.step == held.groupby("run")["step"].transform("max")]
    best = last.loc[last.groupby(["run", "score"], observed=True)["value"].idxmax()]
    names = [f"L{layer}H{head}" for layer, head in zip(best.layer, best["head"], strict=True)]
    return best.assign(head=names)[["variant", "seed", "score", "head", "value"]].reset_index(drop=True)


def _heads_table(bundle: Bundle) -> str:
    best = _heads(bundle)
    best = best.assign(text=[f"{r.head} ({r.value:.2f})" for r in rows_of(best)])
    wide: Any = best.pivot(index=["variant", "seed"], columns="score", values="text")
    return markdown(wide[list(dict.fromkeys(best.score))].reset_index())


def _route(bundle: Bundle) -> str:
    """By which route value-stream models read S2, and what a seed does whose answer does not come by the
    stream."""
    held = bundle.frame("lm_patches")
    at = held[(held["head"] == "all") & (held.position == "S2") & (held.variant == "value")]

    def effects(component: str, way: str) -> pd.Series:
        rows = at[(at.component == component) & (at.route == way) & (at.layer == 1)]
        return rows.set_index("seed").effect.sort_index()

    both, residual, stream = (effects(*of) for of in (("state", "-"), ("resid_pre", "-"), ("v", "residual")))
    said = [", ".join(f"{effect:.0%}" for effect in found) for found in (both, residual, stream)]
    text = (
        "With the names flipped, patching S2 before layer 1 of value-stream models restores, seed by seed, of the "
        f"logit difference {said[0]} if residual and value stream are patched together, {said[1]} by the residual "
        f"stream alone, and {said[2]} by the value stream alone."
    )
    for seed in stream.index[stream < 0.5]:
        own = at[(at.component == "v") & (at.route == "own") & (at.seed == seed)]
        best: Any = own[own.effect == own.effect.max()].iloc[0]
        movers = _heads(bundle).query("variant == 'value' and score == 'name mover'")
        mine, rest = movers[movers.seed == seed].iloc[0], movers[movers.seed != seed]
        text += (
            f" Seed {seed} learned another route: what it needs of S2 are the values that layer {best.layer} itself "
            f"makes of the residual stream (patched alone they restore {best.effect:.0%}), and its head {mine['head']} "
            f"attends from END to the right name with {mine['value']:.2f}, no head of the other seeds with more than "
            f"{rest['value'].max():.2f}."
        )
    return text


def _story(bundle: Bundle) -> str:
    """In short: how much sooner, and how large the circuits are."""
    table = _circuits(bundle)
    classic, value = (table[table.variant == variant] for variant in PAIR)
    found = (
        f"The circuits ({len(classic)} seeds each): {classic.edges.mean():.0f} of {classic['of'].mean():,.0f} edges in "
        f"classic models with faithfulness {classic.faithfulness.mean():.2f}, and {value.edges.mean():.0f} of "
        f"{value['of'].mean():,.0f} in value-stream models with {value.faithfulness.mean():.2f}."
    )
    return f"{_sooner(bundle)}\n\n{found}"


def _sooner(bundle: Bundle) -> str:
    """How much sooner the right name is given, by what part of the stream, and whether it takes both."""
    table = compared(bundle, STORIES)

    def said(variant: str, reference: str) -> str:
        row = row_of(table, variant, reference)
        whose = "those of the stream" if reference == "value" else "the tokens of classic"
        return f"{interval(row.ratio, row.low, row.high, '.2f')} times {whose} ({verdict(row)})"

    cut, alone = (f"{said(v, REFERENCE)} and {said(v, 'value')}" for v in PARTS)
    pairs = interaction(bundle)
    found, n = pairs.interval(), len(pairs.scores)
    number = f"their interaction is {interval(found.mean, found.low, found.high, '.2f')} (1 if each does its own part)"
    both = f"Value and gradient do {'more' if found.mean < 1 else 'less'} together than each alone: {number}."
    if pairs.t_p() >= 0.05:
        could = f"{n} seeds could have shown {shown(pairs.smallest_shown())}"
        both = f"Whether it takes the value and its gradient together is not settled: {number}, and {could}."
    return (
        f"To a probability of {STORIES.threshold:.0%} for the right name on prompts like those of training (set "
        f"{STORIES.split!r}) the value stream takes {said('value', REFERENCE)}. With its gradient cut it takes {cut}; "
        f"with its value cut {alone}: {int(table.pairs.max())} paired seeds, intervals adjusted over the table. {both}"
    )


def _gap_curves(bundle: Bundle) -> dict[str, Any]:
    """Of matched models on the paper's prompts, beside what the paper reports of its two."""
    metrics = by_tokens(bundle, STORIES, ("ioi paper",), "probability")
    return {
        "metrics": metrics[metrics.variant.isin(PAPER_SAYS)],
        "levels": PAPER_SAYS,
        "of": STORIES.of,
    }


def _sentences(bundle: Bundle) -> dict[str, Any]:
    held, table = bundle.frame("lm_ioi"), paper_prompts(bundle)
    runs = sorted(held.run[held.variant.isin(table.variant)].unique())
    return {"table": table, "runs": runs, "of": f"{STORIES.of}, the paper's prompts"}


def _routes(patches: pd.DataFrame) -> pd.DataFrame:
    """Those components that tell the routes apart."""
    return effects_over_runs(patches[patches.component.isin(["state", "resid_pre", "v"])])


def _first_seed(
    name: str, drawing: Callable[..., go.Figure], frame: str, shown: Callable[[pd.DataFrame], pd.DataFrame]
) -> Picture:
    """A figure of what is shown of the first seed's runs."""

    def arguments(bundle: Bundle) -> dict[str, Any]:
        return {"frame": shown(bundle.frame(frame).query("seed == 0")), "of": STORIES.of}

    return Picture(name, drawing, arguments, (), (frame,))


STUDY = Study(
    name="indirect_objects",
    question="How do language models identify indirect objects, and is it the paper's gap?",
    asking=Asking(FRAMES, ask, (STORIES,)),
    pictures=(
        Picture("lm_paper_gap", gap_curves, _gap_curves, (STORIES,)),
        Picture("lm_ioi_by_sentence", ioi_by_sentence, _sentences, (), ("lm_ioi",)),
        _first_seed("lm_patches", route_maps, "lm_patches", _routes),
        _first_seed("lm_heads", head_score_maps, "lm_heads", lambda f: f[f.step == f.step.max()]),
        _first_seed("lm_circuit_classic", circuit_drawing, "lm_edges", lambda f: f[f.variant == "classic"]),
        _first_seed("lm_circuit_value", circuit_drawing, "lm_edges", lambda f: f[f.variant == "value"]),
    ),
    blocks=tuple(
        Block(name, text, heading, (STORIES,), tuple(variants))
        for name, text, heading, *variants in (
            ("lm-transplants", _transplants_table, "Matched and transplanted"),
            ("lm-prompts", _prompts_table, "The paper's four prompts"),
            ("lm-gap", _gap, "Matched models as they learn"),
            ("lm-heads", _heads_table, "The heads of the circuit"),
            ("lm-circuits", _circuits_table, "The circuits for indirect objects"),
            ("lm-route", _route, "By which route S2 is read"),
            ("lm-story", _story, "In short", *PAIR, *PARTS),
        )
    ),
)
