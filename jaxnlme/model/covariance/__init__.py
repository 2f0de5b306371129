"""Covariance structures of the random effects."""
