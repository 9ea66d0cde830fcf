"""Notebooks run from top to bottom, what is committed is what their code gave, and the command copies and runs them."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
import plotly.io
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import figures.images
from experiments.commands import notebooks
from experiments.commands.notebooks import (
    SMALL,
    assigned,
    code_cells,
    digest,
    execute,
    heading,
    parameters,
    set_parameters,
    shipped,
    tidy,
    write,
)
from tests.experiments.test_cli import run

stem = attrgetter("stem")
of_each = pytest.mark.parametrize("path", shipped(), ids=stem)
LAST_WHAT_REGISTERS = sorted(shipped(), key=lambda path: "register_" in path.read_text())
"""What a notebook registers stays with the kernel, and its functions lose the names that they use."""
ONE_CORE = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
"""On one core a sweep trains where it was called, and no worker has to import torch first."""


def made(*cells: str, tags: tuple[str, ...] = ()) -> Any:
    """A notebook with a heading and some cells of code, the first of which has tags."""
    code = [new_code_cell(source) for source in cells]
    code[0].metadata["tags"] = list(tags)
    return new_notebook(cells=[new_markdown_cell("# Mine\n\nIt says something."), *code])


# --- they run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, trained_runs: Path) -> Iterator[KernelManager]:
    """One kernel for all of them, in a folder with the session's runs: most of the time goes into importing torch."""
    folder = tmp_path_factory.mktemp("notebooks")
    # A copy: what notebooks train would be found by other tests.
    shutil.copytree(trained_runs, folder / "runs")
    environment = os.environ | {"PLOTLY_RENDERER": "plotly_mimetype", "OMP_NUM_THREADS": "1"}
    options = ["--IPKernelApp.log_level=40", f"--IPKernelApp.exec_lines={ONE_CORE}"]
    manager, client = start_new_kernel(cwd=str(folder), env=environment, extra_arguments=options)
    yield manager
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def fresh(kernel: KernelManager, tmp_path: Path) -> KernelManager:
    """The kernel, with no name left of what ran before."""
    assert execute(made("%reset -f"), tmp_path, images=False, kernel=kernel) is None
    return kernel


@pytest.mark.parametrize("path", LAST_WHAT_REGISTERS, ids=stem)
def test_notebooks_run(path: Path, fresh: KernelManager, tmp_path: Path) -> None:
    notebook = nbformat.read(path, 4)
    set_parameters(notebook, SMALL[path.stem])
    assert execute(notebook, tmp_path, images=False, kernel=fresh) is None
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    said = [output.text for output in outputs if output.get("name") == "stderr"]
    assert all("WeakPairWarning" in text for text in said), "so few steps and pairs may say nothing, and that is all"
    drawn = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(drawn) >= 2, "it shows something"


def test_a_notebook_that_fails_says_where(fresh: KernelManager, tmp_path: Path) -> None:
    notebook = made("a = 1", "a + absent\n1 / 0", "a = 2")
    said = execute(notebook, tmp_path, images=False, kernel=fresh)
    assert said == "cell [2], which begins with 'a + absent', failed: NameError: name 'absent' is not defined"
    assert [bool(cell.execution_count) for cell in code_cells(notebook)] == [True, True, False]


# --- their parameters -------------------------------------------------------------------------------------------------


@of_each
def test_small_values_are_of_the_notebooks_own_parameters(path: Path) -> None:
    cell = parameters(nbformat.read(path, 4))
    assert sorted(assigned(cell.source)) == sorted(SMALL[path.stem])


def test_parameters_are_replaced_all_of_them_or_none() -> None:
    notebook = made("steps = 100  # of training\nseeds = [0, 1]", "print(steps)", tags=("parameters",))
    before = copy.deepcopy(notebook)
    for values in ({"steps": 1}, {"steps": 1, "seeds": [0], "more": 2}):
        with pytest.raises(ValueError, match=r"the parameters of this notebook are \['seeds', 'steps'\], not "):
            set_parameters(notebook, values)
    assert notebook == before
    set_parameters(notebook, {"steps": 1, "seeds": [0]})
    assert [cell.source for cell in code_cells(notebook)] == ["steps = 1\nseeds = [0]", "print(steps)"]


