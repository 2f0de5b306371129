"""Curves that are often fitted to grouped data, as models with starting values from the data."""
