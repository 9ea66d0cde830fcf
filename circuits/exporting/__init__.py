"""Models given back, in Hugging Face's layout: a wrapper for transformers, and what writes its folder."""
