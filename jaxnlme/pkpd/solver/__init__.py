"""Solver of differential equations from event to event, with partial derivatives of any order."""
