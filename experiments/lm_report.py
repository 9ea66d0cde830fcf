"""What the committed results say of language models, as text: tables, and the paragraphs whose numbers they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from experiments import answers, lm_answers
from experiments.bundle import Bundle
from experiments.ioi_tables import model_name
from experiments.lm_answers import REFERENCE, WATCHED
from experiments.text_tables import in_words, interval, markdown, rows_of, speed_table

LM = ("lm", "lm-sizes")


def _times(name: str) -> Callable[[Bundle], str]:
    def block(bundle: Bundle) -> str:
        table = answers.speed(lm_answers.times(bundle, name))
        return f"{markdown(speed_table(table))}\n\n{in_words(table)}"

    return block


def _finals(name: str, columns: dict[str, tuple[str, str]]) -> Callable[[Bundle], str]:
    def block(bundle: Bundle) -> str:
        table = lm_answers.finals(bundle, name, columns)
        table["text"] = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(table)]
        wide: Any = table.pivot(index=["condition", "variant"], columns="measure", values="text")[list(columns)]
        order = list(dict.fromkeys(zip(table.condition, table.variant, strict=True)))
        return markdown(wide.loc[order].reset_index()) + "\n\n" + _told_apart(table)

    return block


def _told_apart(table: pd.DataFrame) -> str:
    clear = table[table.p_adjusted < 0.05]
    if clear.empty:
        return f"No difference to {REFERENCE}'s is clear of the correction (paired t, Holm over the table)."
    said = [
        f"{r.variant}, {r.condition}, {r.measure}: "
        f"{interval(r.difference, r.difference_low, r.difference_high, '+.3f')}"
        for r in rows_of(clear)
    ]
    return f"Different from {REFERENCE}'s (paired t, Holm over the table): " + "; ".join(said) + "."


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
            "got there": f"{r.reached} of {r.runs}",
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
    return "\n\n".join([_sooner(bundle), _matched(bundle), _whose(bundle)])


def _sooner(bundle: Bundle) -> str:
    split, _, threshold = WATCHED
    table = answers.speed(lm_answers.times(bundle, "lm"))
    runs = int(table.runs.max())
    parts = [
        f"{r.variant} {interval(r.ratio, r.low, r.high, '.2f')}" + ("" if r.p_adjusted < 0.05 else " (not told apart)")
        for r in rows_of(table[table.pairs > 0])
    ]
    return (
        f"With {runs} paired seeds a variant, and a probability of {threshold:.0%} for the right name on prompts like "
        f"those of training as the threshold (set {split!r}), the tokens that it takes as a ratio to {REFERENCE}'s: "
        f"{'; '.join(parts)}."
    )


def _matched(bundle: Bundle) -> str:
    table = lm_answers.transplants(bundle, ("probability",))
    of = {(r.variant, r.body): r for r in rows_of(table[table.set == "paper"])}

    def said(variant: str, body: str) -> str:
        row = of[variant, body]
        return interval(row.mean, row.low, row.high, ".2f")

    return (
        f"On the paper's four prompts the right name has the probability {said('classic', 'own')} in classic models "
        f"and {said('value', 'own')} in value-stream models, each measured as it was trained. Transplanted, with "
        f"weights in a body in which they never were trained, it is {said('classic', 'value')} for classic weights "
        f"with a stream and {said('value', 'classic')} for value-stream weights without one."
    )


def _whose(bundle: Bundle) -> str:
    table = lm_answers.circuits(bundle)
    classic, value = (table[table.variant == variant] for variant in (REFERENCE, "value"))
    return (
        f"The circuits ({len(classic)} seeds each): {classic.edges.mean():.0f} of {classic['of'].mean():,.0f} edges in "
        f"classic models with faithfulness {classic.faithfulness.mean():.2f}, and {value.edges.mean():.0f} of "
        f"{value['of'].mean():,.0f} in value-stream models with {value.faithfulness.mean():.2f}. Of the kept edges of "
        f"value-stream models {value.stream.mean():.1f} on average run through the stream, with "
        f"{value.stream_share.mean():.0%} of all kept effect; " + _restored(bundle)
    )


def _restored(bundle: Bundle) -> str:
    held = bundle.frame("lm_patches")
    at = held[(held["head"] == "all") & (held.layer == 1) & (held.position == "S2") & (held.variant == "value")]

    def by_seed(component: str, route: str) -> str:
        rows = at[(at.component == component) & (at.route == route)].sort_values("seed")
        return ", ".join(f"{effect:.0%}" for effect in rows.effect)

    return (
        "with the names flipped, patching S2 before layer 1 restores, seed by seed, of the logit difference "
        f"{by_seed('state', '-')} if residual and value stream are patched together, {by_seed('resid_pre', '-')} by "
        f"the residual stream alone, and {by_seed('v', 'residual')} by the value stream alone."
    )


LM_BLOCKS: dict[str, Callable[[Bundle], str]] = {
    "lm": _times("lm"),
    "lm-finals": _finals("lm", lm_answers.FINALS),
    "lm-sizes": _times("lm-sizes"),
    "lm-sizes-finals": _finals("lm-sizes", {k: v for k, v in lm_answers.FINALS.items() if "paper" not in k}),
    "lm-nested": _finals("lm-nested", lm_answers.NESTED_FINALS),
    "lm-transplants": _transplants,
    "lm-prompts": _prompts,
    "lm-cost": _cost,
    "lm-circuits": _circuits,
    "lm-heads": _heads,
    "lm-story": _story,
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
}
LM_BEHIND: dict[str, tuple[str, ...]] = {
    "lm-finals": ("lm",),
    "lm-sizes-finals": ("lm-sizes",),
    "lm-cost": LM,
    **dict.fromkeys(("lm-transplants", "lm-prompts", "lm-circuits", "lm-heads", "lm-story"), ("lm",)),
}
