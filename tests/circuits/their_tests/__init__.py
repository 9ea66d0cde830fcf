"""transformer-lens' own tests of hooks, caches and patching, run on a model of ours."""
