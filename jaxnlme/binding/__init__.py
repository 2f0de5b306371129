"""Binding of a model to data, and the placement of the groups on devices."""
