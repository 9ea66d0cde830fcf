"""Mixing rules: how a stream is added and gated, and the named rules with their sources."""
