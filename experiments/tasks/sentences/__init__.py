"""Sentences with slots: their words, templates filled for many texts at once."""
