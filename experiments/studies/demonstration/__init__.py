"""The demonstration: four variants, a few seeds, and what they say about information and gradient."""
