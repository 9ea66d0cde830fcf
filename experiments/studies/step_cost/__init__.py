"""What a training step of every variant costs, and what it brings."""
