"""Linear mixed models: the profiled likelihood, and its maximisation."""
