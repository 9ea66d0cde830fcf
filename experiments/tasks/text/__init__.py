"""Text corpora as a task: documents, their tokens on the disk, windows of them."""
