"""The house: who may import whom, what lies at the top, what every public thing has, what no file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from beartype import beartype
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import AnnotationError, Float
from torch import Tensor

import circuits
from tests.checked import checked, fits, jaxtyped, looked_at

ROOT = Path(__file__).parent.parent
ORDER = ["circuits", "figures", "analysis", "experiments"]
SOURCES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


@cache
def modules_imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it: in functions and for types too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in modules_imported(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    later = ORDER[ORDER.index(package) + 1 :]
    assert not imported(path) & set(later), f"{package} comes before {later}"
    assert "tests" not in imported(path)


def test_only_one_module_knows_transformer_lens_insides() -> None:
    for path in SOURCES:
        assert "transformer_lens.tools.analysis._" not in path.read_text() or path.name == "ready.py"


def sorts_of(source: str) -> list[bool]:
    """Whether each sort of a frame by one key is stable; pandas sorts by several keys stably anyway."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    by_one = [
        call
        for call in calls
        if getattr(call.func, "attr", "") == "sort_values" and not any(isinstance(arg, ast.List) for arg in call.args)
    ]
    return [
        any(word.arg == "kind" and ast.unparse(word.value) == "'stable'" for word in each.keywords) for each in by_one
    ]


def test_what_is_equal_keeps_its_order_on_every_processor() -> None:
    # The fastest sort differs between processors in the order of equal keys, and with it figures would.
    several = {"experiments/studies/heads_and_routes/study.py"}
    loose = {str(p.relative_to(ROOT)) for p in SOURCES if not all(sorts_of(p.read_text()))} - several
    assert not loose
    assert sorts_of('a.sort_values("x"); a.sort_values("x", kind="stable"); a.sort_values(["x", "y"])') == [False, True]


@cache
def files_imported(path: Path) -> set[Path]:
    """The files of ours that a file imports; of a folder, its ``__init__``."""
    found = set()
    for name in modules_imported(path):
        where = ROOT.joinpath(*name.split("."))
        found |= {file for file in (where.with_suffix(".py"), where / "__init__.py") if file in SOURCES}
    if any(file.name != "__init__.py" for file in found):
        # ``from package.folder import file`` names the folder too, and means the file.
        found -= {file.parent / "__init__.py" for file in found if file.name != "__init__.py"}
    return found - {path}


FOLDERS = sorted({".", *(str(path.parent.relative_to(ROOT)) for path in SOURCES)})


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_and_folders_import_each_other_in_no_circle(folder: str) -> None:
    inside = [path for path in SOURCES if path.is_relative_to(ROOT / folder)]
    graph: dict[str, set[str]] = {}
    for path in inside:
        part = path.relative_to(ROOT / folder).parts[0]
        wanted = {file.relative_to(ROOT / folder).parts[0] for file in files_imported(path) if file in inside}
        graph.setdefault(part, set()).update(wanted - {part})
    TopologicalSorter(graph).prepare()  # names the circle, if there is one


def test_figures_know_of_ours_only_what_is_common() -> None:
    for path in (ROOT / "figures").rglob("*.py"):
        ours = {name for name in modules_imported(path) if name.split(".")[0] in ORDER}
        assert all(name.startswith(("figures", "circuits.common")) for name in ours), f"{path}: {ours}"
        assert "torch" not in imported(path), f"{path} draws, it does not compute"


def test_the_imported_circuits_is_ours() -> None:
    assert Path(circuits.__file__).parent == ROOT / "circuits"


def test_nothing_else_lies_at_the_top() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert {Path(name).parts[0] for name in tracked if "/" in name} <= {*ORDER, "tests", ".ci"}


def test_help_needs_no_torch() -> None:
    script = (
        "import sys\nfrom experiments.cli import main\n"
        "main(['patch', '--help'])\n"
        "heavy = {'torch', 'transformer_lens', 'pandas', 'plotly'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in said


def test_figures_import_without_transformer_lens_or_torch() -> None:
    files = sorted((ROOT / "figures").rglob("*.py"))
    modules = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in files]
    script = (
        f"import sys\nimport {', '.join(modules)}\nprint(sorted({{'torch', 'transformer_lens'}} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_no_file_names_a_machine_or_an_index() -> None:
    words = [r"/work/", r"/root/", "index" + "-url", "pypi" + r"\.org", "https?://[^/]*:[0-9]+/simple"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in tracked:
        text = (ROOT / name).read_text(errors="replace")
        for word in words:
            assert not re.search(word, text) or name == "tests/test_house.py", f"{name} holds {word}"


def test_the_lock_has_plain_versions_of_everything_needed() -> None:
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert {"torch", "transformer-lens", "plotly", "tyro", "pytest", "pyright", "ruff"} <= locked
    assert "torch==2.13.0" in lines


def test_types_and_shapes_are_checked_while_testing() -> None:
    from analysis import metrics
    from circuits.common.plain_data import derive_seed

    unread = torch.zeros(2, 3)
    for _ in range(30):  # in every call
        with pytest.raises(TypeError, match="logits"):
            metrics.read(unread, None)
        with pytest.raises(TypeError, match="labels"):
            derive_seed(unread)  # type: ignore[arg-type] # what is tested


def row(x: Float[Tensor, "a b"], other: Float[Tensor, " a"], which: int) -> Float[Tensor, " b"]:
    return x[which] if which >= 0 else other


def test_sizes_are_held_against_each_other_in_functions_and_in_functions_within_them() -> None:
    def within(x: Float[Tensor, "a b"], other: Float[Tensor, " a"], which: int) -> Float[Tensor, " b"]:
        return row(x, other, which)

    x, right = torch.zeros(2, 3), torch.zeros(2)
    for function in (checked(row, typechecker=beartype), checked(within, typechecker=beartype)):
        assert torch.equal(function(x, other=right, which=0), x[0])
        for wrong in ((x, torch.zeros(3), 0), (x, right, 0.5), (x, right, -1)):
            with pytest.raises(TypeError):
                function(*wrong)


class Early:
    """Its method speaks of a class that is made after it."""

    def takes(self, other: dict[str, Late] | None) -> Late | None:
        return next(iter((other or {}).values()), None)


class Late:
    """Made after the one that speaks of it."""


def test_classes_that_are_made_later_are_checked_too() -> None:
    takes = checked(Early.takes, typechecker=beartype)
    assert takes(Early(), {}) is None
    assert isinstance(takes(Early(), {"a": Late()}), Late)
    with pytest.raises(TypeError):
        takes(Early(), {"a": 3})


SHAPES = ["", "a", "b a", "a b", "a 3", "a a", "... a", "*more a", "a *more", "_ a", "#a b", "a+1", "2 3"]


@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.lists(st.integers(1, 3), max_size=3)), max_size=6))
def test_shapes_are_answered_as_jaxtyping_answers(asked: list[tuple[str, list[int]]]) -> None:
    """In one call, whatever has been seen there and elsewhere before."""
    answers = []
    for look in (fits, looked_at):
        with jaxtyped("context"):
            found = []
            for shape, sizes in asked:
                try:
                    found.append(look(Float[Tensor, shape], torch.zeros(sizes)))
                except AnnotationError as error:  # a sum of sizes that are not known yet
                    found.append(type(error))
            answers.append(found)
    assert answers[0] == answers[1]
