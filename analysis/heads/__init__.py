"""What a head does: attention scores, copying, composition, progress measures."""
