"""Visual predictive checks: observed statistics beside those of simulated data sets, as tables and pictures."""
