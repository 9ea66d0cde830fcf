"""The committed results as text: a table and its sentences for every question, put between markers of a page.

A page has ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; what stands between them is written here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics import mean_interval
from circuits.errors import known
from experiments import answers
from experiments.bundle import COMMITTED, Bundle
from experiments.lm_report import LM_BEHIND, LM_BLOCKS, LM_HEADINGS
from experiments.text_tables import in_words, interval, markdown, rows_of, speed_table

PAGES = (COMMITTED.parent / "README.md", COMMITTED.parents[1] / "README.md")
"""The pages of this repository that hold tables of its bundle."""
_MARKER = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end (?P=name) -->)", re.DOTALL)


def fill(text: str, bundle: Bundle) -> str:
    """Return a page with every block between markers written anew from the bundle.

    Raises:
        UnknownNameError: for a block that is not known (nearest suggested).
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        known("block of a page", name, BLOCKS)
        return f"{match[1]}{BLOCKS[name](bundle)}\n{match[4]}"

    return _MARKER.sub(block, text)


def fill_pages(bundle: Bundle) -> list[Path]:
    """Rewrite the pages of this repository from the bundle and return those that changed."""
    changed = []
    for page in PAGES:
        before = page.read_text()
        after = fill(before, bundle)
        if after != before:
            page.write_text(after)
            changed.append(page)
    return changed


def whole(bundle: Bundle, title: str) -> str:
    """Return a page of its own with every block for which the bundle holds runs."""
    there = set(bundle.arms.experiment)
    parts = [f"# {title}"]
    for name, block in BLOCKS.items():
        if set(BEHIND.get(name, (name,))) <= there:
            parts.append(f"## {HEADINGS.get(name) or answers.ASKS[name]}\n\n{block(bundle)}")
    return "\n\n".join(parts) + "\n"


def _speed(name: str) -> Callable[[Bundle], str]:
    def block(bundle: Bundle) -> str:
        table = answers.speed(answers.times(bundle, name))
        return f"{markdown(speed_table(table))}\n\n{in_words(table)}"

    return block


def _tuned(bundle: Bundle) -> str:
    table = answers.tuned(answers.times(bundle, "optimisers"))
    words = speed_table(table)
    words.insert(2, "best rate", table.rate.to_numpy())
    return f"{markdown(words)}\n\n{in_words(table)}"


def _sensitivity(bundle: Bundle) -> str:
    table = answers.sensitivity(bundle, SENSITIVE)
    rows = [
        {
            "experiment": row.experiment,
            "variant": row.variant,
            "threshold": f"{row.threshold:.0%}",
            "crossing": row.rule,
            "got there": f"{row.reached} of {row.runs}",
            "times classic's": interval(row.ratio, row.low, row.high, ".2f"),
        }
        for row in rows_of(table[table.pairs > 0])
    ]
    return markdown(pd.DataFrame(rows))


SENSITIVE = ("streams-paper", "gradient-paper", "gradient")
"""The experiments whose times are read at several thresholds."""


def _final(name: str, at_step: int | None = None) -> Callable[[Bundle], str]:
    def block(bundle: Bundle) -> str:
        table = answers.final(bundle, name, at_step=at_step)
        table["text"] = [interval(row.mean, row.low, row.high, ".3f") for row in rows_of(table)]
        wide: Any = table.pivot(index="variant", columns="split", values="text")[list(answers.MEASURED)]
        n = table.groupby("variant").n.max()
        wide.insert(0, "runs", n)
        order = list(dict.fromkeys(table.variant))
        return markdown(wide.loc[order].reset_index())

    return block


def _mechanism(bundle: Bundle) -> str:
    table = answers.mechanism(bundle)
    words = table.assign(step=table.step.map("{:,.0f}".format))
    for column in table.columns[5:]:
        words[column] = ["-" if np.isnan(x) else f"{x:.2f}" for x in table[column]]
    words["accuracy"] = table.accuracy.map("{:.2f}".format)
    return markdown(words)


