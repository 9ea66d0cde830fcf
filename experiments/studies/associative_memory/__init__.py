"""The associative memory against the paper, and which of its scales is best by task."""
