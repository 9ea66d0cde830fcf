"""How Sphinx makes the site of what ``sources.py`` gathers. Nothing is fetched, by the build or by a page."""

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
author = _PROJECT["authors"][0]["name"]
release = _PROJECT["version"]
html_title = f"{project} {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns: list[str] = []

# READMEs are read by GitHub, too: headings are what links name, and a dollar is a dollar.
myst_enable_extensions: list[str] = []
myst_heading_anchors = 4
# Notebooks are shown with the outputs that they are committed with. Widgets would be drawn by scripts from elsewhere.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
# The text below a search's results is fetched, which browsers refuse to pages that are opened from the disk.
html_show_search_summary = False
