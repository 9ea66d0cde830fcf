"""The command that shows a generated corpus."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import Positional, arg


def corpus(
    task: Positional[Annotated[Literal["stories"], arg(help="the generated corpus")]] = "stories",
    n: Annotated[int, arg(help="windows to count on")] = 2_000,
    seed: Annotated[int, arg(help="of the draws")] = 0,
    show: Annotated[int, arg(help="windows to print")] = 3,
) -> None:
    """Print some stories and what the corpus is made of: words, names, shares of sentences of every kind."""
    from circuits.common.text_table import as_text
    from experiments.tasks.stories import StoriesTask, statistics

    stories = StoriesTask(seed=seed)
    for tokens in stories.sample(show, "train", seed=1).tokens:
        print(stories.tokenizer.decode(tokens) + "\n")
    print(as_text(statistics(stories, n).assign(value=lambda t: t.value.map("{:.4g}".format))))
