"""What the committed results say of language models, as text: tables, and the paragraphs whose numbers they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.intervals import mean_interval
from experiments.questions.ioi_tables import model_name
from experiments.studies import lm_times as lm_answers
from experiments.studies import times as answers
from experiments.studies.committed_results import Bundle
from experiments.studies.lm_times import PAPER_SAYS, WATCHED
from experiments.studies.times import REFERENCE
from experiments.studies.wording import interval, markdown, rows_of, shown, speed_table, with_differences

LM = ("lm", "lm-sizes")


def _times(name: str) -> Callable[[Bundle], str]:
    return lambda bundle: markdown(speed_table(lm_answers.compared(bundle, name)))


def _finals(name: str, columns: dict[str, tuple[str, str]]) -> Callable[[Bundle], str]:
    def block(bundle: Bundle) -> str:
        table = lm_answers.finals(bundle, name, columns)
        table["text"] = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(table)]
        wide: Any = table.pivot(index=["condition", "variant"], columns="measure", values="text")[list(columns)]
        order = list(dict.fromkeys(zip(table.condition, table.variant, strict=True)))
        differences = answers.differences(lm_answers.ends(bundle, name, columns), ["title", "condition"])
        return with_differences(wide.loc[order].reset_index(), differences, "title")

    return block


def _transplants(bundle: Bundle) -> str:
    table = lm_answers.transplants(bundle)
    table["text"] = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(table)]
    answer = table.measure.map({"probability": "P(IO)", "wrong_probability": "P(S)"})
    table = table.rename(columns={"variant": "weights"}).assign(answer=answer)
    wanted = table[table.set.isin(["train", "held-out", "paper"])]
    wanted = wanted.assign(column=wanted.answer + ", " + wanted.set.astype(str))
    wide: Any = wanted.pivot(index=["weights", "body"], columns="column", values="text")
    columns = [f"{answer}, {part}" for part in ("train", "held-out", "paper") for answer in ("P(IO)", "P(S)")]
    order = list(dict.fromkeys(zip(wanted.weights, wanted.body, strict=True)))
    return markdown(wide.loc[order, columns].reset_index())


def _prompts(bundle: Bundle) -> str:
    table = lm_answers.paper_prompts(bundle)
    model = [model_name(r.variant, r.body) for r in rows_of(table)]
    text = [interval(r.mean, r.low, r.high, ".2f") for r in rows_of(table)]
    named = table.assign(model=model, text=text, column=table.sentence.astype(str) + ", " + table.answer)
    wide: Any = named.pivot(index="model", columns="column", values="text")
    columns = [f"{sentence}, {answer}" for sentence in range(1, 5) for answer in ("right", "wrong")]
    return markdown(wide.loc[list(dict.fromkeys(model)), columns].reset_index())


def _cost(bundle: Bundle) -> str:
    rows = [
        {
            "size": r.size,
            "variant": r.variant,
            "time a step": interval(r.time, r.time_low, r.time_high, ".3f"),
            "memory": f"{r.memory:.3f}",
            "tokens to threshold": interval(r.tokens, r.tokens_low, r.tokens_high, ".2f"),
            "time to threshold": "-" if np.isnan(r.tokens) else f"{r.time * r.tokens:.2f}",
            "got there": f"{r.reached:.0f} of {r.pairs}",
        }
        for r in rows_of(lm_answers.cost(bundle))
    ]
    return markdown(pd.DataFrame(rows))


def _circuits(bundle: Bundle) -> str:
    table = lm_answers.circuits(bundle)
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
        for r in rows_of(table)
    ]
    return markdown(pd.DataFrame(rows))


def _heads(bundle: Bundle) -> str:
    best = lm_answers.heads(bundle)
    best = best.assign(text=[f"{r.head} ({r.value:.2f})" for r in rows_of(best)])
    wide: Any = best.pivot(index=["variant", "seed"], columns="score", values="text")
    return markdown(wide[list(dict.fromkeys(best.score))].reset_index())


def _story(bundle: Bundle) -> str:
    """The paragraphs of the README: every number in them is read off the bundle here."""
    return "\n\n".join([_sooner(bundle), _gap(bundle), _whose(bundle)])


def _sooner(bundle: Bundle) -> str:
    split, _, threshold = WATCHED
    table = lm_answers.compared(bundle, "lm")

    def said(variant: str, reference: str) -> str:
        row = next(iter(rows_of(table[(table.variant == variant) & (table.reference == reference)])))
        whose = "those of the stream" if reference == "value" else "the tokens of classic"
        return f"{interval(row.ratio, row.low, row.high, '.2f')} times {whose} ({answers.verdict(row)})"

    cut, alone = (f"{said(v, REFERENCE)} and {said(v, 'value')}" for v in ("value-stop", "value-gradient-only"))
    return (
        f"To a probability of {threshold:.0%} for the right name on prompts like those of training (set {split!r}) the "
        f"value stream takes {said('value', REFERENCE)}. With its gradient cut it takes {cut}; with its value cut "
        f"{alone}: {int(table.pairs.max())} paired seeds, intervals adjusted over the table. {_both(bundle)}"
    )


def _both(bundle: Bundle) -> str:
    """Whether value and gradient do more together than each alone."""
    pairs = lm_answers.interaction(bundle)
    found, n = pairs.interval(), len(pairs.scores)
    number = f"their interaction is {interval(found.mean, found.low, found.high, '.2f')} (1 if each does its own part)"
    if pairs.t_p() >= 0.05:
        could = f"{n} seeds could have shown {shown(pairs.smallest_shown())}"
        return f"Whether it takes the value and its gradient together is not settled: {number}, and {could}."
    return f"Value and gradient do {'more' if found.mean < 1 else 'less'} together than each alone: {number}."


def _gap(bundle: Bundle) -> str:
    """What matched models say on the paper's prompts as they learn, at their end, and transplanted."""
    way: Any = lm_answers.on_the_way(bundle)
    metrics = bundle.metrics("lm")
    off: Any = (way[list(PAPER_SAYS)] - pd.Series(PAPER_SAYS)).abs().sum(axis=1)
    nearest, largest, end = way.loc[off.idxmin()], way.loc[way.gap.idxmax()], way.iloc[-1]
    on = metrics[(metrics.split == "ioi paper") & (metrics.measure == "probability")]

    def at(step: float) -> str:
        return " and ".join(
            _over_seeds(on[(on.step == step) & (on.variant == v)].value) + f" in {v}" for v in PAPER_SAYS
        )

    table = lm_answers.transplants(bundle, ("probability",))
    of = {(r.variant, r.body): _mean(r) for r in rows_of(table[table.set == "paper"])}
    reported = PAPER_SAYS["value"] - PAPER_SAYS[REFERENCE]
    as_large = largest.gap >= reported
    says = "explains the paper's table as well as a transplant does" if as_large else "does not explain the paper's gap"
    return (
        f"On the paper's four prompts matched models give the right name {at(end.step)} at their end, step "
        f"{end.step:,.0f}; transplanted it is {of[REFERENCE, 'value']} for classic weights with a stream and "
        f"{of['value', REFERENCE]} for value-stream weights without one. As they learn, matched models differ "
        f"{'as much as' if as_large else 'less than'} the paper's ({PAPER_SAYS[REFERENCE]:.0%} and "
        f"{PAPER_SAYS['value']:.0%}): it is {at(nearest.step)} at step {nearest.step:,.0f}, and the gap is largest at "
        f"step {largest.step:,.0f}, {largest[REFERENCE]:.2f} against {largest['value']:.2f}. A pair that is not "
        f"trained to its end {says}."
    )


