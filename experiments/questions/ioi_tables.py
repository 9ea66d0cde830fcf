"""What was measured of indirect objects, as tables with intervals; frames in, frames out, and no model is known."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd

from analysis.result import Table
from analysis.statistics.intervals import grouped_intervals
from analysis.statistics.one_run_each import require_one_run_each
from circuits.common.errors import known, require
from circuits.common.showing import ROWS

By = Literal["set", "template", "order"]
BYS: tuple[By, ...] = ("set", "template", "order")
OWN = "own"
"""Stands for the body that weights were trained in."""
ANSWERS = {"probability": "right", "wrong_probability": "wrong"}
"""Measures that are probabilities of an answer, and which answer."""


class PromptAnswers(Table):
    """What a run's model says of every prompt: a row a prompt, body and measure."""

    def finding(self) -> str:
        """Return the accuracy on every set of prompts, in every body."""
        shown = self.largest(1000)
        right = shown[shown.measure == "accuracy"]
        said = [f"{row['set']} ({row.body}) {row['mean']:.2f}" for _, row in right.iterrows()]
        return f"accuracy over {int(shown.n.max())} prompts a set: {', '.join(said)}"

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the means of the first ``n`` sets and measures, with intervals over prompts."""
        return summary(self.frame).drop(columns=["over"]).head(n)

    def figure(self) -> Any:
        """Return the probabilities of the right and the wrong name on the paper's prompts (a plotly figure)."""
        from figures.trainings.indirect_objects import ioi_by_sentence

        return ioi_by_sentence(paper_table(self.frame), list(self.frame.run.unique()))


def model_name(variant: str, body: str) -> str:
    """Return what tables call the weights of a variant in a body."""
    return variant if body == OWN else f"{variant} weights in a {body} body"


def summary(prompts: pd.DataFrame, by: By = "set") -> pd.DataFrame:
    """Return the mean of every measure with its interval: over prompts of one run, over seeds where there are several.

    ``prompts`` is what :func:`experiments.questions.indirect_objects.measured` returns. Columns: variant, size,
    body, set, what ``by`` adds,
    measure, mean, low, high, n, over ("prompts" or "seeds").

    Raises:
        ValueError: if a run's prompts come twice, or several runs share variant, size and seed.
    """
    _check(prompts)
    group = ["variant", "size", "body", "set", *([] if known("by", by, BYS) == "set" else [by]), "measure"]
    parts = []
    for _, rows in prompts.groupby(group[:3], sort=False, observed=True):
        several = rows.run.nunique() > 1
        of = means_by_run(rows, group) if several else rows
        parts.append(grouped_intervals(of, group, scale=None).assign(over="seeds" if several else "prompts"))
    return pd.concat(parts, ignore_index=True)


def _check(prompts: pd.DataFrame) -> None:
    require_one_run_each(prompts, ["variant", *(["size"] if "size" in prompts else [])])
    one = [name for name in prompts if name not in ("value", "seed", "variant", "size")]
    twice = prompts[prompts.duplicated(one)] if "prompt" in prompts else prompts.iloc[:0]
    require(twice.empty, f"prompts of {', '.join(map(str, twice.run.unique()[:3]))} come twice; give each run once")


def means_by_run(prompts: pd.DataFrame, group: list[str]) -> pd.DataFrame:
    """Return the mean value of every run in each group."""
    return prompts.groupby([*group, "run"], sort=False, observed=True)["value"].mean().reset_index()


def paper_table(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's table: a row a prompt and model, the probabilities of the right and the wrong name.

    ``prompts`` are rows of prompts or means of runs over them. Columns: sentence (1 to 4), prompt (its template),
    variant, size where there is one, body, answer ("right", "wrong"), mean, low, high, n; means over both choices of
    the subject, intervals over seeds (of one run there is none).

    Source: arXiv 2412.15113, language-model experiment.
    """
    whose = ["variant", *(["size"] if "size" in prompts else []), "body"]
    group = ["template", *whose, "measure"]
    _check(prompts)
    shown = prompts[(prompts.set == "paper") & prompts.measure.isin(ANSWERS)]
    table = grouped_intervals(means_by_run(shown, group), group, scale="logit")
    texts = list(dict.fromkeys(table.template))
    table = table.assign(sentence=table.template.map(texts.index) + 1, answer=table.measure.map(ANSWERS))
    named = ["sentence", "prompt", *whose, "answer", "mean", "low", "high", "n"]
    return table.rename(columns={"template": "prompt"})[named]
