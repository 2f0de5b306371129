"""Generalised linear mixed models by formula, as models of the general engine."""
