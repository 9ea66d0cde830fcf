"""Figures of how models learn."""
