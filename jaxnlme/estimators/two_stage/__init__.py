"""Fits of single groups, and the population values that follow from them."""
