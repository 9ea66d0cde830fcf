"""A question as a command of the shell."""

# Annotations are values here: the command's options are those of the question that it is made of.

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from circuits.common.errors import require
from experiments.options import Root, RunNames
from experiments.output import Tables
from experiments.questions.question import Question
from experiments.runs.names import directories_of
from experiments.runs.record import checkpoint_step, read_record


def command(kind: type[Question]) -> Callable[..., Tables]:
    """Return a kind of question as a command: to runs by name, with its options, and its docstring as help."""

    def ask(runs: RunNames, question: OmitArgPrefixes[Annotated[kind, arg(name="")]], root: Root = None) -> Tables:  # pyright: ignore[reportInvalidTypeForm] # a class that is known when it runs
        check_there(runs, question.named_steps(), root)
        from experiments.runs.run import Run

        return question.answer([Run.find(name, root) for name in runs])

    ask.__doc__ = kind.__doc__
    return ask


def check_there(runs: Sequence[str], steps: Sequence[int], root: Path | None = None) -> None:
    """Refuse runs and checkpoints that are not there, without waiting for torch.

    Raises:
        RunError: naming the nearest runs, or the nearest step.
        ValueError: if no run is named.
    """
    require(bool(runs), "name one run or more; 'valuestream runs' lists them")
    for name in runs:
        found = directories_of(name, root)
        # Which of several is meant, their configurations decide.
        for step in steps if len(found) == 1 else ():
            checkpoint_step(read_record(found[0]), found[0].name, step)
