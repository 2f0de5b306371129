"""Draws of a group's random effects given its responses: Markov kernels, and importance sampling."""