@pytest.mark.parametrize("number", [0, 2])
def test_there_is_one_cell_of_parameters(number: int) -> None:
    notebook = made("a = 1", "b = 2")
    for cell in code_cells(notebook)[:number]:
        cell.metadata["tags"] = ["parameters"]
    with pytest.raises(ValueError, match=f"one cell of code that is tagged 'parameters', this one has {number}"):
        parameters(notebook)


# --- what is committed ------------------------------------------------------------------------------------------------


def faults(notebook: Any) -> list[str]:
    """What is wrong with a notebook that is to be read on the web, one word a fault."""
    text, cells = nbformat.writes(notebook), code_cells(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    named = {
        "size": len(text) > 700_000,
        "place": bool(re.search(r"/(home|root|tmp|work|Users|var|opt)/|[A-Z]:\\\\", text)),
        "script": "<script" in text or "vnd.plotly" in text or "vnd.jupyter.widget" in text,
        "stderr": any(output.get("name") == "stderr" for output in outputs),
        "error": any(output.output_type == "error" for output in outputs),
        "order": [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)),
        "empty": not outputs,
        "code": notebook.metadata.get("valuestream", {}).get("executed") != digest(notebook),
        "ids": [cell.id for cell in notebook.cells] != [f"cell-{i}" for i in range(len(notebook.cells))],
    }
    return [name for name, wrong in named.items() if wrong]


