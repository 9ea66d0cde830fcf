"""A question as a command of the shell."""

# Annotations are values here: the command's options are those of the question that it is made of.

from collections.abc import Callable
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from circuits.common.errors import require
from experiments.options import Root, RunNames
from experiments.questions.question import Question


def command(kind: type[Question]) -> Callable[..., None]:
    """Return a kind of question as a command: to runs by name, with its options, and its docstring as help."""

    def ask(runs: RunNames, question: OmitArgPrefixes[kind], root: Root = Path("runs")) -> None:  # pyright: ignore[reportInvalidTypeForm] # a class that is known when it runs
        from experiments.runs.run import Run

        require(bool(runs), "name one run or more; 'valuestream runs' lists them")
        question.answer([Run.find(name, root) for name in runs])

    ask.__doc__ = kind.__doc__
    return ask
