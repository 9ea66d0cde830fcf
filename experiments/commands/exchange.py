"""The commands that make a run of a model that others trained, and that give a run's model back in their layout."""

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


def export(
    run: Positional[Annotated[str, arg(help="a run: its directory, name, id, or how one of them begins")]],
    folder: Positional[Annotated[Path, arg(help="a new folder, or an earlier export's")]],
    step: Annotated[int, arg(help="of a checkpoint; -1 is the last")] = -1,
    root: Root = Path("runs"),
) -> None:
    """Write a run's language model and its tokenizer as Hugging Face's transformers opens them."""
    from circuits import export_huggingface
    from experiments.runs.run import Run

    print(export_huggingface(Run.find(run, root).load_model(step), folder))
    print(f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True) opens it")