def _over_seeds(values: pd.Series) -> str:
    found = mean_interval(values.to_numpy(), scale="logit")
    return interval(found.mean, found.low, found.high, ".2f")


def _mean(row: Any) -> str:
    return interval(row.mean, row.low, row.high, ".2f")


def _whose(bundle: Bundle) -> str:
    table = lm_answers.circuits(bundle)
    classic, value = (table[table.variant == variant] for variant in (REFERENCE, "value"))
    return (
        f"The circuits ({len(classic)} seeds each): {classic.edges.mean():.0f} of {classic['of'].mean():,.0f} edges in "
        f"classic models with faithfulness {classic.faithfulness.mean():.2f}, and {value.edges.mean():.0f} of "
        f"{value['of'].mean():,.0f} in value-stream models with {value.faithfulness.mean():.2f}. " + _restored(bundle)
    )


def _restored(bundle: Bundle) -> str:
    held = bundle.frame("lm_patches")
    at = held[(held["head"] == "all") & (held.position == "S2") & (held.variant == "value")]

    def effects(component: str, route: str) -> pd.Series:
        rows = at[(at.component == component) & (at.route == route) & (at.layer == 1)]
        return rows.set_index("seed").effect.sort_index()

    stream = effects("v", "residual")
    said = [
        ", ".join(f"{effect:.0%}" for effect in found)
        for found in (effects("state", "-"), effects("resid_pre", "-"), stream)
    ]
    others = stream.index[stream < 0.5]
    return (
        "With the names flipped, patching S2 before layer 1 of value-stream models restores, seed by seed, of the "
        f"logit difference {said[0]} if residual and value stream are patched together, {said[1]} by the residual "
        f"stream alone, and {said[2]} by the value stream alone."
    ) + "".join(_other_route(bundle, at, int(seed)) for seed in others)


