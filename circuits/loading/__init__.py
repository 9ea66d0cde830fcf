"""Models that others trained: one file a family, and the door that all of them are loaded by."""
