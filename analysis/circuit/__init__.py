"""Circuits: found from scores, judged, and followed over checkpoints."""
