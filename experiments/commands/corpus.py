"""The command that shows a generated corpus."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import Positional

from circuits.common.errors import whole
from circuits.common.screen import folded
from experiments.options import option
from experiments.output import Tables, answer
from experiments.output import show as show_table


def corpus(
    task: Positional[Annotated[Literal["stories"], option("the generated corpus")]] = "stories",
    n: Annotated[int, option("windows to count on")] = 2_000,
    seed: Annotated[int, option("of the draws")] = 0,
    show: Annotated[int, option("windows to print")] = 3,
) -> Tables:
    """Print some stories and what the corpus is made of: words, names, shares of sentences of every kind."""
    from experiments.tasks.stories import StoriesTask, statistics

    whole("--n", n)
    stories = StoriesTask(seed=seed)
    for tokens in stories.sample(show, "train", seed=1).tokens if whole("--show", show, 0) else ():
        answer(folded(stories.tokenizer.decode(tokens) + "\n"))
    found = statistics(stories, n)
    show_table(found)
    return {"statistics": found}
