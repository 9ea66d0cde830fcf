"""Values that show themselves: a line in a shell, a finding and the largest effects in a notebook, a table, a figure.

Every model, configuration, pair, task, run and result is one. What a user named stands in the page as text, never as
markup.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuits.common.screen import folded, in_notebook

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
else:
    Frame = Any

ROWS = 8
"""So many of the largest effects are shown."""


class Shown:
    """A value that shows itself; a kind of it says its :meth:`finding`, its :meth:`to_frame` and its :meth:`figure`."""

    @property
    def draws(self) -> bool:
        """Whether there is anything to draw."""
        return True

    def finding(self) -> str:
        """Return in one sentence what this is, or what was found."""
        raise NotImplementedError

    def to_frame(self) -> Frame:
        """Return everything as one tidy table (pandas)."""
        raise NotImplementedError

    def figure(self) -> Any:
        """Return everything as one drawing (a plotly figure)."""
        raise NotImplementedError

    def notes(self) -> Sequence[str]:
        """Return what a reader must know before the numbers are believed: one sentence each."""
        return ()

    def largest(self, n: int = ROWS) -> Frame:
        """Return the ``n`` rows of the table to look at first, and of its columns those that say what they are."""
        return self.to_frame().head(n)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.finding()}"

    def _repr_html_(self) -> str:
        notes = "".join(f'<p style="margin:.2em 0;color:#a33">&#9888; {html.escape(note)}</p>' for note in self.notes())
        name, said = html.escape(type(self).__name__), html.escape(self.finding())
        table = self.largest().to_html(
            index=False, border=0, justify="left", escape=True, na_rep="-", float_format=_number
        )
        return f'<div><p style="margin:.2em 0"><b>{name}</b>: {said}</p>{notes}{table}</div>'

    def show(self) -> None:
        """Display the finding, the largest effects and the figure; outside of a notebook, print the first two."""
        if in_notebook():
            from IPython.display import display

            display(self, *([self.figure()] if self.draws else []))
            return
        from circuits.common.text_table import as_text

        print("\n".join([folded(repr(self)), *(folded(f"! {note}") for note in self.notes()), as_text(self.largest())]))


def _number(value: float) -> str:
    return f"{value:.4g}"
