"""The committed results as text: a table and its sentences for every question, put between markers of a page.

A page has ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; what stands between them is written here and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics.intervals import mean_interval
from circuits.common.errors import known
from experiments.runs import looks
from experiments.studies import times as answers
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.lm_pages import LM_BEHIND, LM_BLOCKS, LM_HEADINGS
from experiments.studies.wording import interval, markdown, rows_of, shown, speed_table, with_differences

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


def in_repository() -> bool:
    """Return whether the packages lie in a checkout of the repository, and not where they were installed."""
    project = COMMITTED.parents[1] / "pyproject.toml"
    return project.is_file() and 'name = "valuestream"' in project.read_text()


def write_page(bundle: Bundle, path: Path) -> Path:
    """Write the page of all results with figures that lie beside it, and return its path.

    What was drawn without images is linked to in their place; links into the repository lead to what was installed.
    """

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        drawn = path.parent / Path(target).name
        if not target.startswith("rendered/"):
            return f"{image}[{text}]({(PAGES[0].parent / target).resolve().as_uri()})"
        return f"{image}[{text}]({drawn.name})" if drawn.is_file() else f"[{drawn.stem}]({drawn.stem}.html)"

    text = re.sub(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)", link, fill(PAGES[0].read_text(), bundle))
    path.write_text(text)
    return path


def whole(bundle: Bundle, title: str) -> str:
    """Return a page of its own with every block for which the bundle holds runs."""
    there = set(bundle.arms.experiment)
    parts = [f"# {title}"]
    for name, block in BLOCKS.items():
        if set(BEHIND.get(name, (name,))) <= there:
            parts.append(f"## {HEADINGS.get(name) or answers.ASKS[name]}\n\n{block(bundle)}")
    return "\n\n".join(parts) + "\n"


def _speed(name: str) -> Callable[[Bundle], str]:
    return lambda bundle: markdown(speed_table(answers.compared(bundle, name)))


def _tuned(bundle: Bundle) -> str:
    table = answers.tuned(answers.times(bundle, "optimisers"))
    words = speed_table(table)
    words.insert(2, "best rates", [f"{r.rate} / {r.reference_rate}" for r in rows_of(table)])
    return markdown(words)


def _sensitivity(bundle: Bundle) -> str:
    table = answers.sensitivity(bundle, SENSITIVE)
    rows = []
    for (name, variant, reference, rule), part in table.groupby(
        ["experiment", "variant", "reference", "rule"], sort=False
    ):
        by = {row.threshold: interval(row.ratio, row.low, row.high, ".2f") for row in rows_of(part)}
        row = {"experiment": name, "compared": f"{variant} / {reference}", "crossing": rule}
        rows.append(row | {f"{threshold:.0%}": by.get(threshold, "-") for threshold in answers.THRESHOLDS})
    return markdown(pd.DataFrame(rows))


SENSITIVE = ("streams-paper", "gradient-paper", "gradient")
"""The experiments whose times are read at several thresholds."""


def _final(name: str, at_step: int | None = None) -> Callable[[Bundle], str]:
    def block(bundle: Bundle) -> str:
        table = answers.final(bundle, name, at_step=at_step)
        table["text"] = [interval(row.mean, row.low, row.high, ".3f") for row in rows_of(table)]
        wide: Any = table.pivot(index="variant", columns="split", values="text")[list(answers.MEASURED)]
        wide.insert(0, "runs", table.groupby("variant").n.max())
        order = list(dict.fromkeys(table.variant))
        differences = answers.differences(answers.ends_of(bundle, name, "accuracy", at_step), ["split", "condition"])
        return with_differences(wide.loc[order].reset_index(), differences, "split")

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
    found = mean_interval(values.to_numpy(), scale="logit")
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
    table = answers.compared(bundle, "streams-paper")
    value, key, query = (_row(table, *pair) for pair in (("value", "classic"), ("key", "value"), ("query", "value")))
    sooner = _row(answers.compared(bundle, "streams-paper", 0.90), "value", "classic")
    outside = "less than said" if 1 - value.low < SAID else "more than said"
    verdict = "agrees" if 1 - value.high <= SAID <= 1 - value.low else outside
    return [
        ("fewer steps to 95 %, value", f"about {SAID:.0%} (said)", _fewer(value), verdict),
        ("fewer steps to 90 %, value", "-", _fewer(sooner), "-"),
        ("the best carrier", "value (said)", f"query: {_times(query)} value's steps", _by_threshold(bundle)),
        ("", "", f"key: {_times(key)} value's steps", answers.verdict(key)),
    ]


def _by_threshold(bundle: Bundle) -> str:
    """What the thresholds say of query against value, those that agree put together."""
    found: dict[str, list[str]] = {}
    table = answers.sensitivity(bundle, ("streams-paper",), ("interpolated",))
    for row in rows_of(table[(table.variant == "query") & (table.reference == "value")]):
        found.setdefault(answers.verdict(row), []).append(f"{row.threshold:.0%}")
    return "; ".join(f"{says} at {', '.join(thresholds)}" for says, thresholds in found.items())


def _claimed_cause(bundle: Bundle) -> list[tuple[str, ...]]:
    table = answers.compared(bundle, "gradient-paper")
    stop, cut = _row(table, "value-stop", "classic"), _row(table, "value-stop", "value")
    only = _row(table, "value-gradient-only", "classic")
    needed = "not needed" if stop.p_adjusted < 0.05 and stop.ratio < 1 else "open"
    return [
        ("the cause", "extra gradient (suggested)", f"gradient cut: {_times(stop)} classic's steps", needed),
        ("", "", f"gradient cut: {_times(cut)} value's steps", f"{answers.verdict(cut)}; {_added(bundle)}"),
        ("", "", f"gradient alone: {_times(only)} classic's steps", answers.verdict(only)),
    ]


def _added(bundle: Bundle) -> str:
    """How much of the speed-up the gradient adds at the thresholds at which it adds any that is clear."""
    table = answers.from_gradient(bundle, "gradient-paper")
    clear = table[(table.p_adjusted < 0.05) & (table.ratio > 1)]
    if clear.empty:
        return "that the gradient adds anything is not shown at any threshold"
    least, most = clear.share.min(), clear.share.max()
    first, last = clear.threshold.min(), clear.threshold.max()
    return f"later at {first:.0%} to {last:.0%}, where the gradient adds {least:.0%} to {most:.0%} of the speed-up"


def _gradient(bundle: Bundle) -> str:
    """What cutting the gradient costs, at every threshold, in both presets."""
    rows = []
    for name in ("gradient-paper", "gradient"):
        table = answers.from_gradient(bundle, name)
        cells = {
            f"{r.threshold:.0%}": f"{interval(r.ratio, r.low, r.high, '.3f')}: {r.share:.0%}" for r in rows_of(table)
        }
        rows.append({"experiment": name} | cells)
    return markdown(pd.DataFrame(rows))


def _shift(bundle: Bundle) -> str:
    """Whether value is a constant number of steps before classic or takes a constant share of them."""
    table = answers.sensitivity(bundle, ("streams-paper",), ("interpolated",))
    table = table[(table.variant == "value") & (table.reference == "classic")]
    pairs = table.pairs.max()
    rows: dict[float, Any] = {row.threshold: row for row in rows_of(table[table.pairs == pairs])}
    saved, ratios = [r.reference_steps - r.steps for r in rows.values()], [r.ratio for r in rows.values()]
    cells = [f"{at:.0%}: {s:,.0f} ({r:.2f})" for at, s, r in zip(rows, saved, ratios, strict=True)]
    by_ratio, by_steps = max(np.log(ratios)) / min(np.log(ratios)), min(saved) / max(saved)
    says = "nearer to a shift than to a constant ratio" if by_steps > by_ratio else "nearer to a constant ratio"
    followed = answers.compared(bundle, "streams-paper", split="test")
    test = _row(followed, "value", "classic")
    return (
        f"Steps that the value stream saves at each threshold, and its ratio to classic ({pairs} seeds): "
        f"{'; '.join(cells)}: {says}. "
        f"To 95% on the *test* set ({test.pairs} seeds that went on that far) it takes {_times(test)} classic's steps: "
        f"{answers.verdict(test)}; these seeds could have shown {shown(test.smallest)}."
    )


def _stream_share(bundle: Bundle) -> str:
    """How much of the answer comes by the stream at the end of training, by preset."""
    patched = bundle.frame("mechanism_patches")
    at = patched[(patched.layer == 1) & (patched.position == "matching label") & (patched.variant == "value")]
    at = at[(at.component == "v") & (at.route == "residual")]
    parts = []
    for preset, rows in at.groupby("preset", observed=True):
        by_phase = rows.groupby("phase", observed=True)["effect"]
        end = rows[rows.phase == "end"].effect
        seeds = f"{len(end)} seeds, {end.min():.2f} to {end.max():.2f}"
        after = by_phase.mean()["after"]
        parts.append(f"{preset} preset {after:.2f} after the transition and {end.mean():.2f} at the end ({seeds})")
    return "Restored by the stream alone, of the logit difference: " + "; ".join(parts) + "."


def _presets(bundle: Bundle) -> str:
    """How often and on how much runs of every preset are evaluated, as their configurations say."""
    ioi = bundle.frame("lm_ioi") if bundle.has("lm_ioi") else pd.DataFrame({"set": [], "by": [], "prompts": []})
    papers = ioi.prompts[(ioi["set"] == "paper") & (ioi.by == "set")].max()
    counted = Counter(
        (str(preset), *_looks(json.loads(config)))
        for preset, config in zip(bundle.runs.preset, bundle.runs.config, strict=True)
    )
    table = [
        {"preset": preset, "runs": runs, "evaluated every": f"{every} steps", "on": on.format(papers=papers)}
        for (preset, every, on), runs in counted.items()
    ]
    return markdown(pd.DataFrame(table))


def _looks(config: dict[str, Any]) -> tuple[str, str]:
    """How often a run is evaluated and on how much, of its stored configuration."""
    training, is_lm = config["training"], "size" in config
    schedules = training.get("evaluate_at", [{"type": "Every", "n": looks.LM_EVERY if is_lm else looks.ICL_EVERY}])
    every = " and ".join(f"{schedule['n']:,}" for schedule in schedules if schedule["type"] == "Every")
    if not is_lm:
        return every, f"{training.get('n_eval', looks.ICL_SEQUENCES):,} sequences a set"
    windows, prompts = training.get("n_eval", looks.LM_WINDOWS), training.get("n_questions", looks.LM_QUESTIONS)
    return every, f"{windows:,} windows for the loss, {prompts:,} prompts a set (of the paper {{papers}})"


def _whether(agrees: bool) -> str:
    return "agrees" if agrees else "differs in part"


def _row(table: pd.DataFrame, variant: str, reference: str) -> Any:
    return next(iter(rows_of(table[(table.variant == variant) & (table.reference == reference)])))


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
    "presets": _presets,
    "shift": _shift,
    "gradient-by-threshold": _gradient,
    "stream-share": _stream_share,
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
    "presets": "How often and on how much runs are evaluated",
    "shift": "A shift or a ratio",
    "gradient-by-threshold": "What the gradient adds",
    "stream-share": "How much comes by the stream",
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
    "presets": (),
    "shift": ("streams-paper",),
    "gradient-by-threshold": ("gradient-paper", "gradient"),
    "stream-share": ("mechanism",),
    "whole": ("streams-paper",),
    "windows-final": ("windows",),
    "shares-paper": ("gradient-paper",),
    "shares": ("gradient",),
    **dict.fromkeys(("mechanism", "circuits"), ("mechanism",)),
    **dict.fromkeys(("amicl-counts", "amicl-curves", "amicl-best"), ()),
    **LM_BEHIND,
}
"""The experiments behind a block that is not called as its experiment."""
