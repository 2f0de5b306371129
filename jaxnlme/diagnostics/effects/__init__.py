"""Diagnostics of random effects and residuals: tests, shrinkage, outliers, conditional distributions."""
