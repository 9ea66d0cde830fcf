"""The attention view: what heads attend to in a prompt, and what they move from there, by route."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import analysis
from circuits.common.errors import require
from experiments.options import option
from experiments.output import say, show
from experiments.questions.question import Model, OfInputs, OfPairs, Run, Step


@dataclass(frozen=True)
class ViewAttention(OfInputs):
    """Show what heads attend to in one prompt, and what they move by each route; write and draw it."""

    prompt: Annotated[str | None, option("a text in the model's words", "the clean side of a pair of the task")] = None
    tokens: Annotated[tuple[int, ...], option("the prompt as token numbers")] = ()
    row: Annotated[int, option("which pair, where no prompt is given (from 0), as 'map --row' counts")] = 0
    step: Step = -1
    top: Annotated[int, option("rows to print")] = 15

    def validate(self) -> None:
        """Refuse options with which nothing can be asked, before work starts.

        Raises:
            ValueError: as :meth:`OfInputs.validate`, for two prompts, or a row beside a prompt.
        """
        super().validate()
        given = {"--prompt": self.prompt is not None, "--tokens": bool(self.tokens), "--pairs": self.pairs is not None}
        named = [option for option, there in given.items() if there]
        require(len(named) < 2, f"{' and '.join(named)} each name a prompt; give one of them")
        require(
            not self.given("row") or "--pairs" in named or not named,
            f"--row is of pairs, and {', '.join(named)} is a prompt by itself; leave one out",
        )

    def named_steps(self) -> tuple[int, ...]:
        """Return the checkpoint that is named, -1 being the last."""
        return (self.step,)

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> analysis.AttentionView:
        """Return the attention of every head in the prompt, and what it moves.

        Raises:
            RunError: if there is no checkpoint at the step.
            ValueError: as :func:`analysis.attention_view`, and for a row that the pairs do not have.
        """
        model = self.model(run, self.step)
        return analysis.attention_view(model, self._prompt(run, model))

    def _prompt(self, run: Run, model: Model) -> Any:
        if self.prompt is not None or self.tokens:
            return self.prompt if self.prompt is not None else self.tokens
        if self.file is not None:
            return self.file.pair(model)[self.row]
        # Of as many as a map has by default: what is drawn depends on how many are.
        return OfPairs(device=self.device, dtype=self.dtype).pair(run, model)[self.row]

    def tell(self, run: Run, found: analysis.AttentionView) -> list[Path]:
        """Print the largest vectors that are moved and each head's share by the stream, write and draw all."""
        from figures.models.attention_view import attention_maps

        say(f"{run.path.name}: {found.finding()}")
        for note in found.notes():
            say(note)
        show(found.largest(self.top), spare=("own_share", "incoming_share"))
        show(found.by_head())
        return self.keep(run, "attention", found.to_frame(), attention_maps)
