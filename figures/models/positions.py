"""What stands at a position, as a label: its number, which makes it the only one of its name, and its token."""

from __future__ import annotations

import html

LONGEST = 20
"""Characters of a token that a label shows."""


def label(position: int | str, token: str) -> str:
    """Return the label of a position, in which a token is text and never markup."""
    shown = token.strip() or (repr(token) if token else "")
    shown = shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"
    return html.escape(f"{position}: {shown}" if shown else str(position), quote=False)
