"""How Sphinx makes the site of what ``sources.py`` gathers. Nothing is fetched, by the build or by a page."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

_PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
author = _PROJECT["authors"][0]["name"]
release = _PROJECT["version"]
html_title = f"{project} {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

# The pages are also read where no extension of Markdown is known; a dollar is a dollar there.
myst_enable_extensions: list[str] = []
myst_heading_anchors = 4
# Notebooks are shown with the outputs that they are committed with. Widgets would be drawn by scripts from elsewhere.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
# The text below a search's results is fetched, which browsers refuse to pages that are opened from the disk.
html_show_search_summary = False


def absolute_values(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Show ``|x|`` in a docstring as it is written; Sphinx would look for a text of that name."""
    parts = re.split(r"(``.*?``)", "\n".join(lines), flags=re.DOTALL)
    lines[:] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts).split("\n")


_SAID: dict[str, list[str]] = {}


def keep(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep what is said of a field, in which napoleon reads a colon as one after a type."""
    if what in ("attribute", "data", "property"):
        _SAID[name] = list(lines)


def give_back(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Say of a field what was said of it."""
    lines[:] = _SAID.pop(name, lines)


def setup(app: Any) -> None:
    """Attach what is done to docstrings before and after napoleon, whose priority is 500, finds sections in them."""
    for change, priority in ((absolute_values, 300), (keep, 400), (give_back, 600)):
        app.connect("autodoc-process-docstring", change, priority=priority)
