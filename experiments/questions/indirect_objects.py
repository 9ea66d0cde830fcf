"""Indirect-object identification of language models, in their own body and in another, by set, template or order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import analysis
from circuits.common.errors import require
from experiments.options import option
from experiments.output import Tables, say, show, written_tables
from experiments.questions.question import Frame, Question, Run, Step, say_written

if TYPE_CHECKING:
    from experiments.questions.ioi_tables import PromptAnswers
else:
    PromptAnswers = Any

SHOWN = ("probability", "wrong_probability", "logit_difference", "accuracy")


@dataclass(frozen=True)
class IndirectObjects(Question):
    """Measure indirect-object identification of runs: matched, and transplanted; the paper's prompts as its table.

    Intervals are over prompts for one run and over seeds for several of a variant. Always in evaluation mode.
    """

    n: Annotated[int, option("prompts in every set (of the paper's, all eight)")] = 200
    step: Step = -1
    body: Annotated[
        str | None, option("run the weights as this variant; another architecture than theirs needs --transplant")
    ] = None
    transplant: Annotated[
        bool, option("also run classic weights in a value-stream body and the others in a classic one")
    ] = False
    by: Annotated[
        Literal["set", "template", "order"], option("a row a set, a template, or an order of the names (ABBA, BABA)")
    ] = "set"

    def bodies(self, run: Run) -> list[str]:
        """Return the bodies that a run's weights are measured in, their own being ``OWN``.

        Raises:
            UnknownNameError: for an unknown variant (nearest suggested).
            ValueError: for a body of another architecture, unless it may be transplanted into.
        """
        from experiments.questions.ioi_tables import OWN
        from experiments.questions.prompts import body_of, other_body

        if self.body is None:
            return [OWN, *([other_body(run.config.variant)] if self.transplant else [])]
        body_of(run.config.model, self.body, allowed=self.transplant)
        return [self.body]

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> PromptAnswers:
        """Return one row a prompt, body and measure: set, prompt, template, order, measure, value, and of which run.

        Raises:
            RunError: if there is no checkpoint at the step.
            ValueError: as :meth:`bodies`, for a run whose tokens know no names, and for --transplant of weights whose
                own body is named.
        """
        self._check_bodies([run])
        return self._measured(run)

    def _check_bodies(self, runs: Sequence[Run]) -> None:
        """Refuse another architecture that may not be transplanted into, and a transplant that moves no run."""
        from experiments.questions.prompts import body_of

        for run in runs:
            self.bodies(run)
        body = self.body
        if body is not None and self.transplant:
            require(
                any(body_of(run.config.model, body, allowed=True) is not run.config.model for run in runs),
                f"--transplant: {body} is the body of {' and '.join(run.path.name for run in runs)} already, so "
                f"nothing is transplanted; leave it out, or name another --body",
            )

    def _measured(self, run: Run) -> PromptAnswers:
        import pandas as pd

        from experiments.questions.ioi_tables import OWN, PromptAnswers
        from experiments.questions.prompts import every_prompt, in_body, ioi_task

        bodies, task, model = self.bodies(run), ioi_task(run, self.device), self.model(run, self.step)
        frames = [
            every_prompt(model if body == OWN else in_body(model, body, allowed=True), task, self.n).assign(body=body)
            for body in bodies
        ]
        config = run.config
        about = {"run": run.path.name, "variant": config.variant, "size": config.preset, "seed": config.seed}
        return PromptAnswers(pd.concat(frames, ignore_index=True).assign(**about))

    def named_steps(self) -> tuple[int, ...]:
        """Return the checkpoint that is named; whether a run knows names at all is said before its last one is
        missed."""
        return () if self.step == -1 else (self.step,)

    def _answered(self, runs: Sequence[Run]) -> Tables:
        """Measure runs, print every set and the paper's table, keep each run's numbers, and draw them together."""
        import pandas as pd

        from experiments.questions.ioi_tables import paper_table, summary
        from experiments.runs.pooling import require_seeds
        from figures.files import write_figure
        from figures.trainings.indirect_objects import ioi_by_sentence

        require_seeds(runs)
        self._check_bodies(runs)
        frames = [self._measured(run).to_frame() for run in runs]
        prompts = pd.concat(frames, ignore_index=True)
        say(f"indirect-object identification, {self.n} prompts a set, evaluation mode, mean [95 % interval]:")
        by_set = summary(prompts, self.by)
        show(_wide(by_set, self.by))
        table = paper_table(prompts)
        say("\nthe paper's four prompts, both choices of the subject: probability of the right and of the wrong name")
        show(_paper(table))
        figure = ioi_by_sentence(table, [run.path.name for run in runs])
        written: list[Path] = [run.write_result("ioi", frame) for run, frame in zip(runs, frames, strict=True)]
        target = written[0].with_suffix("") if len(runs) == 1 else runs[0].path.parent / "ioi"
        say_written([*written, *write_figure(figure, target, shared=runs[0].path.parent)])
        return {"ioi": by_set, "paper": table, "prompts": written_tables(written)["ioi"]}


def _wide(table: Frame, by: str) -> Frame:
    from circuits.common.text_table import interval, rows_of

    kept = table[table.measure.isin(SHOWN)]
    text = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(kept)]
    index = ["variant", "size", "body", "set", *([] if by == "set" else [by]), "n", "over"]
    wide: Any = kept.assign(text=text).pivot(index=index, columns="measure", values="text")
    return wide.loc[list(dict.fromkeys(map(tuple, kept[index].to_numpy().tolist()))), list(SHOWN)].reset_index()


def _paper(table: Frame) -> Frame:
    from circuits.common.text_table import interval, rows_of
    from experiments.questions.ioi_tables import model_name

    text = [interval(r.mean, r.low, r.high, ".3f") for r in rows_of(table)]
    named = table.assign(text=text, model=[model_name(r.variant, r.body) for r in rows_of(table)])
    sizes = ["size"] if table["size"].nunique() > 1 else []
    wide: Any = named.pivot(index=["sentence", "model", *sizes], columns="answer", values="text")
    return wide[["right", "wrong"]].reset_index()
