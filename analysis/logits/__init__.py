"""What adds up to the logits: of every component, by every route."""
