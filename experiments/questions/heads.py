"""Head scores: what can be said of every head of a run's model, over its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import analysis
from experiments.output import say, show
from experiments.questions.over_checkpoints import over
from experiments.questions.question import Checkpoints, Frame, Model, OfSequences, Run

if TYPE_CHECKING:
    from analysis.heads.attention_scores import HeadScores
else:
    HeadScores = Any


@dataclass(frozen=True)
class Heads(OfSequences):
    """Score every head at every checkpoint of a run; write and draw the curves.

    Previous token, ILA, TILA, TLA, retrieval, copying by route, composition of heads by route; CLA of the model. Of
    pairs of a file: previous token, retrieval, and attention from END to every role.
    """

    checkpoints: Checkpoints = ()

    def named_steps(self) -> tuple[int, ...]:
        """Return the checkpoints that are named."""
        return self.checkpoints

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> HeadScores:
        """Return the scores at the checkpoints: step, and the columns of the task's ``head_scorer``.

        Raises:
            UnknownNameError: for an unknown split (nearest suggested).
        """
        from analysis.heads.attention_scores import HeadScores

        split = None if self.file is not None else self.of(run)
        scorer = self._of_file if split is None else run.asker(self.device).head_scorer(self.n, split)

        def at(model: Model) -> Frame:
            return scorer(model).to_frame()

        return HeadScores(over(self, run, self.checkpoints, at, progress, kept, split=split))

    def _of_file(self, model: Model) -> HeadScores:
        from analysis.heads.attention_scores import one_table, score_heads, scores_by_role
        from analysis.heads.retrieval import score_retrieval

        assert self.file is not None, "asked only where there is one"
        pair = self.file.pair(model)
        return one_table([score_heads(model, pair, scores_by_role(pair)), score_retrieval(model, pair)])

    def tell(self, run: Run, found: HeadScores) -> list[Path]:
        """Print the scores at the last checkpoint, write and draw all."""
        import pandas as pd

        from analysis.heads.attention_scores import WHOLE
        from figures.models.head_scores import head_scores

        frame = found.to_frame()
        steps = frame.step
        say(
            f"{run.path.name}: head scores at step {steps.max()} of {steps.nunique()} checkpoints, {self.asked_of(run)}"
        )
        last = frame[steps == steps.max()]
        of_heads = last[(last.layer != WHOLE) & (last.partner == "")]
        # A row a head and a column a score, in the order in which they were computed.
        wide = of_heads.pivot(index=["layer", "head"], columns="score", values="value")
        ordered = wide[list(dict.fromkeys(of_heads.score))]
        show(ordered.map(lambda x: "-" if pd.isna(x) else f"{x:.4g}").reset_index())
        composed, whole = last[last.partner != ""], last[last.layer == WHOLE]
        for rest in (
            composed[["partner", "layer", "head", "score", "value"]],
            whole[["score", "value", "stderr", "convention"]],
        ):
            if len(rest):
                show(rest)
        return self.keep(run, "heads", frame, head_scores)
