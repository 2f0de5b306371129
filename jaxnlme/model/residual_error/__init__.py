"""Residual-error models, and outcomes with a log-likelihood of the user."""
