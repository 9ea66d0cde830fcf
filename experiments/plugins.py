"""What others have added: modules that register kinds, variants and the like, found by name; and the script itself.

``valuestream --plugin MODULE`` imports a module before the command, and packages name theirs in the entry-point group
``valuestream.plugins``. Workers import the same again, as a registered kind is code, and no run directory holds code.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from circuits.common.errors import require
from circuits.common.families import SCRIPT, registered_by_script, registering_modules

GROUP = "valuestream.plugins"
_loaded: list[str] = []


def installed() -> dict[str, str]:
    """Return the modules that installed packages name, by the names of their entry points; none is imported."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def load_plugins(modules: Sequence[str] = (), packages: bool = True) -> None:
    """Import modules by name, and those that installed packages name where ``packages`` says so.

    Raises:
        ValueError: for one that cannot be imported, saying why.
    """
    for name in [*modules, *(installed().values() if packages else [])]:
        module, _, _ = name.partition(":")
        if module in _loaded:
            continue
        try:
            import_module(module)
        except Exception as error:  # what a module of others raises may be anything
            raise ValueError(
                f"the plugin {module!r} cannot be imported ({type(error).__name__}: {error}); it is the name of a "
                f"module in this directory or of an installed package, without .py"
            ) from error
        _loaded.append(module)


@dataclass(frozen=True)
class Additions:
    """What a worker must import to know what this process knows."""

    modules: tuple[str, ...] = ()
    script: str | None = None
    """The script that registered something itself: it runs again in the worker, under another name."""
    folders: tuple[str, ...] = ()
    """Where modules are looked for here, as a cluster's workers would look elsewhere."""

    @classmethod
    def here(cls) -> Additions:
        """Return the modules that registered something here, and the script where it did.

        Raises:
            ValueError: if the script has no guard, so that its sweep would begin again in every worker; or if there is
                no script, as at a prompt or in a notebook.
        """
        modules = tuple(dict.fromkeys((*_loaded, *registering_modules())))
        folders = tuple(str(Path(folder).resolve()) for folder in sys.path) if modules else ()
        if not registered_by_script():
            return cls(modules, None, folders)
        script = script_path()
        names = ", ".join(sorted(registered_by_script()))
        require(
            script is not None,
            f"{names}: registered at a prompt or in a notebook, which no worker can read; register in a module "
            f"and import it, or train in this process with workers=1",
        )
        assert script is not None
        require(
            has_guard(script),
            f"{script.name} registers {names}, and every worker runs it again to know that; put what trains under "
            f"'if __name__ == \"__main__\":', or register in a module of its own and import it",
        )
        return cls(modules, str(script), folders)

    def load(self) -> None:
        """Import the modules, and run the script as what it is not: the main one."""
        sys.path += [folder for folder in self.folders if folder not in sys.path]
        load_plugins(self.modules, packages=False)
        if self.script is None:
            return
        # Not the "__mp_main__" of the standard library's workers, to which imports of it give another meaning.
        main = ModuleType(SCRIPT)
        main.__file__ = self.script
        sys.modules[main.__name__] = main
        exec(compile(Path(self.script).read_bytes(), self.script, "exec"), main.__dict__)


def script_path() -> Path | None:
    """Return the file of the script that runs, or ``None`` at a prompt and in a notebook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve() if file and Path(file).is_file() else None


def has_guard(script: Path) -> bool:
    """Return whether a script tells whether it is the main one: ``if __name__ == "__main__":`` at its top level."""
    found = [node.test for node in ast.parse(script.read_text()).body if isinstance(node, ast.If)]
    return any(
        isinstance(test, ast.Compare) and "__name__" in ast.unparse(test) and "__main__" in ast.unparse(test)
        for test in found
    )
