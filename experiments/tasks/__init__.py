"""Tasks, theirs and what they share; :mod:`experiments.tasks.registry` has them by name."""
