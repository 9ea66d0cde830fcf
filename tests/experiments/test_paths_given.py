"""What is given as a path, a name of a run, a model or a tokenizer, and is none, is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from analysis.pair_files import PairsFile
from analysis.resuming import KeptIn
from circuits import export_huggingface, lm_config, load_pretrained
from circuits.checkpoint import load_checkpoint, read_about, save_checkpoint
from circuits.common.files import made_folder
from experiments import import_model
from experiments.runs.folder import runs_folder
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.tasks.text.books.task import BooksConfig
from experiments.tasks.tokenizers import tokenizer_named
from figures.explore.page import write_switchboard
from figures.files import write_figure
from figures.html_page import write_page
from tests.experiments.test_training import tiny
from tests.helpers import build

pytestmark = pytest.mark.usefixtures("untyped")
NO_PATHS: list[Any] = [7, 2.5, True, ["a"], b"a"]
READ: dict[str, Callable[[Any], Any]] = {
    "load_pretrained": load_pretrained,
    "its tokenizer": lambda path: load_pretrained(".", tokenizer=path),
    "import_model": import_model,
    "load_checkpoint": load_checkpoint,
    "read_about": read_about,
    "PairsFile": PairsFile.read,
    "KeptIn": KeptIn,
    "Run.open": Run.open,
    "Run.under": Run.under,
    "runs_folder": runs_folder,
    "BooksConfig": BooksConfig.in_folder,
    "tokenizer_named": tokenizer_named,
}
WRITTEN: dict[str, Callable[[Any], Any]] = {
    "export_huggingface": lambda path: export_huggingface(build("value", "tokens"), path),
    "save_checkpoint": lambda path: save_checkpoint(path, build("value")),
    "write_figure": lambda path: write_figure(go.Figure(), path),
    "write_page": lambda path: write_page(path, "title", ["lead"], [], "footer"),
    "write_switchboard": lambda path: write_switchboard(path, {}),
}


@pytest.mark.parametrize("name", [*READ, *WRITTEN])
def test_what_is_no_path_is_refused(name: str) -> None:
    for given in NO_PATHS:
        with pytest.raises(ValueError, match="is a path, given as a string or a Path, got"):
            (READ | WRITTEN)[name](given)


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_is_written_below_a_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    for below in (file / "one", file / "one" / "two" / "three"):
        if name != "write_switchboard":
            with pytest.raises(ValueError, match=r"notes.txt is a file: give a folder"):
                WRITTEN[name](below / "x")
    assert file.read_text() == "kept"
    assert [*tmp_path.iterdir()] == [file]
    assert made_folder(tmp_path / "new" / "folder").is_dir()
    assert made_folder(tmp_path / "new").is_dir()
    with pytest.raises(ValueError, match=r"notes.txt is a file: give a folder$"):
        made_folder(file)
    with pytest.raises(ValueError, match=r"notes.txt is a file: give a folder, as .*notes.txt/x cannot lie in it$"):
        made_folder(file / "x")


def test_runs_are_named_by_strings_and_paths(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny(seed=4))
    for given in [*NO_PATHS, None]:
        with pytest.raises(RunError, match="a run is named by a string or a path, got"):
            Run.find(given, tmp_path)
        with pytest.raises(ValueError, match="names no result: use letters, digits"):
            run.results(given)
    with pytest.raises(ValueError, match="the place of the corpus is a path, given as a string or a Path, got 7"):
        run.place(corpus=7)  # type: ignore[arg-type] # which is what is refused
    assert Run.find(run.path.name, tmp_path).path == Run.find(run.path).path == run.path
    with pytest.raises(RunError, match="has no result 'patch7'; there are"):
        run.results("patch7")


def test_a_model_and_a_tokenizer_of_transformers_are_exported(tmp_path: Path) -> None:
    run: Any = Run.at(tmp_path, tiny(seed=4))
    model, given = build("value", "tokens"), tmp_path / "export"
    other: Any
    for other, kind in ((run, "Run"), (lm_config("0.2m"), "ModelConfig"), ("icl-value", "str"), (None, "NoneType")):
        with pytest.raises(ValueError, match=rf"as run.load_model\(\) returns, got {kind}$"):
            export_huggingface(other, given)
    for tokenizer in ("gpt2", 5, tmp_path, object()):
        with pytest.raises(ValueError, match=r"tokenizer is one of transformers, as AutoTokenizer.from_pretrained"):
            export_huggingface(model, given, tokenizer)  # type: ignore[arg-type] # which is what is refused
    assert not given.exists()
    assert (export_huggingface(model, given) / "config.json").is_file()
