"""The command that lists runs."""

from __future__ import annotations

from pathlib import Path

from experiments.options import Root


def runs(root: Root = Path("runs")) -> None:
    """List the runs: variant, seed, status, last step, accuracy."""
    from circuits.common.text_table import as_text
    from experiments.runs.table import runs_table

    table = runs_table(root)
    if table.empty:
        print(f"no runs in {root}; train one with: valuestream train icl --variant value --preset small")
    else:
        print(as_text(table))