def _circuits(bundle: Bundle) -> str:
    table = answers.circuits(bundle)
    rows = [
        {
            "preset": row.preset,
            "variant": row.variant,
            "edge": f"`{row.edge}`",
            "in circuits": f"{row.kept} of {row.runs}",
            "effect": f"{row.effect:.2f}",
            "minimality": "-" if np.isnan(row.minimality) else f"{row.minimality:.2f}",
            "circuits' faithfulness": f"{row.faithfulness:.2f}",
        }
        for row in rows_of(table)
    ]
    return markdown(pd.DataFrame(rows))


def _shares(name: str) -> Callable[[Bundle], str]:
    def block(bundle: Bundle) -> str:
        found = answers.shares(bundle, name).query("variant != 'classic'")
        everywhere = found.groupby("step")["run"].nunique()
        steps = sorted(everywhere.index[everywhere == everywhere.max()])
        chosen = [steps[round(i * (len(steps) - 1) / 5)] for i in range(6)]
        rows = [
            {"variant": variant} | {f"step {s:,}": _mean(rows[rows.step == s]["value"]) for s in chosen}
            for variant, rows in found.groupby("variant", sort=False)
        ]
        return markdown(pd.DataFrame(rows))

    return block


def _mean(values: pd.Series) -> str:
    found = mean_interval(values.to_numpy())
    return interval(found.mean, found.low, found.high, ".2f") + f" ({found.n})" if found.n else "-"


def _amicl_counts(bundle: Bundle) -> str:
    table = bundle.frame("amicl_counts")
    names = {"d": "D", "n_classes": "K", "length": "s", "a": "a", "paper": "paper", "correct": "here", "z": "z"}
    more = {"expected": "of 1,000, from more trials", "z_expected": "z of that"}
    kept = table.rename(columns=names | more)
    return markdown(kept[[*names.values(), *more.values()]].map(_number))


def _amicl_curves(bundle: Bundle) -> str:
    table = bundle.frame("amicl_agreement")
    rows = [
        {
            "curve": curve,
            "points": len(points),
            "agree": int(points.agrees.sum()),
            "largest difference": f"{(points.accuracy - points.paper).abs().max():.3f}",
            "mean difference": f"{(points.accuracy - points.paper).mean():+.3f}",
        }
        for curve, points in table.groupby("curve", sort=False)
    ]
    return markdown(pd.DataFrame(rows))


def _amicl_best(bundle: Bundle) -> str:
    table = bundle.frame("amicl_best_a")
    rows = [
        {
            "task": row.task + (f" (reach {row.reach})" if row.reach != 1 else ""),
            "D": row.d,
            "similarity": row.similarity,
            "best a": interval(row.best_a, row.best_low, row.best_high, ".2f"),
            "accuracy there": interval(row.accuracy, row.low, row.high, ".3f"),
            "as good": f"{row.as_good_from:.2f} to {row.as_good_to:.2f}" + (" (and up)" if row.open_above else ""),
        }
        for row in rows_of(table)
    ]
    return markdown(pd.DataFrame(rows))


def _number(x: Any) -> Any:
    return f"{x:.4g}" if isinstance(x, float) else x


SAID = 0.24
"""How much sooner the value stream is said to be at 95 %."""


def _paper(bundle: Bundle) -> str:
    """What the paper says, what is found here, and whether the two agree."""
    counts, points = bundle.frame("amicl_counts"), bundle.frame("amicl_agreement")
    fits = f"{counts.within_three.sum()} of {len(counts)} within three standard errors"
    reads = f"{points.agrees.sum()} of {len(points)} agree"
    rows = [
        ("AMICL, counts of 1,000", "printed", fits, _whether(bool(counts.within_three.all()))),
        ("AMICL, curves", "read off the plots", reads, _whether(bool(points.agrees.all()))),
        *_claimed_speed(bundle),
        *_claimed_cause(bundle),
    ]
    return markdown(pd.DataFrame(rows, columns=["what", "paper", "here (95 % intervals)", "verdict"]))


