"""How often and on how much runs are evaluated where their configurations do not say; stored ones leave it out."""

ICL_EVERY, ICL_SEQUENCES = 500, 10_000
"""Steps between two evaluations of the in-context classifier, and sequences in every set."""
LM_EVERY, LM_WINDOWS, LM_QUESTIONS = 100, 128, 100
"""Likewise of language models: windows of the validation loss, prompts in every set of questions."""
