"""Algebra, search, quadrature and implicit derivatives, which know nothing of mixed models."""
