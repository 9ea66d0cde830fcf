"""All that is known of transformer-lens: its hook points, and what its tools read of a model."""
