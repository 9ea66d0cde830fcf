"""What ratios of steps say, in words and symbols: sooner or later, equivalent, or not told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.common.text_table import rows_of
from figures.words import between, fitting, listed, sentence, span

OTHER = "#555555"
"""Of what has no colour of its own in other figures."""
FEW = 4
"""Of no more comparisons than so many with one reference, each is told."""


@dataclass(frozen=True)
class Verdict:
    """What is said of a ratio: in words, and by which symbol of plotly's it is drawn."""

    words: str
    symbol: str


TOLD, SAME, OPEN = (
    Verdict("told apart", "circle"),
    Verdict("the same", "diamond"),
    Verdict("not told apart", "circle-open"),
)
_NONE = Verdict("too few got there", "")
_ONE = Verdict("too few pairs", "")
_IS = Verdict("the same runs", "")


def verdict_of(row: Any) -> Verdict:
    """Return the verdict of a row of ratios: told apart comes first, and "the same" is said of an equivalence alone.

    A row has ratio, p_adjusted, p_equivalent, pairs, and where its runs went the same way as others', same_as.
    """
    if pd.isna(row.ratio):
        return _IS if getattr(row, "same_as", "") else _ONE if row.pairs < 2 else _NONE
    if row.p_adjusted < 0.05:
        return TOLD
    return SAME if row.p_equivalent < 0.05 else OPEN


def words_of(row: Any) -> str:
    """Return the verdict of a row in words: by how much it is the same, or as whose runs."""
    verdict = verdict_of(row)
    if verdict is SAME:
        return f"the same within {row.margin - 1:.0%}"
    if verdict is _IS:
        return f"the same runs as {row.same_as}"
    return verdict.words if verdict is not TOLD else "sooner" if row.ratio < 1 else "later"


def explain(figure: go.Figure, table: pd.DataFrame) -> None:
    """Name in the legend the symbols of the verdicts that a table has."""
    there = {verdict_of(row): words_of(row) for row in rows_of(table)}
    for verdict, words in ((TOLD, "told apart (p < 0.05, adjusted)"), (SAME, there.get(SAME, "")), (OPEN, OPEN.words)):
        if verdict in there:
            marker = {"color": OTHER, "size": 9, "symbol": verdict.symbol}
            figure.add_trace(
                go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=words, hoverinfo="skip")
            )


def finding(table: pd.DataFrame) -> str:
    """Return what a table of ratios says, in a sentence that fits a title.

    ``table`` is as for :func:`figures.time_ratios`. Of few comparisons every ratio is told, of many how many are sooner
    and later; of several conditions it is told by comparison, or where these are more, by condition.
    """
    conditions = [str(condition) for condition in dict.fromkeys(table.condition)]
    pairs = list(dict.fromkeys(zip(table.variant, table.reference, strict=True)))
    by_reference = [rows for _, rows in table.groupby("reference", sort=False)]
    if len(conditions) == 1:
        spelt = [(_with_interval, False), (_without, False), (_without, True)]
        several = range(len(by_reference))
        extremes = [{*several}, *({i} for i in several), set()]
        return fitting(
            *("; ".join(_spelt(rows, number, brief) for rows in by_reference) for number, brief in spelt),
            *("; ".join(_counted(rows, i in most) for i, rows in enumerate(by_reference)) for most in extremes),
            _in_short(by_reference),
        )
    if len(pairs) <= min(FEW, len(conditions)):
        by_pair = [rows for _, rows in table.groupby(["variant", "reference"], sort=False)]
        return fitting(
            "; ".join(_over(rows) for rows in by_pair), "; ".join(_in_how_many(rows) for rows in by_reference)
        )
    by_condition = [rows for _, rows in table.groupby("condition", sort=False)]
    return fitting(
        *(
            "; ".join(f"{of}: {_counted(rows, most)}" for of, rows in zip(conditions, by_condition, strict=True))
            for most in (True, False)
        )
    )


def _with_interval(row: Any) -> str:
    return between(row.ratio, row.low, row.high)


