"""Solvers of differential equations as programs for forward mode."""
