"""Who it is given to, by sentence: what models answer in their own architecture and in another."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.common.errors import known, require
from figures.curves import whiskers
from figures.findings import joined, number
from figures.theme import colours, dash, faded, themed
from figures.words import fitting, listed, span

ANSWERS = {"right": "right name (IO)", "wrong": "wrong name (S)"}
FEW = 4
"""Sentences that have room for long lines."""
_PALE = 0.3
_PATTERNS = {"solid": "", "dash": "/", "dot": "."}
_PANELS = {"matched": "in the architecture that they were trained in", "transplanted": "in another architecture"}


def ioi_by_sentence(
    table: pd.DataFrame,
    runs: Sequence[str] = (),
    order: str | None = None,
    of: str = "",
) -> go.Figure:
    """Return the probability of the right and the wrong name, by sentence: bars with whiskers, a colour a variant.

    ``table`` has columns variant (whose weights), body ("own", or the variant whose architecture they run in), prompt,
    answer ("right" or "wrong"), mean, low, high, n, and where they are told apart sentence (a number), order and size
    (bars of their own). Above: weights in their own body; below: transplanted ones. ``order`` picks rows; by default
    those of "both", and where there are none all, told apart. ``of`` says of what size and task.

    Raises:
        ValueError: if two rows are of one bar.
        UnknownNameError: for an order that is not there.
    """
    table = _of_order(table if "order" in table else table.assign(order="both"), order)
    table = table.assign(sentence=_sentences(table), group=_groups(table))
    twice = table.duplicated(["sentence", "group", "answer"])
    require(not twice.any(), f"{int(twice.sum())} rows are of bars that others are of too; choose among them first")
    there = table.group == table.variant
    parts = {name: part for name, part in zip(_PANELS, (table[there], table[~there]), strict=True) if len(part)}
    titles = [f"<b>{name}</b>: weights {_PANELS[name]}" for name in parts]
    figure = make_subplots(
        len(parts),
        1,
        subplot_titles=titles,
        shared_xaxes=True,
        shared_yaxes="all",  # type: ignore[arg-type] # documented, beside True
        vertical_spacing=0.1,
    )
    palette = colours(dict.fromkeys(["classic", *table.variant, *table.body[~there]]))
    for row, part in enumerate(parts.values(), start=1):
        for (group, answer), bars in part.groupby(["group", "answer"], sort=False):
            figure.add_trace(_bars(bars, str(group), str(answer), palette), row=row, col=1)
    top = min(1.03, 1.08 * float(np.nanmax(table[["mean", "high"]])))
    figure.update_yaxes(title_text="probability of the name", range=[0, top])
    figure.update_xaxes(categoryorder="array", categoryarray=list(dict.fromkeys(table.sentence)), tickangle=0)
    figure.update_xaxes(tickfont_size=12 if table.sentence.nunique() <= FEW else 11)
    figure.update_layout(barmode="group", bargap=0.22, bargroupgap=0.06)
    figure.update_annotations(font_size=13)
    lines = 1 + max(label.count("<br>") for label in table.sentence)
    n = "one seed a variant" if table.n.max() == 1 else f"means over {span(table.n)} seeds"
    size = {"height": 196 + 250 * len(parts), "below": 22 + 17 * lines}
    return themed(figure, _finding(table), _bar_caption(table), runs, of=joined(of, n), **size)


def _finding(table: pd.DataFrame) -> str:
    """From which to which probability matched models give the right name, and transplanted ones."""
    right = table[table.answer == "right"]
    matched, moved = right[right.group == right.variant], right[right.group != right.variant]
    ends = [span(part["mean"], ".2f") if len(part) else "" for part in (matched, moved)]
    if moved.empty:
        by = [f"{span(rows['mean'], '.2f')} in {variant}" for variant, rows in matched.groupby("variant", sort=False)]
        return fitting(
            f"The right name has a probability of {listed(by)}, over {table.prompt.nunique()} sentences",
            f"The right name has a probability of {ends[0]}",
        )
    if matched.empty:
        return f"Transplanted models give the right name with a probability of {ends[1]}"
    return f"Matched models give the right name with a probability of {ends[0]}, transplanted ones of {ends[1]}"


def _of_order(table: pd.DataFrame, order: str | None) -> pd.DataFrame:
    orders = list(dict.fromkeys(table.order))
    if order is None and "both" not in orders:
        return table
    return table[table.order == known("order", order or "both", orders)]


def _sentences(table: pd.DataFrame) -> list[str]:
    """What stands under every row's bars: its prompt, in lines."""
    several = [name for name in ("order", "size") if name in table and table[name].nunique() > 1]
    width = 36 if len(table[["prompt", *several]].drop_duplicates()) <= FEW else 19
    prompts = table.prompt if "sentence" not in table else table.sentence.astype(str) + " " + table.prompt
    texts = ["<br>".join(textwrap.wrap(prompt, width)) for prompt in prompts]
    apart = table[several].astype(str).agg(", ".join, axis=1)
    return [f"{text}<br>({which})" if several else text for text, which in zip(texts, apart, strict=True)]


def _groups(table: pd.DataFrame) -> list[str]:
    """Whose weights run in whose body, in words."""
    both = zip(table.variant, table.body, strict=True)
    return [variant if body in ("own", variant) else f"{variant} in {body}" for variant, body in both]


def _bars(rows: pd.DataFrame, group: str, answer: str, palette: dict[str, str]) -> go.Bar:
    variant, body = (str(rows[column].iloc[0]) for column in ("variant", "body"))
    colour, edge = palette[variant], palette.get(body, palette[variant])
    fill = colour if answer == "right" else faded(colour, _PALE)
    pattern = {"shape": _PATTERNS[dash(variant)], "fgcolor": "white", "size": 6, "solidity": 0.3}
    bars = {"symmetric": False, "thickness": 1.2, "width": 3, "color": "#777777"}
    return go.Bar(
        x=rows.sentence,
        y=rows["mean"],
        error_y=whiskers(rows["mean"], rows.low, rows.high, **bars),
        name=group,
        legendgroup=group,
        showlegend=answer == "right",
        marker={"color": fill, "line": {"color": edge, "width": 2}, "pattern": pattern},
        hovertext=[f"{number(row, 'mean', '.3f')}, {_seeds(int(row['n']))}" for row in rows.to_dict("records")],
        hovertemplate="%{hovertext}<extra>" + f"{group}: {ANSWERS[answer]}" + "</extra>",
    )


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"mean of {n} seeds"


def _bar_caption(table: pd.DataFrame) -> str:
    whiskered = "" if table.n.max() == 1 else " Whiskers: 95 % intervals over seeds."
    averaged = " Means over either name as subject." if set(table.order) == {"both"} else ""
    edges = " A bar's edge has the colour of the architecture, its inside that of the weights."
    moved = edges if (table.group != table.variant).any() else ""
    slots = (
        " {A}, {B}: the two names; {S}: who gives; {IO}: the right name."
        if table.prompt.str.contains("{S}", regex=False).any()
        else ""
    )
    return f"Full: {ANSWERS['right']}; pale: {ANSWERS['wrong']}.{slots}{whiskered}{averaged}{moved}"
