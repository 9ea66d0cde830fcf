"""Which heads and routes do it, before, within and after the transition."""