def _other_route(bundle: Bundle, patched: pd.DataFrame, seed: int) -> str:
    """What a seed does whose answer does not come by the stream."""
    own = patched[(patched.component == "v") & (patched.route == "own") & (patched.seed == seed)]
    best: Any = own[own.effect == own.effect.max()].iloc[0]
    movers = lm_answers.heads(bundle).query("variant == 'value' and score == 'name mover'")
    mine, rest = movers[movers.seed == seed].iloc[0], movers[movers.seed != seed]
    return (
        f" Seed {seed} learned another route: what it needs of S2 are the values that layer {best.layer} itself makes "
        f"of the residual stream (patched alone they restore {best.effect:.0%}), and its head {mine['head']} attends "
        f"from END to the right name with {mine['value']:.2f}, no head of the other seeds with more than "
        f"{rest['value'].max():.2f}."
    )


LM_BLOCKS: dict[str, Callable[[Bundle], str]] = {
    "lm": _times("lm"),
    "lm-finals": _finals("lm", lm_answers.FINALS),
    "lm-sizes": _times("lm-sizes"),
    "lm-sizes-finals": _finals("lm-sizes", lm_answers.SIZES_FINALS),
    "lm-nested": _finals("lm-nested", lm_answers.NESTED_FINALS),
    "lm-transplants": _transplants,
    "lm-prompts": _prompts,
    "lm-cost": _cost,
    "lm-circuits": _circuits,
    "lm-heads": _heads,
    "lm-story": _story,
    "lm-gap": _gap,
    "lm-route": _restored,
}
"""What may stand between markers, by name."""
LM_HEADINGS = {
    "lm-finals": "Where language models end",
    "lm-sizes-finals": "Where they end, by size",
    "lm-transplants": "Matched and transplanted",
    "lm-prompts": "The paper's four prompts",
    "lm-cost": "What it costs, and what it brings",
    "lm-circuits": "The circuits for indirect objects",
    "lm-heads": "The heads of the circuit",
    "lm-story": "In short",
    "lm-gap": "Matched models as they learn",
    "lm-route": "By which route S2 is read",
}
LM_BEHIND: dict[str, tuple[str, ...]] = {
    "lm-finals": ("lm",),
    "lm-sizes-finals": ("lm-sizes",),
    "lm-cost": LM,
    **dict.fromkeys(
        ("lm-transplants", "lm-prompts", "lm-circuits", "lm-heads", "lm-story", "lm-gap", "lm-route"), ("lm",)
    ),
}
