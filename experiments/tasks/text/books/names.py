"""The names of generated sentences among books: those of the stories to train on, and persons of the books held out."""

from __future__ import annotations

from experiments.tasks.sentences import vocabulary as words

NAMES = words.NAMES
HELD_OUT_NAMES = (
    *("Moses", "Abraham", "Saul", "Joshua", "Aaron", "Jacob", "Joseph", "Samuel", "Solomon", "Jonathan"),
    *("Elizabeth", "Emma", "Fanny", "Edmund", "Catherine", "Marianne", "Richard", "Brutus", "Hamlet", "Antony"),
)
"""Persons whom every model meets in the books, and in no generated sentence."""
