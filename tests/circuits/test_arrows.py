"""Arrows between the files and folders of circuits point one way: at no level do imports make a circle."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import circuits

ROOT = Path(circuits.__file__).parent
FOLDERS = [ROOT, *(path.parent for path in sorted(ROOT.glob("*/__init__.py")))]


def imports(path: Path) -> set[tuple[str, ...]]:
    """The files and folders of circuits that a file imports, wherever in it, as parts of their paths."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "circuits":
            found |= {tuple(f"{node.module}.{alias.name}".split(".")[1:]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "circuits"}
    return found


def arrows(folder: Path) -> dict[str, set[str]]:
    """What each file or folder of a folder imports of the others."""
    here, found = folder.relative_to(ROOT).parts, dict[str, set[str]]()
    for path in folder.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        name = path.relative_to(folder).with_suffix("").parts[0]
        of_here = {parts[len(here)] for parts in imports(path) if parts[: len(here)] == here}
        found.setdefault(name, set()).update(of_here - {name})
    return found


def has_circle(graph: Mapping[str, set[str]]) -> bool:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_imports_make_no_circle(folder: Path) -> None:
    graph = arrows(folder)
    assert graph
    assert not has_circle(graph), graph


def test_a_circle_would_be_seen() -> None:
    graph = arrows(ROOT)
    assert "config" in graph["model"]
    assert has_circle({**graph, "config": {*graph["config"], "model"}})


def test_common_and_config_stand_below_all_else() -> None:
    graph = arrows(ROOT)
    assert graph["common"] == set()
    assert graph["config"] == {"common"}
