"""The words of all generated tasks, and the tokenizer of them."""

from __future__ import annotations

from typing import Any

from experiments.tasks.sentences import vocabulary as words
from experiments.tasks.sentences.relations import QUESTIONS, passage
from experiments.tasks.sentences.templates import words_of
from experiments.tasks.tokenizers import word_level


def vocabulary() -> list[str]:
    """Return every word of the generated tasks once, sorted."""
    stories = (*words.OPENINGS, *words.MIDDLES, *words.GIVING, *words.ENDINGS)
    indirect = (*words.TEMPLATES, *words.HELD_OUT_TEMPLATES, *(text for text, _, _ in words.PAPER_PROMPTS))
    nested = (passage(0), passage(1), *QUESTIONS.values())
    fillers = [text for texts in (*words.SLOTS.values(), *words.PRONOUNS.values()) for text in texts]
    return words_of([*stories, *indirect, *nested, *fillers, *words.GIRLS, *words.BOYS])


def plain_english() -> Any:
    """Return the word-level tokenizer of the generated tasks (:func:`experiments.tasks.tokenizers.word_level`)."""
    return word_level(vocabulary())
