"""The commands that make a run of a model that others trained, and that give a run's model back in their layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from experiments.options import THEIRS, THERE, Root, option
from experiments.output import Tables, answer, say
from experiments.questions.command import check_there


def import_model(
    path: Positional[Annotated[Path, THEIRS, option("the folder that the model is stored in")]],
    family: Annotated[str | None, option("whose layout it is, as resformer", "what the folder says")] = None,
    tokenizer: Annotated[
        Path | None,
        THERE,
        option("a tokenizer.json, a folder with one, or tiktoken's ranks", "the folder's"),
    ] = None,
    root: Root = None,
) -> Tables:
    """Make a run of a model that others trained, to be asked like any other: its weights are copied into it."""
    import pandas as pd

    from experiments.runs.imported import import_model as imported
    from experiments.runs.table import row_of

    run = imported(path, root, family, tokenizer)
    model = run.load_model()
    answer(model)
    answer(run.path)
    if model.tokenizer is None:
        say("It has no tokenizer and takes token numbers; give one by --tokenizer")
    return {"runs": pd.DataFrame([row_of(run.path)])}


def export(
    run: Positional[Annotated[str, option("a run: its directory, name, id, or how one of them begins")]],
    folder: Positional[Annotated[Path, option("a new folder, or an earlier export's")]],
    step: Annotated[int, option("of a checkpoint; -1 is the last")] = -1,
    root: Root = None,
) -> None:
    """Write a run's language model and its tokenizer as Hugging Face's transformers opens them."""
    check_there([run], [step], root)
    from circuits import export_huggingface
    from experiments.runs.run import Run

    answer(export_huggingface(Run.find(run, root).load_model(step), folder))
    say(f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True) opens it")