@of_each
def test_what_is_committed_was_made_by_the_code_that_stands_there(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert faults(notebook) == [], f"run 'valuestream notebooks {path.stem}' and commit the copy that it made"
    images = [o for cell in code_cells(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(images) >= 2
    assert parameters(notebook).source, "one cell of parameters"
    assert notebook.cells[0].source.startswith("# "), "it begins with what it is called"


def _ran() -> Any:
    notebook = made("a = 1", "print(a)")
    for number, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = number
        cell.outputs = [new_output("stream", name="stdout", text="1\n")]
    tidy(notebook)
    return notebook


BREAK: dict[str, Callable[[Any], Any]] = {
    "size": lambda cell: cell.outputs[0].update(text="1" * 700_000),
    "place": lambda cell: cell.outputs[0].update(text="/home/me/runs"),
    "script": lambda cell: cell.outputs[0].update(text="<script>"),
    "stderr": lambda cell: cell.outputs[0].update(name="stderr"),
    "error": lambda cell: cell.outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
    "order": lambda cell: cell.update(execution_count=3),
    "code": lambda cell: cell.update(source="print(a + 1)"),
    "ids": lambda cell: cell.update(id="another"),
}


@pytest.mark.parametrize("fault", [*BREAK, "empty"])
def test_a_fault_is_seen(fault: str) -> None:
    notebook = _ran()
    assert faults(notebook) == []
    if fault == "empty":
        for cell in code_cells(notebook):
            cell.outputs = []
    else:
        BREAK[fault](code_cells(notebook)[1])
    assert faults(notebook) == [fault]


def test_images_have_no_buttons(monkeypatch: pytest.MonkeyPatch) -> None:
    png: Any = plotly.io.renderers["png"]
    drawn: list[Any] = []
    for name, value in {"to_mimebundle": drawn.append, "width": None}.items():
        monkeypatch.setattr(png, name, value)
    monkeypatch.setattr(plotly.io.renderers, "default", "json")
    monkeypatch.setattr(figures.images, "require_browser", lambda: None)
    figures.images.show_images(500)
    figure = go.Figure(layout={"title": {"text": "Mine"}, "updatemenus": [{"buttons": [{"label": "another route"}]}]})
    png.to_mimebundle(figure.to_dict())
    assert drawn[0]["layout"]["title"] == {"text": "Mine"}
    assert "updatemenus" not in drawn[0]["layout"]
    assert figure.layout.updatemenus, "the figure itself keeps them"
    assert (plotly.io.renderers.default, png.width) == ("png", 500)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two notebooks as if they had come with the package, the first of which fails; nothing is drawn."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    write(made("n = 7", "1 / (n - 7)", tags=("parameters",)), folder / "1_fails.ipynb")
    write(made("n = 7", "print(n)", tags=("parameters",)), folder / "2_runs.ipynb")
    monkeypatch.setattr(notebooks, "SHIPPED", folder)
    monkeypatch.setattr(notebooks, "SMALL", {"1_fails": {"n": 7}, "2_runs": {"n": 8}})

    def none() -> None:
        raise RuntimeError("no browser was found")

    monkeypatch.setattr(figures.images, "require_browser", none)
    return folder


def test_the_command_goes_on_where_one_fails(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "mine" / "notebooks"
    status, out, err = run(capsys, "notebooks", "--into", into)
    assert status == 2
    assert "no browser was found. Figures are plotly's own" in out
    assert "1_fails: cell [2], which begins with '1 / (n - 7)', failed: ZeroDivisionError: division by zero" in out
    assert re.search(r"2_runs: \d+ s", out)
    assert "error: 1 of 2 notebooks failed: 1_fails" in err
    ran = nbformat.read(into / "2_runs.ipynb", 4)
    assert code_cells(ran)[1].outputs[0].text == "7\n"
    assert faults(ran) == []
    assert not code_cells(nbformat.read(two / "2_runs.ipynb", 4))[1].outputs, "what came with the package stays"


def test_an_interrupt_ends_the_command(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupts = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)"
    write(made("n = 7", interrupts, tags=("parameters",)), two / "1_fails.ipynb")
    status, out, err = run(capsys, "notebooks", "--into", tmp_path / "notebooks")
    assert status == 130
    assert "give the same command again" in err
    assert "2_runs" not in out, "nothing is begun after it"


def test_a_copy_that_was_changed_is_not_written_over(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "notebooks"
    into.mkdir()
    shutil.copy(two / "2_runs.ipynb", into)
    assert run(capsys, "notebooks", "2", "--into", into, "--small")[0] == 0
    assert code_cells(nbformat.read(into / "2_runs.ipynb", 4))[1].outputs[0].text == "8\n"
    write(made("n = 9", "print(n)", tags=("parameters",)), into / "2_runs.ipynb")
    before = (into / "2_runs.ipynb").read_bytes()
    status, out, err = run(capsys, "notebooks", "--into", into)
    assert status == 2
    assert not out, "that is said before any is run"
    assert "was changed: it is not written over. Give another folder by --into, or remove it" in err
    assert (into / "2_runs.ipynb").read_bytes() == before


def test_notebooks_are_listed_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "notebooks", "--list")
    assert status == 0
    head, *lines = out.splitlines()
    assert head.split() == ["notebook", "title"]
    assert [line.split()[0] for line in lines] == [path.stem for path in shipped()]
    assert all(line.endswith(heading(path)) for line, path in zip(lines, shipped(), strict=True))
    assert run(capsys, "notebooks", "--list", "4")[1].splitlines()[1].startswith("4_somebody_elses_checkpoint")
    status, _, err = run(capsys, "notebooks", "4_somebody_elses_chekpoint")
    assert status == 2
    assert "unknown notebook '4_somebody_elses_chekpoint': did you mean '4_somebody_elses_checkpoint'" in err


@pytest.mark.parametrize("missing", ["nbclient", "ipykernel"])
def test_what_is_missing_is_named(
    missing: str, two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    status, _, err = run(capsys, "notebooks")
    assert status == 2
    assert "pip install 'valuestream[notebook]'" in err


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_the_command_as_a_user_gives_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments", "notebooks", "4", "--small"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, "nothing is warned of"
    notebook = nbformat.read(tmp_path / "notebooks" / "4_somebody_elses_checkpoint.ipynb", 4)
    assert any("image/png" in output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs)
    assert set(faults(notebook)) <= {"stderr"}
    assert (tmp_path / "notebooks" / "theirs" / "config.json").is_file()
