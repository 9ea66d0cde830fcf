"""Whether the packages beside this one are valuestream's: their names are common, and a project may have its own.

Each of the packages runs this file when it is imported, found by its place: ``circuits`` may be the foreign one.
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("circuits", "analysis", "experiments", "figures")
HERE = Path(__file__).parents[2]
"""The directory that holds them all."""


def check_siblings(ours: Path = HERE) -> None:
    """Check that an import would find each of the packages in ``ours``, or not at all; none is imported.

    Raises:
        ImportError: naming the folder or file that would be found instead, and what to do.
    """
    for name in PACKAGES:
        found = _found(name)
        if found is not None and found != ours / name and found.resolve() != (ours / name).resolve():
            raise ImportError(
                f"'import {name}' finds {found}, which is not the package {name!r} of valuestream (that is in {ours}). "
                f"Rename it, start Python in another directory, or put {ours} before it on sys.path",
                name=name,
                path=str(found),
            )


def _found(name: str) -> Path | None:
    """The folder of the package, or the file of the module, that an import of ``name`` gives; ``None`` for nothing."""
    try:
        spec = find_spec(name)
    except ValueError:
        # A module that was made by hand, and has no specification.
        return Path(f"a module {name!r} that was put into sys.modules")
    if spec is None:
        return None
    # A folder without __init__.py has no origin.
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0] if folders else spec.origin or f"a module {name!r} without a file")


check_siblings()