def _without(row: Any) -> str:
    return f"{row.ratio:.2f}"


def _by_words(rows: pd.DataFrame) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows_of(rows):
        found.setdefault(words_of(row), []).append(row)
    return found


def _spelt(rows: pd.DataFrame, number: Callable[[Any], str], brief: bool) -> str:
    """Every comparison with one reference: the ratios of those told apart, the others by what is said of them."""
    reference = rows.reference.iloc[0]
    told = [f"{row.variant} {number(row)}" for row in rows_of(rows) if verdict_of(row) is TOLD]
    said = [f"{listed(told)} times {reference}'s{'' if brief and reference != 'classic' else ' steps'}"] if told else []
    for words, some in _by_words(rows).items():
        verdict = verdict_of(some[0])
        if verdict is SAME:
            words = words.replace(SAME.words, f"as {reference}")
        if verdict is not TOLD:
            against = f" from {reference}" if verdict is OPEN and not (brief and told) else ""
            said.append(f"{listed(row.variant for row in some)} {words}{against}")
    return ", ".join(said)


def _counted(rows: pd.DataFrame, most: bool) -> str:
    """How many comparisons with one reference are sooner and later, and the one that is told apart most."""
    references = list(dict.fromkeys(rows.reference))
    one = len(references) == 1
    told = [row for row in rows_of(rows) if verdict_of(row) is TOLD]
    if len(rows) == 1:
        return _spelt(rows, _without, brief=True)
    if not told:
        same = [words for words in _by_words(rows) if words.startswith(f"{SAME.words} within")]
        alike = f" ({len(_by_words(rows)[same[0]])} {same[0]})" if same else ""
        return f"none of {len(rows)} told apart" + f" from {references[0]}" * one + alike
    found = [(len(some), words) for words, some in _by_words(rows).items() if words in ("sooner", "later")]
    counts = [f"{found[0][0]} of {len(rows)} {found[0][1]}", *(f"{n} {words}" for n, words in found[1:])]
    far: Any = max(told, key=lambda row: max(row.ratio, 1 / row.ratio))
    extreme = f" (most {far.variant}, {far.ratio:.2f} times)" if most else ""
    return f"{listed(counts)}{f' than {references[0]}' * one}{extreme}"


def _in_short(by_reference: list[pd.DataFrame]) -> str:
    """The two references with the most comparisons, and how many of all others are told apart."""
    longest = sorted(by_reference, key=len, reverse=True)
    rest = [row for rows in longest[2:] for row in rows_of(rows)]
    others = f"{sum(verdict_of(row) is TOLD for row in rest)} of {len(rest)} others told apart"
    return "; ".join([*(_counted(rows, False) for rows in longest[:2]), *([others] if rest else [])])


def _over(rows: pd.DataFrame) -> str:
    """In how many conditions a comparison is sooner or later, from which to which ratio."""
    variant, reference, total = rows.variant.iloc[0], rows.reference.iloc[0], len(rows)
    parts = []
    for words, some in _by_words(rows).items():
        if words in ("sooner", "later"):
            often = f"all {total}" if len(some) == total else f"{len(some)} of {total}"
            parts.append(f"{words} than {reference} in {often} ({span([row.ratio for row in some], '.2f')} times)")
    return (
        f"{variant} {' and '.join(parts)}" if parts else f"{variant} not told apart from {reference} in any of {total}"
    )


def _in_how_many(rows: pd.DataFrame) -> str:
    """In how many conditions every variant is sooner or later than one reference."""
    reference, total = rows.reference.iloc[0], rows.condition.nunique()
    found: dict[str, list[str]] = {"sooner": [], "later": []}
    for variant, some in rows.groupby("variant", sort=False):
        n = {words: sum(words_of(row) == words for row in rows_of(some)) for words in found}
        for words in found:
            if n[words] or (words == "sooner" and not n["later"]):
                found[words].append(f"{variant} in {n[words]}")
    parts = [f"{words} than {reference}: {listed(said)} of {total}" for words, said in found.items() if said]
    return sentence(", ".join(parts)) + " conditions"
