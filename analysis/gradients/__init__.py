"""The gradient by route: the exact split, and its norms and cosines."""
