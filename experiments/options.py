"""Options that several commands have, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Root = Annotated[Path, arg(help="where run directories are kept")]
RunNames = Positional[
    Annotated[tuple[str, ...], arg(help="one run or more: directories, names, ids, or how one of them begins")]
]
Device = Annotated[str, arg(help="cpu or cuda")]
Workers = Annotated[int | None, arg(help="processes, each with runs of its own (default: one a core)")]
Extent = Annotated[Literal["full", "miniature"], arg(help="all seeds, or fewer and nothing at the paper's size")]
BundlePath = Annotated[
    Path | None,
    arg(help="directory of committed results (default: those of the checkout; an installed copy's are only read)"),
]
Roots = Annotated[tuple[Path, ...], arg(help="directories with runs")]
