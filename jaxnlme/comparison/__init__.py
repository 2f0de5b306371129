"""Comparison of fits: information criteria, model averaging, likelihood ratio tests."""
