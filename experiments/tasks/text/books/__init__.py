"""Real books as a corpus: read from packages that hold them, kept in a folder, and a task of them."""
