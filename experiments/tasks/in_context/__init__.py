"""In-context classification."""
