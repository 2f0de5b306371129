"""From model and data to a Fit: the minimiser, starting values, boundaries and the verdict."""
