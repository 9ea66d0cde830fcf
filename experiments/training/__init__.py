"""Training: one run, several that share batches, stacked seeds, several processes."""
