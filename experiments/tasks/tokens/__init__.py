"""What tasks of tokens share: batches and measures."""
