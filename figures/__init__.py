"""Frames in, figures out; nothing is computed here that is not drawn."""

import runpy
from pathlib import Path

# Found by its place: an import of ``circuits`` may find another project's, which is what is checked here.
runpy.run_path(str(Path(__file__).parents[1] / "circuits" / "common" / "siblings.py"))
