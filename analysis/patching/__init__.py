"""Patching of sites: by hand-made forward passes that compute only what lies downstream."""
