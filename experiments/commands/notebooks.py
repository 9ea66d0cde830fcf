"""The command that runs the notebooks: copies of those that come with the package, at full size or at a small one."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from circuits.common.errors import known, require
from circuits.common.files import write_atomically
from circuits.common.screen import say
from experiments.options import option
from experiments.output import Tables, show

if TYPE_CHECKING:
    from jupyter_client.manager import KernelManager
    from nbformat import NotebookNode
else:
    NotebookNode = KernelManager = Any

SHIPPED = Path(__file__).parents[1] / "notebooks"
PARAMETERS = "parameters"
"""The tag of the one cell of a notebook that says how much it trains and asks."""
SMALL: dict[str, dict[str, Any]] = {
    "1_first_look": {"steps": 40, "n_pairs": 16},
    "2_which_route": {"steps": 40, "seeds": [0, 1], "n_pairs": 16},
    "3_indirect_objects": {"steps": 20, "n_pairs": 8, "n_checkpoints": 1},
    "4_somebody_elses_checkpoint": {"steps": 60, "n_pairs": 16},
    "5_your_own_variant": {"seeds": [0, 1], "steps": 20, "every": 10, "n_questions": 16, "held_until": 10},
    "6_information_or_gradient": (
        {"seeds": [0, 1], "steps": 20, "every": 10, "n_eval": 20, "split_every": 10, "changes": [5, 10]}
    ),
}
"""What stands in that cell where a notebook is only to show that it runs: every one of its names, by notebook."""
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDTH = 800
"""Pixels of a static image."""


def notebooks(
    names: Positional[
        Annotated[tuple[str, ...], option("which, as their names are or begin", "all", metavar="NAME...")]
    ] = (),
    into: Annotated[Path, option("the folder that they are copied into and run in")] = Path("notebooks"),
    small: Annotated[bool, option("fewer steps, seeds and examples: only shows that they run")] = False,
    only_list: Annotated[bool, option("say which there are, and run nothing", name="list")] = False,
) -> Tables:
    """Copy the notebooks into a folder and run them there; their figures become images where a browser is found."""
    import pandas as pd

    wanted = [path for path in shipped() if not names or any(path.stem.startswith(name) for name in names)]
    for name in names:
        if not any(path.stem.startswith(name) for path in wanted):
            known("notebook", name, [path.stem for path in shipped()])
    listed = pd.DataFrame([{"notebook": path.stem, "title": heading(path)} for path in wanted])
    if only_list:
        show(listed)
        return {"notebooks": listed}
    for path in wanted:
        _require_ours(into / path.name, path)
    images = _images()
    failed = [path.stem for path in wanted if not _ran(path, into, small, images)]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(wanted)} notebooks failed: {', '.join(failed)}")
    return {"notebooks": listed}


def shipped() -> list[Path]:
    """Return the notebooks that come with the package, in the order in which they are to be read."""
    return sorted(SHIPPED.glob("[0-9]*.ipynb"))


def heading(path: Path) -> str:
    """Return the title of a notebook: the first line of its first cell."""
    cell = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    return "".join(cell["source"]).partition("\n")[0].lstrip("# ")


def _images() -> bool:
    """Whether figures can become images; if not, it says why, and what they are instead."""
    from figures.images import require_browser

    try:
        require_browser()
    except RuntimeError as error:
        say(f"{error}. Figures are plotly's own, which JupyterLab shows and web pages do not")
        return False
    return True


def _ran(path: Path, into: Path, small: bool, images: bool) -> bool:
    """Whether a copy of a notebook ran to its end; it says how long that took, or which cell failed and why."""
    notebook, copy, started = _read(path), into / path.name, time.perf_counter()
    if small:
        set_parameters(notebook, SMALL[path.stem])
    into.mkdir(parents=True, exist_ok=True)
    say(f"{path.stem} ...")
    error = execute(notebook, into, images=images)
    write(notebook, copy)
    if error:
        say(f"{path.stem}: {error}; {copy} shows it")
    else:
        say(f"{path.stem}: {time.perf_counter() - started:.0f} s, {copy}")
    return error is None


def _require_ours(copy: Path, path: Path) -> None:
    """Refuse to write over what a user has made of an earlier copy."""
    if not copy.exists():
        return
    there, full, small = (_read(file) for file in (copy, path, path))
    set_parameters(small, SMALL[path.stem])
    require(
        sources(there) in (sources(full), sources(small)),
        f"{copy} is not the notebook that comes with this version, or was changed: it is not written over. Give "
        f"another folder by --into, or remove it",
    )


def _needed() -> Any:
    """The module that runs notebooks.

    Raises:
        RuntimeError: saying how to install what is missing.
    """
    try:
        import ipykernel  # noqa: F401
        import nbclient
    except ImportError as error:
        raise RuntimeError("notebooks need more than is installed: pip install 'valuestream[notebook]'") from error
    return nbclient


def _read(path: Path) -> NotebookNode:
    _needed()
    import nbformat

    return nbformat.read(path, 4)


# --- what is done to a notebook ---------------------------------------------------------------------------------------


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def sources(notebook: NotebookNode) -> list[str]:
    """Return what stands in the cells, outputs left out."""
    return [cell.source for cell in notebook.cells]


def digest(notebook: NotebookNode) -> str:
    """Return the hash of the code that stands in a notebook, as it is written beside the outputs of that code."""
    return hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()[:16]


def parameters(notebook: NotebookNode) -> NotebookNode:
    """Return the one cell that is tagged "parameters".

    Raises:
        ValueError: if there is none, or more than one.
    """
    found = [cell for cell in code_cells(notebook) if PARAMETERS in cell.metadata.get("tags", ())]
    require(
        len(found) == 1, f"a notebook has one cell of code that is tagged {PARAMETERS!r}, this one has {len(found)}"
    )
    return found[0]


def assigned(source: str) -> list[str]:
    """Return the names that a cell of plain assignments gives values."""
    statements = ast.parse(source).body
    targets = [target for line in statements if isinstance(line, ast.Assign) for target in line.targets]
    return [ast.unparse(target) for target in targets]


def set_parameters(notebook: NotebookNode, values: Mapping[str, Any]) -> None:
    """Write other values into the cell that is tagged "parameters".

    Raises:
        ValueError: if the values are not of exactly the names that the cell gives values.
    """
    cell = parameters(notebook)
    names = assigned(cell.source)
    require(
        sorted(names) == sorted(values), f"the parameters of this notebook are {sorted(names)}, not {sorted(values)}"
    )
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())


def execute(
    notebook: NotebookNode, folder: Path, *, images: bool = True, kernel: KernelManager | None = None
) -> str | None:
    """Run a notebook's cells in a folder, in a kernel of their own unless one is given; return what failed, if any.

    Figures become static images, or without ``images`` plotly's JSON.

    Raises:
        RuntimeError: if what runs notebooks is not installed.
    """
    nbclient = _needed()
    drawing = f"from figures.images import show_images; show_images({WIDTH}); del show_images"
    client = nbclient.NotebookClient(
        notebook,
        km=kernel,
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=50", *[f"--IPKernelApp.exec_lines={drawing}"] * images],
    )
    try:
        client.execute(env=os.environ | {"PLOTLY_RENDERER": "plotly_mimetype"})
    except nbclient.exceptions.CellExecutionError as error:
        return _place_of(notebook) + f"{error.ename}: {error.evalue}"
    except (nbclient.exceptions.DeadKernelError, AssertionError) as error:
        # nbclient is told of an interrupt first: it stops the kernel, and then cannot find it.
        if getattr(client, "_async_cleanup_kernel_future", None) is not None:
            raise KeyboardInterrupt from error
        return _place_of(notebook) + "the kernel died; is there enough memory?"
    finally:
        if kernel is not None and client.kc is not None:
            client.kc.stop_channels()  # of a kernel of its own nbclient closes them
        tidy(notebook)
    return None


def _place_of(notebook: NotebookNode) -> str:
    """Which cell was the last that began, in words."""
    begun = [(i, cell) for i, cell in enumerate(code_cells(notebook), 1) if cell.execution_count]
    number, cell = begun[-1] if begun else (1, code_cells(notebook)[0])
    return f"cell [{number}], which begins with {cell.source.partition(chr(10))[0]!r}, failed: "


def tidy(notebook: NotebookNode) -> None:
    """Take away what differs from one run to the next, or from one machine to another, and note which code ran."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "valuestream": {"executed": digest(notebook)},
    }
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = {name: cell.metadata[name] for name in ("tags", "jupyter") if name in cell.metadata}
        for output in cell.get("outputs", ()):
            # A widget needs the kernel that made it; its table stays.
            output.get("data", {}).pop(WIDGET, None)
            output.get("metadata", {}).pop(WIDGET, None)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    import nbformat

    write_atomically(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())
