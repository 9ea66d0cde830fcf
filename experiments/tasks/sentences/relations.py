"""Sentences that say who gave what to whom, inside each other, and the questions on them.

They are no part of ``vocabulary``, whose sentences are those of the stories and tell which grammar a run learned.
"""

from __future__ import annotations

QUESTIONS: dict[str, str] = {
    "giver": "Who gave the {O}?",
    "receiver": "Who got the {O}?",
    "object": "What did {N} give?",
}
"""The kinds of questions. A question follows its passage, and one word follows the question: the answer."""


def passage(depth: int) -> str:
    """Return the template of a passage with ``depth`` clauses in each other: ``{N0}``... give, ``{R}`` gets at last."""
    openings = ", to whom ".join(f"{{N{i}}}" for i in range(depth + 1))
    return openings + ",".join(f" gave the {{O{i}}}" for i in reversed(range(depth + 1))) + " to {R}."
