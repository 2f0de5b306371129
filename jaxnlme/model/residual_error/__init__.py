"""Residual models and outcomes."""
