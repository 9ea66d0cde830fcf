"""The command that makes a run of a model that others trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from experiments.options import Root


def import_model(
    path: Positional[Annotated[Path, arg(help="the folder that the model is stored in")]],
    family: Annotated[str | None, arg(help="whose layout it is, as resformer (default: what the folder says)")] = None,
    tokenizer: Annotated[
        Path | None,
        arg(help="a tokenizer.json, a folder with one, or tiktoken's ranks (default: the folder's)"),
    ] = None,
    root: Root = Path("runs"),
) -> None:
    """Make a run of a model that others trained, to be asked like any other: its weights are copied into it."""
    from experiments.runs.imported import import_model as imported

    run = imported(path, root, family, tokenizer)
    model = run.load_model()
    print(model)
    print(run.path)
    if model.tokenizer is None:
        print("It has no tokenizer and takes token numbers; give one by --tokenizer")
