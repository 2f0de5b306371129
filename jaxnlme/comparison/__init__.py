"""Comparison of fits: information criteria, nested models, model averaging."""
