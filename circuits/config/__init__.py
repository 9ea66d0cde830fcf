"""What a model is made of, as frozen values: its parts, and the streams between its layers."""
