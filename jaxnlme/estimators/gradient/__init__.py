"""Gradient training: mini-batches of groups, an optimiser of optax, and a polish over all groups."""
