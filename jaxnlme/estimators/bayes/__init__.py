"""Posterior distributions: NUTS and Pathfinder on the density of parameters, with the random effects or without."""
