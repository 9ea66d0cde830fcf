"""Frames in, figures out; nothing is computed here that is not drawn."""
