"""Figures of what was asked of a model."""
