"""Estimation methods, from a model and data to the record of a fit: starts, iterations, boundaries, convergence."""
