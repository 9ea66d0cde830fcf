"""Indirect-object identification: its prompts, and the task that they make in the tokens of a tokenizer."""
