"""Questions to a run: asked, printed, drawn."""