def _claimed_speed(bundle: Bundle) -> list[tuple[str, ...]]:
    value, sooner = (
        _row(answers.speed(answers.times(bundle, "streams-paper", threshold)), "value") for threshold in (0.95, 0.90)
    )
    runs = answers.times(bundle, "streams-paper")
    carriers = answers.speed(runs[runs.variant != "classic"], "value")
    query, key = _row(carriers, "query"), _row(carriers, "key")
    outside = "less than said" if 1 - value.low < SAID else "more than said"
    verdict = "agrees" if 1 - value.high <= SAID <= 1 - value.low else outside
    return [
        ("fewer steps to 95 %, value", f"about {SAID:.0%} (said)", _fewer(value), verdict),
        ("fewer steps to 90 %, value", "-", _fewer(sooner), "-"),
        ("the best carrier", "value (said)", f"query: {_times(query)} value's steps", _against_value(query)),
        ("", "", f"key: {_times(key)} value's steps", _against_value(key)),
    ]


def _claimed_cause(bundle: Bundle) -> list[tuple[str, ...]]:
    table = answers.speed(answers.times(bundle, "gradient-paper"))
    stop, only = _row(table, "value-stop"), _row(table, "value-gradient-only")
    helps = {row.variant: bool(row.p_adjusted < 0.05 and row.ratio < 1) for row in (stop, only)}
    verdicts = {(True, False): "not the gradient", (False, True): "the gradient"}
    verdict = verdicts.get((helps["value-stop"], helps["value-gradient-only"]), "open")
    return [
        ("the cause", "extra gradient (suggested)", f"gradient cut: {_times(stop)} classic's steps", verdict),
        ("", "", f"gradient alone: {_times(only)} classic's steps", ""),
    ]


def _whether(agrees: bool) -> str:
    return "agrees" if agrees else "differs in part"


def _against_value(row: Any) -> str:
    if row.p_adjusted >= 0.05:
        return "not told apart from value"
    return "later than value" if row.ratio > 1 else "sooner than value"


def _row(table: pd.DataFrame, variant: str) -> Any:
    return next(iter(rows_of(table[table.variant == variant])))


def _fewer(row: Any) -> str:
    return f"{1 - row.ratio:.0%} [{1 - row.high:.0%}, {1 - row.low:.0%}]"


def _times(row: Any) -> str:
    return interval(row.ratio, row.low, row.high, ".2f") + " times"


OF_THEIR_OWN = ("optimisers", "mechanism", "lm", "lm-sizes", "lm-nested")
"""Experiments whose answers are no plain table of times."""

BLOCKS: dict[str, Callable[[Bundle], str]] = {
    **{name: _speed(name) for name in answers.ASKS if name not in OF_THEIR_OWN},
    "optimisers": _tuned,
    "optimisers-all": _speed("optimisers"),
    "sensitivity": _sensitivity,
    "paper": _paper,
    "whole": _final("streams-paper", at_step=answers.LAST_STEP),
    "windows-final": _final("windows"),
    "shares-paper": _shares("gradient-paper"),
    "shares": _shares("gradient"),
    "mechanism": _mechanism,
    "circuits": _circuits,
    "amicl-counts": _amicl_counts,
    "amicl-curves": _amicl_curves,
    "amicl-best": _amicl_best,
    **LM_BLOCKS,
}
"""What may stand between markers, by name."""
HEADINGS = {
    "optimisers-all": "The same at every rate",
    "sensitivity": "Does it depend on the threshold?",
    "paper": "The paper's claims, and what is found here",
    "whole": "Where the longest runs end",
    "windows-final": "Where the runs end whose stream was opened or closed",
    "shares-paper": "How much gradient comes through the stream, at the paper's size",
    "shares": "How much gradient comes through the stream",
    "circuits": "The circuits at the end",
    "amicl-counts": "The associative memory: printed counts",
    "amicl-curves": "The associative memory: curves",
    "amicl-best": "The associative memory: which a is best",
    **LM_HEADINGS,
}
"""The headings of blocks that are not called as an experiment."""
BEHIND = {
    "optimisers-all": ("optimisers",),
    "sensitivity": SENSITIVE,
    "paper": ("streams-paper", "gradient-paper"),
    "whole": ("streams-paper",),
    "windows-final": ("windows",),
    "shares-paper": ("gradient-paper",),
    "shares": ("gradient",),
    **dict.fromkeys(("mechanism", "circuits"), ("mechanism",)),
    **dict.fromkeys(("amicl-counts", "amicl-curves", "amicl-best"), ()),
    **LM_BEHIND,
}
"""The experiments behind a block that is not called as its experiment."""
