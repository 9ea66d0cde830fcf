"""What made the frames that models were asked for: sources and runs, written down and held to what is there now.

Of a study's own folder these are the definitions that its asking reaches, so that tables and figures may change; of
``analysis`` and ``experiments.questions`` the modules that it imports, and the modules of ``analysis`` that such a
question imports. Comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from circuits.common.errors import require
from experiments.studies.committed_results import COMMITTED, Bundle, Made
from experiments.studies.configurations import Checked, Key
from experiments.studies.study import Study

ROOT = COMMITTED.parents[1]
"""What files are named relative to."""
ANALYSIS, QUESTIONS, STUDIES = "analysis", "experiments.questions", "experiments.studies"
NOT_KNOWN = "not known: made before this was written down"
Read = Callable[[str], str]
"""From the name of a module to its source."""


def checked_frames(bundle: Bundle, studies: Iterable[Study], declared: Mapping[str, set[Key]]) -> Iterator[Checked]:
    """Yield one row a frame that the bundle holds and a study asks for; one whose making was not written down is not
    stale, and it is said of it.

    ``declared`` are the arms of all experiments that are asked (:func:`experiments.studies.configurations.declared`).
    """
    for study in studies:
        if not (asking := study.asking):
            continue
        there = [frame for frame in asking.frames if bundle.has(frame)]
        asked = {key[-1] for experiment in asking.experiments for key in declared[experiment.name]}
        now = sources_of(asking.compute) if any(frame in bundle.made for frame in there) else {}
        for frame in there:
            made = bundle.made.get(frame)
            why = NOT_KNOWN if made is None else _stale(made, now, asked)
            yield "frame", frame, why in ("", NOT_KNOWN), why


def _stale(made: Made, now: Mapping[str, str], asked: set[str]) -> str:
    """Why a frame is not what would be made now; nothing if it is."""
    then = made["sources"]
    if changed := sorted(name for name in {*then, *now} if then.get(name) != now.get(name)):
        return f"stale: {', '.join(changed)} {'is' if len(changed) == 1 else 'are'} not what made it"
    gone = sorted({*made["runs"]} - asked)
    return f"stale: it is of the runs {', '.join(gone)}, which are no longer asked" if gone else ""


def source(module: str) -> str:
    """Return the source of a module, as it is on the disk."""
    return _file(module).read_text("utf-8")


def sources_of(compute: Callable[..., Any], read: Read = source) -> dict[str, str]:
    """Return a digest of every source that makes what a function of a study computes, by its path from the root of the
    project.

    The function is one of a module's own, or a partial of it; ``read`` gives the sources.
    """
    while isinstance(compute, partial):
        compute = compute.func
    module = compute.__module__
    folder = module.rpartition(".")[0]
    own = module if folder in ("", STUDIES) else folder

    @cache
    def of(name: str) -> _Source:
        return _Source(read(name))

    reached: dict[str, set[str]] = defaultdict(set)
    others: set[str] = set()
    waiting = [(module, compute.__name__)]
    while waiting:
        there, name = waiting.pop()
        if _within(there, own) and name in of(there).defined and name not in reached[there]:
            reached[there].add(name)
            waiting += [(there, used) for used in of(there).uses(name)]
            waiting += [pair for used in of(there).uses(name) for pair in of(there).imported[used]]
        elif _within(there, own) and _is_module(there, name):
            waiting += [(f"{there}.{name}", each) for each in of(f"{there}.{name}").defined]
        elif _within(there, ANALYSIS, QUESTIONS):
            others.add(_defining(there, name))
    for question in [other for other in others if _within(other, QUESTIONS)]:
        imported = [pair for pairs in of(question).imported.values() for pair in pairs]
        others |= {_defining(*pair) for pair in imported if _within(pair[0], ANALYSIS)}
    texts = {name: of(name).only(names) for name, names in reached.items()} | {name: of(name).text for name in others}
    return {_named(name): hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in sorted(texts.items())}


class _Source:
    """A module's source without what may change: its text, its definitions, and what is imported anywhere in it."""

    def __init__(self, text: str):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [part for part in body if not _is_words(part)] or [ast.Pass()]  # type: ignore[attr-defined] # it has one
        # Not ``ast.dump``, whose form changes with Python.
        self.text = ast.unparse(tree)
        self.defined: dict[str, list[ast.stmt]] = defaultdict(list)
        self.imported: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for node in tree.body:
            for name in _names(node):
                self.defined[name].append(node)
        whole: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for part in node.names:
                    self.imported[part.asname or part.name].append((node.module, part.name))
            elif isinstance(node, ast.Import):
                whole |= {part.asname or part.name: part.name for part in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in whole:
                self.imported[node.value.id].append((whole[node.value.id], node.attr))

    def only(self, names: Iterable[str]) -> str:
        """The text of some definitions."""
        return "\n".join(ast.unparse(node) for name in sorted(names) for node in self.defined[name])

    def uses(self, name: str) -> set[str]:
        """The names in a definition."""
        nodes = [part for node in self.defined[name] for part in ast.walk(node)]
        imported = {alias.asname or alias.name for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names}
        return imported | {node.id for node in nodes if isinstance(node, ast.Name)}


def _names(node: ast.stmt) -> list[str]:
    """What a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [part.id for target in targets if target for part in ast.walk(target) if isinstance(part, ast.Name)]


def _is_words(node: ast.stmt) -> bool:
    """Whether it is a docstring, or a string below what it tells of."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _is_module(package: str, name: str) -> bool:
    """Whether a package has a module of that name; nothing is imported for it but what the package lies in."""
    file = _file(package)
    there = file.parent / f"{name}.py", file.parent / name / "__init__.py"
    return file.name == "__init__.py" and any(path.is_file() for path in there)


def _defining(module: str, name: str) -> str:
    """The module in which a name is defined that is imported from a module or a package."""
    if _is_module(module, name):
        return f"{module}.{name}"
    if _file(module).name != "__init__.py":
        return module
    return getattr(getattr(import_module(module), name), "__module__", module)


def _file(module: str) -> Path:
    spec = find_spec(module)
    require(spec is not None and spec.origin is not None, f"the module {module} is no file, so its source is not known")
    return Path(str(spec and spec.origin))


def _named(module: str) -> str:
    """What the file of a module is called; one that is not of the project by the module's name."""
    file = _file(module).resolve()
    return file.relative_to(ROOT.resolve()).as_posix() if file.is_relative_to(ROOT.resolve()) else module
