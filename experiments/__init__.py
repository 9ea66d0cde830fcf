"""Tasks, training, runs and the command line."""
